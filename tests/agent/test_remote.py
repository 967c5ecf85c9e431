"""A live run is reached from other processes: by its socket, and by a kernel's door."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from live_story import Story, pause_at
from story import bash, cells, python, reply, submit

from lis_kernel.agent import events, listener, remote
from lis_kernel.errors import ConfigError, TrajectoryError
from lis_kernel.trajectory import load
from lis_kernel.types import StopReason

pytestmark = pytest.mark.bwrap


@contextlib.asynccontextmanager
async def at_the_door(facts: dict[str, Any]) -> AsyncIterator[AsyncKernelClient]:
    """A Jupyter client of a run that was asked to `attach`."""
    client = AsyncKernelClient(connection_file=facts["connection_file"])
    client.load_connection_file()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=20)
        yield client
    finally:
        client.stop_channels()


async def test_another_process_watches_pauses_speaks_and_stops(tmp_path: Path) -> None:
    story = Story(
        tmp_path,
        reply(bash("sleep 1; echo hi > /testbed/output/a.txt")),
        reply(bash("echo two")),
        reply(bash("echo three")),
        listen=True,
    )
    story.begin("Watch me.")
    await story.until(events.CallStarted)
    (live,) = remote.live_runs()
    assert (live.task, live.model) == ("Watch me.", "scripted:replies")
    assert remote.find() == remote.find(live.id) == remote.find(live.id[:16]) == live
    assert remote.find(str(Path(live.path).parent)) == live
    with pytest.raises(ConfigError, match="no live run"):
        remote.find("nope")
    heard: list[dict[str, Any]] = []

    async def watch() -> None:
        async for event in remote.follow(live):
            heard.append(event)

    watching = asyncio.create_task(watch())
    assert (await remote.ask(live, "pause"))["state"] == "pausing"
    await story.until(events.Paused)
    status = await remote.ask(live, "status")
    assert (status["state"], status["turns"]) == ("paused", 1)
    assert status["files"] == [["a.txt", 3]]
    await remote.ask(live, "say", text="Be quick.")
    with pytest.raises(ConfigError, match="refused"):
        await remote.ask(live, "dance")
    await remote.ask(live, "resume")
    await story.until(events.Said)
    await remote.ask(live, "stop")
    trajectory = await story.end()
    assert trajectory.stop_reason is StopReason.INTERRUPTED
    await asyncio.wait_for(watching, 5)
    names = [event["event"] for event in heard]
    assert names[0] == "status" and names[-1] == "run_ended"
    assert {"paused", "resumed", "said", "output_files"} <= set(names)
    assert remote.live_runs() == []
    with pytest.raises(ConfigError, match="has ended"):
        await remote.ask(live, "status")


async def test_who_does_not_read_is_left_and_takes_no_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(listener, "BEHIND_BYTES", 200_000)
    flood = python("for n in range(20): display('x' * 20_000)")
    story = Story(tmp_path, reply(bash("true")), reply(flood), reply(submit("1")), listen=True)
    pause_at(story, events.CallStarted)
    story.begin()
    await story.until(events.Paused)
    (live,) = remote.live_runs()
    reader, writer = await asyncio.open_unix_connection(live.socket)
    writer.write(b'{"do": "events"}\n')
    assert b'"state"' in await reader.readline()
    followers = story.agent._run.listener._followers  # type: ignore[union-attr]
    (follower,) = followers
    story.agent.resume()
    await story.until(events.RunEnded)
    assert not followers and follower._lines.qsize() <= 1
    assert (await story.end()).answer == "1"
    writer.close()


async def test_who_falls_behind_goes_on_with_what_happened_meanwhile(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(listener, "BEHIND_BYTES", 50_000)
    monkeypatch.setattr(remote, "LINE_BYTES", 50_000)  # a reader takes twice as much unasked
    flood = python("for n in range(100): display('x' * 20_000)\nprint('last words')")
    slow = python("import time; time.sleep(3)")
    story = Story(tmp_path, reply(flood), reply(slow), reply(submit("1")), listen=True)
    heard: list[dict[str, Any]] = []
    reading = asyncio.Event()

    async def watch() -> None:
        async for event in remote.follow(live):
            heard.append(event)
            await reading.wait()

    story.begin()
    await story.until(events.TurnStarted)
    live = remote.find()
    watching = asyncio.create_task(watch())
    await story.until(events.CallFinished)
    followers = story.agent._run.listener._followers  # type: ignore[union-attr]
    assert not followers and [event["event"] for event in heard] == ["status"]
    reading.set()
    assert (await story.end()).answer == "1"
    await asyncio.wait_for(watching, 10)
    names = [event["event"] for event in heard]
    assert names.count("status") == 2 and names[-1] == "run_ended" and "behind" not in names
    again = heard[len(names) - 1 - names[::-1].index("status")]
    assert "last words" in str(again["recap"])


async def test_a_run_that_is_followed_ends_without_a_fault(tmp_path: Path) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    story = Story(tmp_path, reply(bash("sleep 1")), reply(submit("1")), listen=True)
    story.begin()
    await story.until(events.CallStarted)
    live = remote.find()
    idle = await asyncio.open_unix_connection(live.socket)  # and one that only looks

    async def watch() -> str:
        return [event["event"] async for event in remote.follow(live)][-1]

    watching = asyncio.create_task(watch())
    await story.until(events.CallFinished)
    served = story.agent._run.listener._connected  # type: ignore[union-attr]
    assert len(served) == 2
    idle[1].write(b'{"do": "status"}\n')
    assert b'"running"' in await idle[0].readline()
    await story.end()
    assert await watching == "run_ended" and not served
    assert await idle[0].read() == b""
    idle[1].close()
    assert faults == []


async def test_a_run_whose_folder_goes_is_over_all_the_same(tmp_path: Path) -> None:
    story = Story(tmp_path, reply(bash("sleep 1")), reply(submit("1")), listen=True)
    story.begin()
    await story.until(events.CallStarted)
    shutil.rmtree(Path(remote.find().path).parent)
    with pytest.raises(TrajectoryError, match="cannot be written"):
        await story.run
    ended = await story.until(events.RunEnded)
    assert ended.stop_reason is StopReason.SANDBOX_ERROR and "cannot be written" in ended.detail
    assert remote.live_runs() == [] and story.agent.state == "idle"
    assert story.agent.messages, "one may go on with the conversation"


async def test_to_resume_is_said_at_once(tmp_path: Path) -> None:
    story = Story(tmp_path, *[reply(bash("true"))] * 3, reply(submit("1")), listen=True)
    pause_at(story, events.CallStarted)
    story.begin()
    await story.until(events.Paused)
    live = remote.find()
    assert (await remote.ask(live, "resume"))["state"] == "running"
    story.agent.pause()
    story.agent.resume()
    story.agent.pause()
    async with asyncio.timeout(20):
        while story.agent.state != "paused":
            await asyncio.sleep(0.01)
    assert (await story.agent.run_cell("1")).status == "ok"
    story.agent.resume()
    assert (await story.end()).answer == "1"
    kinds = [type(event) for event in story.seen]
    assert kinds.count(events.Paused) == kinds.count(events.Resumed) > 1


def test_records_that_others_could_have_written_are_none(runtime: Path) -> None:
    folder = runtime.with_name(f"{runtime.name}-runs")
    folder.mkdir(mode=0o700)
    try:
        folder.chmod(0o777)
        record = folder / "x.json"
        record.write_text("{}")
        assert not remote._ours(folder) and remote.live_runs() == []
        folder.chmod(0o700)
        assert remote._ours(folder)
        record.unlink()
    finally:
        folder.rmdir()


async def test_a_run_that_cannot_listen_runs_all_the_same(tmp_path: Path, runtime: Path) -> None:
    runtime.with_name(f"{runtime.name}-runs").write_text("in the way")
    story = Story(tmp_path, reply(submit("1")), listen=True)
    story.begin()
    assert (await story.end()).answer == "1"
    assert "cannot reach this run" in (await story.until(events.Note)).text
    runtime.with_name(f"{runtime.name}-runs").unlink()


async def test_a_jupyter_client_joins_through_the_door(tmp_path: Path) -> None:
    story = Story(
        tmp_path,
        reply(python("x = 20")),
        reply(python("bar = display(0, display_id='bar'); bar.update(x); print('seen', x)")),
        reply(submit("1")),
        listen=True,
    )
    pause_at(story, events.CallStarted)
    story.begin()
    await story.until(events.Paused)
    (live,) = remote.live_runs()
    facts = await remote.ask(live, "attach")
    assert facts == await remote.ask(live, "attach")
    async with at_the_door(facts) as client:
        texts: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            texts.append(content.get("text") or content.get("evalue") or "")

        answer = await client.execute_interactive("x += 1; print(x)", output_hook=hear, timeout=20)
        assert answer["content"]["status"] == "ok" and "21\n" in texts
        answer = await client.execute_interactive("1/0", output_hook=hear, timeout=20)
        assert answer["content"]["ename"] == "ZeroDivisionError" and "division by zero" in texts
        shown_: list[dict[str, Any]] = []
        answer = await client.execute_interactive(
            "from IPython.display import HTML, Javascript, display\n"
            "display(HTML('<b>x</b><script>alert(1)</script>'), Javascript('alert(1)'))\n"
            "print('\x1b]0;title\x07y')",
            output_hook=lambda message: shown_.append(message["content"]),
            timeout=20,
        )
        assert "<b>x</b>" in str(shown_) and "y" in [one.get("text", "")[:1] for one in shown_]
        assert "<script" not in str([one.get("data") for one in shown_])
        assert not {"application/javascript"} & {m for one in shown_ for m in one.get("data", ())}
        msg_id = client.complete("impor")
        reply_ = await client.get_shell_msg(timeout=20)
        assert reply_["parent_header"]["msg_id"] == msg_id
        assert "import" in reply_["content"]["matches"]
        client.execute("import time\nwhile True: time.sleep(0.1)")
        await asyncio.sleep(0.5)
        interrupt = client.session.msg("interrupt_request", {})
        client.control_channel.send(interrupt)
        answer = await client.get_shell_msg(timeout=20)
        assert answer["content"]["ename"] == "KeyboardInterrupt"
        client.shutdown()  # closes nothing
        await asyncio.sleep(0.2)
        await remote.ask(live, "resume")
        others: list[dict[str, Any]] = []
        while not others or others[-1]["content"].get("text") != "seen 21\n":
            others.append(await client.get_iopub_msg(timeout=20))
        moved = next(one for one in others if one["msg_type"] == "update_display_data")["content"]
        assert (moved["data"]["text/plain"], moved["transient"]["display_id"]) == ("21", "bar")
    trajectory = await story.end()
    assert trajectory.answer == "1"
    sources = [c["source"] for c in cells(trajectory, "human")]
    assert sources[:2] == ["x += 1; print(x)", "1/0"] and len(sources) == 4
    assert not Path(facts["connection_file"]).exists()
    assert load(trajectory.path).verify()


async def test_a_cell_at_the_door_is_answered_when_the_run_is_stopped(tmp_path: Path) -> None:
    story = Story(tmp_path, reply(bash("true")), reply(submit("1")), listen=True)
    pause_at(story, events.CallStarted)
    story.begin()
    await story.until(events.Paused)
    facts = await remote.ask(remote.find(), "attach")
    async with at_the_door(facts) as client:
        client.execute("import time; time.sleep(60)")
        await story.until(events.HumanStarted)
        story.agent.stop()
        answer = await client.get_shell_msg(timeout=20)
        assert answer["content"]["ename"] == "SandboxLost"
        assert "the run has ended" in answer["content"]["evalue"]
    assert cells(await story.end(), "human")[0]["metadata"]["tags"][-1] == "skip-execution"


async def test_cells_at_the_door_wait_for_a_pause(tmp_path: Path) -> None:
    story = Story(tmp_path, reply(bash("sleep 2")), reply(submit("1")), listen=True)
    story.begin()
    await story.until(events.CallStarted)
    facts = await remote.ask(remote.find(), "attach")
    async with at_the_door(facts) as client:
        answer = await client.execute_interactive("1", timeout=20)
        assert answer["content"]["ename"] == "SandboxBusy"
        assert "pause it" in answer["content"]["evalue"]
    assert cells(await story.end(), "human") == []
