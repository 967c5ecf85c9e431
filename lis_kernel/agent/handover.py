"""A run in people's hands: pause it, work in its sandbox, say something, hand it back.

Made by `agent/loop.py` for each run, which asks `ready` before every model call and every tool
call, and tells the model of `news` before its next turn. Everything here belongs to the run's own
event loop.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Literal

from lis_kernel.agent import events
from lis_kernel.kernel.outputs import clean_text

__all__ = ["Handover", "State", "as_told"]

State = Literal["idle", "starting", "running", "pausing", "paused", "ended"]

INTRODUCTION = (
    "While you were paused, a person worked in your sandbox. Variables, files and the shell are as "
    "they left them. What they ran, and what it gave:"
)


class Handover:
    """Who is at work: the model, or people.

    Args:
        tell: told what happens, see `agent/events.py`.
    """

    def __init__(self, tell: events.OnEvent) -> None:
        self.state: State = "starting"
        self.working = asyncio.Lock()
        """Held by a person's cell while it runs."""
        self._tell = tell
        self._go = asyncio.Event()
        self._go.set()
        self._paused_at: float | None = None
        self._waited = 0.0
        self._cells: list[str] = []
        self._said: list[str] = []

    def begin(self) -> None:
        """The sandbox is there: from here on a pause takes effect."""
        if self.state == "starting":
            self.state = "running"

    def pause(self) -> None:
        """Have the model wait once its present call, or its present answer, is over."""
        if self.state in ("starting", "running", "paused"):  # also if it was just told to go on
            self._go.clear()
            if self.state == "running":
                self.state = "pausing" if self._paused_at is None else "paused"

    def resume(self) -> None:
        """Have the model go on, once a cell that a person runs is over."""
        self._go.set()
        if self.state == "pausing" or (self.state == "paused" and not self.working.locked()):
            self.state = "running"

    def end(self) -> None:
        self.state = "ended"
        self._go.set()

    def say(self, text: str) -> None:
        """Have the model told `text` before its next turn."""
        if text.strip():
            self._said.append(clean_text(text.strip()))

    def ran(self, source: str, seen: str) -> None:
        """A person ran `source`; `seen` is what the model would have been shown of it."""
        self._cells.append(as_told(source, seen))

    async def ready(self) -> None:
        """Return when it is the model's turn; at once unless people asked for a pause."""
        if self._go.is_set():
            return
        self.state, self._paused_at = "paused", time.monotonic()
        self._tell(events.Paused())
        try:
            while not self._go.is_set():
                await self._go.wait()
                async with self.working:
                    pass
        finally:
            self._waited, self._paused_at = self.waited, None
            if self.state in ("paused", "running"):
                self.state = "running"
                self._tell(events.Resumed())

    @property
    def waited(self) -> float:
        """Seconds of pauses so far; they are not the model's."""
        now = 0.0 if self._paused_at is None else time.monotonic() - self._paused_at
        return self._waited + now

    def news(self) -> str:
        """What the model must be told now of what people did and said; told once."""
        parts = [INTRODUCTION, *self._cells] if self._cells else []
        parts += [f"The user says: {text}" for text in self._said]
        self._cells, self._said = [], []
        return "\n\n".join(parts)


def as_told(source: str, seen: str) -> str:
    """A person's cell and what it gave, for the model: in fences that neither of them can end."""
    kind, code = ("bash", source[7:]) if source.startswith("%%bash\n") else ("python", source)
    longest = max(map(len, re.findall("~+", f"{source}\n{seen}")), default=0)
    fence = "~" * max(4, longest + 1)
    return f"{fence}{kind}\n{code.strip()}\n{fence}\n{fence}text\n{seen}\n{fence}"
