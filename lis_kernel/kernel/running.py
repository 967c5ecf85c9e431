"""The cell that runs now, and how it is known that it is over. Made by `kernel/session.py`.

Never by a single sign: the kernel says idle on one channel and replies on another, in either order,
and a kernel that is hostile or dying says one of them, or neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lis_kernel.kernel.outputs import OutputCollector

__all__ = ["Ended", "RunningCell"]

LATE_SECONDS = 3.0
"""Of idle and reply, the second is given up after this long without any word of the cell."""
EARLY_TURNS = 8
"""Of the event loop: what was sent before the reply has arrived by then, and is read."""
SWAPPED_SECONDS = 0.02
"""Idle is sent after the reply, but the two channels may swap them; not by more than this."""
DOUBT_SECONDS = 0.5
"""For an idle that came too early for that, another one is awaited so long."""

Ended = Literal["done", "died", "timeout", "mute"]
"""`mute`: the kernel says that the cell is over, and its output channel says nothing."""


class RunningCell:
    """What is known of a cell that was sent.

    Args:
        msg_id: of its request; messages that answer another are none of its.
        collector: takes its outputs.
        interrupt: sends an interrupt to the kernel.
    """

    def __init__(
        self, msg_id: str, collector: OutputCollector, interrupt: Callable[[], None]
    ) -> None:
        self.msg_id = msg_id
        self._collector = collector
        self._interrupt = interrupt
        self._reply: Mapping[str, Any] | None = None
        self._idle = False
        self._idle_at = 0.0
        self._early = False
        """Whether idle was heard before the reply: what was said between them may still come."""
        self._doubted = False
        """Whether that idle was none of the kernel's: a cell can say it itself."""
        self._begun = False
        self._stopping = False
        self._heard = time.monotonic()
        self._dead = False
        self._changed = asyncio.Event()

    @property
    def failed(self) -> bool:
        """Whether the kernel says that the cell ended with an error."""
        return bool((self._reply or {}).get("status", "ok") != "ok")

    @property
    def execution_count(self) -> int | None:
        """As the kernel says."""
        count = (self._reply or {}).get("execution_count")
        return count if type(count) is int and count >= 0 else None

    # -- what comes, told by the session ---------------------------------------------------------

    def died(self) -> None:
        """Its kernel has ended."""
        self._dead = True
        self._changed.set()

    def on_iopub(self, message: Mapping[str, Any]) -> None:
        """A message of the output channel."""
        kind, content = message["header"]["msg_type"], message["content"]
        self._heard = time.monotonic()
        if kind == "status":
            if content.get("execution_state") == "idle":
                self._idle, self._idle_at = True, self._heard
                self._doubted = self._doubted and self._reply is None
                self._changed.set()
            return
        self._doubted = self._doubted or (self._idle and self._reply is None)
        if not self._begun:  # with `execute_input`
            self._begun = True
            if self._stopping:
                self._interrupt()
        self._collector.feed(kind, content)

    def on_shell(self, message: Mapping[str, Any]) -> None:
        """A message of the channel that the request went through."""
        self._heard = time.monotonic()
        if message["header"]["msg_type"] == "execute_reply":
            self._early = self._idle
            if self._idle and self._heard - self._idle_at > SWAPPED_SECONDS:
                self._doubted = True
            self._reply = message["content"] if isinstance(message["content"], dict) else {}
            self._changed.set()

    # -- what is asked of it ---------------------------------------------------------------------

    def stop(self) -> None:
        """Interrupt it, once it has begun: a kernel between cells would lose the interrupt."""
        if self._begun:
            self._interrupt()
        else:
            self._stopping = True

    async def wait(self, seconds: float) -> Ended:
        """Until it is over, `seconds` at most."""
        deadline = time.monotonic() + seconds
        while not (self._idle and self._reply is not None):
            if self._dead:
                await asyncio.sleep(0.05)  # let what it still said arrive
                return "done" if self._idle and self._reply is not None else "died"
            half = self._idle or self._reply is not None
            # a reply in time is no time-out, and idle has a moment still to follow it
            most = deadline if self._idle else deadline + LATE_SECONDS
            until = min(most, self._heard + LATE_SECONDS) if half else deadline
            left = until - time.monotonic()
            if left <= 0 and not half:
                return "timeout"
            if left <= 0:
                return "done" if self._idle else "mute"
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        if self._doubted:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DOUBT_SECONDS):
                    while self._doubted and not self._dead:
                        self._changed.clear()
                        await self._changed.wait()
        elif self._early:
            for _ in range(EARLY_TURNS):
                await asyncio.sleep(0)
        return "done"
