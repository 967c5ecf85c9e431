"""One sandbox of a pool: from its start to its hand-out, and what it has to say meanwhile.

Floor 2, used by `kernel/pool.py` alone but for `Warm`, which a taker gets. A sandbox is started
before anybody knows whose it will be, so what it says is kept for its taker, and is told at once
to all who wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from lis_kernel.errors import KernelDied
from lis_kernel.kernel.session import KernelSession
from lis_kernel.kernel.setup import Kind
from lis_kernel.protocols import Progress, Sandbox
from lis_kernel.types import CellResult

__all__ = ["Member", "Say", "Taker", "Warm", "to_its_end"]

log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Warm:
    """A sandbox that nobody used. Its taker closes the session, then stops the sandbox."""

    session: KernelSession
    setup_result: CellResult
    """Of the setup cell, which has run."""

    @property
    def sandbox(self) -> Sandbox:
        return self.session.sandbox


class Taker:
    """Somebody who waits in `take`, or got what it waited for; hears each sentence once."""

    def __init__(self, say: Say, progress: Progress) -> None:
        self.given: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        self.progress = progress
        self._say = say
        self._heard: set[str] = set()

    def hear(self, text: str) -> None:
        """Pass it on, once."""
        if text not in self._heard:
            self._heard.add(text)
            self._say(text)


class Member:
    """One sandbox, from its start to its hand-out."""

    def __init__(self, kind: Kind, waiting: Collection[Taker]) -> None:
        self.said: list[str] = []
        self.taker: Taker | None = None
        self._waiting = waiting
        self.sandbox = kind.sandbox(self._say, self._progress)
        self.session = KernelSession(self.sandbox, kind.limits, kind.setup)
        self.result = CellResult()

    def _say(self, text: str) -> None:
        """To its taker; before there is one to all who wait, for this may be what they wait for."""
        self.said.append(text)
        for taker in self._listeners():
            taker.hear(text)

    def _progress(self, done: int, total: int, what: str) -> None:
        for taker in self._listeners():
            taker.progress(done, total, what)

    def _listeners(self) -> list[Taker]:
        return [self.taker] if self.taker is not None else list(self._waiting)

    async def start(self) -> None:
        """Start the sandbox, its kernel and the setup cell; whatever ends this leaves nothing."""
        try:
            await self.sandbox.start()
            self.result = await self.session.start()
            if not self.session.alive:
                raise KernelDied("the kernel ended as soon as it was ready")
        except BaseException:
            await to_its_end(self.end())
            raise

    async def end(self) -> None:
        """Close and remove it; never raises."""
        try:
            with contextlib.suppress(Exception):
                await self.session.close()
            await self.sandbox.stop()
        except Exception:
            log.exception("a sandbox of the pool could not be removed")


async def to_its_end(work: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Await `work` however often we are cancelled meanwhile; the cancel goes up afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
