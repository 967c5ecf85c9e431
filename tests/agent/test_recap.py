"""Who comes late to a run is told what those heard who were there: at every moment, and no more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from live_story import Story, pause_at
from story import bash, python, reply, submit

from lis_kernel.agent import events, remote
from lis_kernel.agent.recap import CHARS, ENTRIES, Entry, recap
from lis_kernel.kernel.outputs import Shown
from lis_kernel.trajectory.notebook import code_cell, markdown_cell

STEPS = "import time\nfor n in range(3): print(n, flush=True); time.sleep(0.3)\ndisplay(n)\n1 / 0"


def heard(told: list[events.Event]) -> list[tuple[str, str]]:
    """What a follower knows who heard all of this, notes of ours left out."""
    known: list[tuple[str, str]] = []
    streamed: dict[str, str] = {}
    cell: Shown | None = None

    def printed() -> list[tuple[str, str]]:
        text = "".join(words(output) for output in cell.outputs) if cell else ""
        return [("output", text)] if text else []

    for event in told:
        match event:
            case events.TextStreamed(channel, text):
                streamed[channel] = streamed.get(channel, "") + text
            case events.ReplyFinished(answer, said):
                streamed.clear()
                known += [(k, t) for k, t in (("thought", answer.reasoning), ("said", said)) if t]
            case events.CallStarted(_, source):
                cell = Shown()
                known.append(("code", source))
            case events.HumanStarted(source):
                cell = Shown()
                known.append(("human", source))
            case events.CallOutput(kind, content) if cell is not None:
                cell.feed(kind, content)
            case events.CallFinished(result) | events.HumanFinished(result):
                kind = "done" if result.status == "ok" else "failed"
                known += [*printed(), (kind, f"{result.status} {result.seconds:.2f} s")]
                cell = None
            case events.Said(text):
                known.append(("note", f"told: {text}"))
    known += printed()
    return known + [
        (kind, streamed[channel])
        for channel, kind in (("reasoning", "thought"), ("text", "said"))
        if channel in streamed
    ]


def words(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}\n"
    return f"{output['data']['text/plain']}\n"


@pytest.mark.bwrap
async def test_at_every_moment_of_a_run(tmp_path: Path) -> None:
    story = Story(
        tmp_path,
        reply(
            python(STEPS),
            bash("echo one; exit 3"),
            text="I look. " * 9 + "So.",
            reasoning="Hm. " * 9,
        ),
        reply(text="And so?"),
        reply(bash("echo three"), submit("2"), text="Done."),
        listen=True,
    )
    compared: list[list[tuple[str, str]]] = []
    differs: list[tuple[object, object]] = []

    def compare() -> None:
        listener = story.agent._run and story.agent._run.listener
        if listener is None:
            return
        told = [(one.kind, one.text) for one in listener._recap()]
        known = [(kind, text) for kind, text in told if kind != "note" or text[:5] == "told:"]
        if known != heard(story.seen):
            differs.append((known, heard(story.seen)))
        compared.append(told)

    def hear(event: events.Event) -> None:
        if isinstance(event, events.CallFinished):
            story.on_event = late
            story.agent.pause()
        late(event)

    def late(event: events.Event) -> None:
        asyncio.get_running_loop().call_soon(compare)

    story.on_event = hear
    story.begin()
    await story.until(events.Paused)
    await story.agent.run_cell("7 * 6")
    story.agent.say("Be quick.")
    story.agent.resume()
    await story.end()
    assert differs == []
    assert len(compared) > 20
    kinds = {kind for told in compared for kind, _ in told}
    assert kinds == {"thought", "said", "code", "human", "output", "done", "failed", "note"}
    assert any(told[-1:] == [("output", "0\n1\n")] for told in compared)
    assert any(kind == "note" and "No tool was called" in text for kind, text in compared[-1])


@pytest.mark.bwrap
async def test_a_late_follower_hears_the_rest(tmp_path: Path) -> None:
    story = Story(tmp_path, reply(python(STEPS)), reply(submit("1")), listen=True)
    pause_at(story, events.CallOutput)
    story.begin()
    await story.until(events.CallOutput)
    (live,) = remote.live_runs()
    got: list[dict[str, Any]] = []

    async def watch() -> None:
        async for event in remote.follow(live):
            got.append(event)

    watching = asyncio.create_task(watch())
    await story.until(events.Paused)
    assert "recap" not in await remote.ask(live, "status")
    story.agent.resume()
    await story.end()
    await asyncio.wait_for(watching, 5)
    code, printed = got[0]["recap"]
    assert code == {"kind": "code", "text": STEPS}
    assert printed == {"kind": "output", "text": "0\n"}
    names = [event["event"] for event in got[1:]]
    assert names[0] == "call_output" and names.index("call_finished") < names.index("call_started")
    assert "0\n1" not in json.dumps(got[1])


def test_it_is_short() -> None:
    long = markdown_cell("a", "### Turn 1\n\n*cost*\n\n" + "x" * 9000 + "end", kind="turn", turn=1,
                         reply={"reasoning": ""})  # fmt: skip
    (only,) = recap([long])
    assert only.kind == "said" and len(only.text) == CHARS + 2
    assert only.text[:3] == "… x" and only.text[-3:] == "end"
    done = code_cell("b", "1", kind="call", status="ok", seconds=0.5)
    done["outputs"] = [{"output_type": "display_data", "data": {"image/png": "…"}, "metadata": {}}]
    running = code_cell("c", "2", kind="human")
    told = recap([long, *[done] * 200], running, done["outputs"])
    assert len(told) == ENTRIES
    assert [one.kind for one in told[-5:]] == ["code", "output", "done", "human", "output"]
    assert told[-1] == Entry(kind="output", text=" [image/png]\n")
    assert told[-3].text == "ok 0.50 s"
    assert recap([]) == []
