"""One living sandbox in which people and agents take turns."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from live_story import Story
from story import bash, cells, python, reply, shown, submit

from lis_kernel.agent import Agent, events
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.config import Budget, Limits
from lis_kernel.errors import SandboxBusy
from lis_kernel.types import StopReason, Task

pytestmark = pytest.mark.bwrap


@pytest.fixture
async def shared() -> AsyncIterator[SharedSandbox]:
    made = SharedSandbox("mine", limits=Limits(grace_seconds=3.0))
    try:
        yield made
    finally:
        await made.stop()


async def test_people_and_agents_take_turns_in_one_sandbox(tmp_path: Path, shared) -> None:
    got: list[tuple[str, dict[str, Any]]] = []
    await shared.execute(
        "from IPython.display import display, clear_output\n"
        "data = [1, 2]; print('a'); shown = display(1, display_id='d'); shown.update(2)\n"
        "clear_output(wait=True); data",
        on_message=lambda kind, content: got.append((kind, content)),
    )
    kinds = [kind for kind, _ in got]
    assert kinds == [
        "stream",
        "display_data",
        "update_display_data",
        "clear_output",
        "execute_result",
    ]
    assert got[1][1]["transient"] == got[2][1]["transient"] == {"display_id": "d"}
    one = Story(tmp_path, reply(python("data.append(3); total = sum(data)")), reply(submit("6")))
    one.agent = Agent(one.agent.config, out=tmp_path, model=one.model, shared=shared)
    one.begin("Add up.")
    first = await one.end()
    assert first.answer == "6"
    assert shared.alive and shared.busy is None
    assert (await shared.execute("total")).outputs[0]["data"]["text/plain"] == "6"
    two = Story(tmp_path, reply(python("print(total)")), reply(text="I do not know."), reply())
    two.agent = Agent(
        two.agent.config.model_copy(update={"budget": Budget(turns=2)}),
        out=tmp_path,
        model=two.model,
        shared=shared,
    )
    two.begin("And now?", history=one.agent.messages, continues=first.path.parent.name)
    second = await two.end()
    assert second.answer is None, "the answer of the first task is none of the second's"
    assert second.metadata["continues"] == first.path.parent.name
    assert "6" in shown(two.model, 1)[0]
    texts = [m.text for m in two.model.prompts[0] if m.role == "user"]
    assert texts == ["Add up.", "And now?"]
    sources = [c["source"] for c in cells(second, "earlier")]
    assert len(sources) == 3 and "data.append" in sources[1] and sources[2] == "total"
    names = [c["id"] for c in second.notebook["cells"]]
    assert len(set(names)) == len(names)


async def test_an_answer_is_no_later_task_s(tmp_path: Path, shared) -> None:
    for answer, replies in (("6", [reply(submit("6"))]), (None, [reply(bash("echo"))])):
        story = Story(tmp_path, *replies)
        config = story.agent.config.model_copy(update={"budget": Budget(turns=1)})
        story.agent = Agent(config, out=tmp_path, model=story.model, shared=shared)
        story.begin()
        assert (await story.end()).answer == answer


async def test_a_run_that_could_not_begin_has_no_earlier_ones_answer(
    tmp_path: Path, shared
) -> None:
    one = Story(tmp_path, reply(submit("6")), shared=shared)
    one.begin()
    assert (await one.end()).answer == "6"
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    two = Story(tmp_path, reply(submit("7")), shared=shared)
    task = Task(prompt="Go on.", files=(tmp_path / "folder",))
    trajectory = await two.agent.arun(task)
    assert (trajectory.stop_reason, trajectory.answer) == (StopReason.SANDBOX_ERROR, None)
    assert "neither a file nor a folder" in trajectory.detail
    assert (await shared.execute("%%bash\nls input")).outputs == ()


async def test_files_that_a_run_did_not_touch_are_none_of_its(tmp_path: Path, shared) -> None:
    out = "/testbed/output"
    await shared.execute(f"%%bash\necho mine > {out}/mine.txt; echo 1 > {out}/both.txt")
    taken = []
    for made in ("a", "b"):
        call = bash(f"echo {made} > {out}/{made}.txt; echo {made} >> {out}/both.txt")
        story = Story(tmp_path, reply(call), reply(submit("1")), shared=shared, listen=True)
        await asyncio.sleep(0.05)  # a file's time is that of the last tick
        story.begin()
        trajectory = await story.end()
        taken.append({path.name: path.read_text().rstrip() for path in trajectory.files})
        listed = [event.files for event in story.seen if isinstance(event, events.OutputFiles)]
        assert {name for name, _ in listed[-1]} == {f"{made}.txt", "both.txt"}
    assert taken == [
        {"a.txt": "a", "both.txt": "1\na", "answer.txt": "1"},
        {"b.txt": "b", "both.txt": "1\na\nb", "answer.txt": "1"},
    ]


async def test_a_sandbox_that_is_stopped_ends_its_cell(shared) -> None:
    await shared.start()
    cell = asyncio.create_task(shared.execute("import time; time.sleep(60)"))
    await asyncio.sleep(0.5)
    await shared.stop()
    async with asyncio.timeout(10):
        assert (await cell).status == "died"
    assert shared.cells == [], "a new one begins without it"


async def test_a_cell_that_was_given_up_is_remembered(shared) -> None:
    source = "x = 1; print('a', flush=True); import time; time.sleep(60)"
    begun = asyncio.Event()
    work = shared.execute(source, on_message=lambda *_: begun.set())
    cell = asyncio.create_task(work)
    async with asyncio.timeout(20):
        await begun.wait()
        cell.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cell
    (kept,) = shared.cells
    assert kept["source"] == source and kept["outputs"][0]["text"] == "a\n"
    assert "skip-execution" in kept["metadata"]["tags"]
    assert (await shared.execute("print(x)")).outputs[0]["text"] == "1\n"


async def test_one_at_a_time(tmp_path: Path, shared, monkeypatch) -> None:
    monkeypatch.setattr("lis_kernel.agent.shared.PATIENCE_SECONDS", 0.2)
    await shared.start()
    cell = asyncio.create_task(shared.execute("import time; time.sleep(2)"))
    await asyncio.sleep(0.3)
    story = Story(tmp_path, reply(submit("1")))
    story.agent = Agent(story.agent.config, out=tmp_path, model=story.model, shared=shared)
    for work in (shared.execute("1"), story.agent.arun(Task(prompt="Do it."))):
        with pytest.raises(SandboxBusy):
            await work
    assert (await cell).status == "ok"
    await shared.execute("open('kept', 'w').close(); x = 1")
    await shared.restart()
    result = await shared.execute("import os; print(os.path.exists('kept'), 'x' in globals())")
    assert result.outputs[0]["text"] == "False False\n"


async def test_large_outputs_are_kept_in_the_trajectory_of_their_own_run_alone(shared) -> None:
    await shared.execute("print('x' * 200_000)")
    (kept,) = shared.cells
    assert "are not repeated here" in kept["outputs"][0]["text"]
