"""A cell is over when the kernel says so, and not when the cell says so in the kernel's name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lis_kernel.kernel import running
from lis_kernel.kernel.outputs import OutputCollector
from lis_kernel.kernel.running import RunningCell


class Played:
    """A cell whose messages are played."""

    def __init__(self) -> None:
        self.collector = OutputCollector(10_000)
        self.interrupts = 0
        self.cell = RunningCell("1", self.collector, self._interrupt)

    def _interrupt(self) -> None:
        self.interrupts += 1

    def iopub(self, kind: str, **content: Any) -> None:
        self.cell.on_iopub({"header": {"msg_type": kind}, "content": content})

    def idle(self) -> None:
        self.iopub("status", execution_state="idle")

    def say(self, text: str) -> None:
        self.iopub("stream", name="stdout", text=text)

    def reply(self) -> None:
        content = {"status": "ok", "execution_count": 3}
        self.cell.on_shell({"header": {"msg_type": "execute_reply"}, "content": content})

    @property
    def text(self) -> str:
        return "".join(output["text"] for output in self.collector.outputs)


async def test_idle_and_reply_in_either_order_end_it() -> None:
    for first, second in (("idle", "reply"), ("reply", "idle")):
        played = Played()
        waiting = asyncio.create_task(played.cell.wait(20))
        await asyncio.sleep(0)
        played.say("a")
        getattr(played, first)()
        await asyncio.sleep(0)
        assert not waiting.done()
        getattr(played, second)()
        assert await waiting == "done"
        assert (played.text, played.cell.execution_count, played.cell.failed) == ("a", 3, False)


@pytest.mark.parametrize("between", ["time", "words"])
async def test_an_idle_that_the_cell_said_itself_does_not_end_it(between: str) -> None:
    played = Played()
    waiting = asyncio.create_task(played.cell.wait(20))
    await asyncio.sleep(0)
    played.idle()
    if between == "time":
        await asyncio.sleep(2 * running.SWAPPED_SECONDS)
    else:
        played.say("go")
    played.reply()  # the kernel's own, which on a busy machine is quicker than what was printed
    await asyncio.sleep(0.1)
    assert not waiting.done()
    played.say(" on")
    played.idle()
    assert await waiting == "done"
    assert played.text.strip() in ("on", "go on")


async def test_what_the_kernel_does_not_say_again_is_not_awaited_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(running, "DOUBT_SECONDS", 0.05)
    played = Played()
    waiting = asyncio.create_task(played.cell.wait(20))
    await asyncio.sleep(0)
    played.idle()
    played.say("of a thread")
    played.reply()
    async with asyncio.timeout(5):
        assert await waiting == "done"


async def test_a_kernel_that_ends_ends_it(monkeypatch) -> None:
    monkeypatch.setattr(running, "LATE_SECONDS", 0.1)
    played = Played()
    played.cell.died()
    assert await played.cell.wait(20) == "died"
    mute = Played()
    mute.reply()
    assert await mute.cell.wait(20) == "mute"
    late = Played()
    late.idle()
    assert await late.cell.wait(20) == "done"
    assert await Played().cell.wait(0.05) == "timeout"


async def test_an_interrupt_waits_for_the_cell_to_begin() -> None:
    played = Played()
    played.cell.stop()
    played.iopub("status", execution_state="busy")
    assert played.interrupts == 0
    played.iopub("execute_input", code="1", execution_count=3)
    assert played.interrupts == 1
    played.cell.stop()
    assert played.interrupts == 2
