"""Sandboxes that are ready before they are asked for: kernel up, connected, setup cell run.

Floor 2, between the backends and whoever runs tasks in numbers (`agent/loop.py` takes one a run).
A pool hands each sandbox out once and starts the next behind it. It is also the gate of a batch:
never more than `starts` begin at a time, and none while memory is short, whether it keeps spares
(`size`) or starts each one when it is asked for (`size=0`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from lis_kernel._sync import run_sync
from lis_kernel.config import Limits, SandboxConfig, amount
from lis_kernel.errors import ConfigError, SandboxLost
from lis_kernel.kernel import memory as machine
from lis_kernel.kernel.session import KernelSession
from lis_kernel.kernel.setup import Kind
from lis_kernel.kernel.warm import Member, Say, Taker, Warm, to_its_end
from lis_kernel.protocols import Progress

__all__ = ["Pool", "Warm", "default_starts"]

log = logging.getLogger(__name__)

RESERVE_BYTES = 128 << 20
"""What a sandbox takes until it shows in what the system calls used, and a little to work with."""
KEPT_BYTES = 256 << 20
"""Left alone for the growth of those that run, and for everything else on the machine."""
MEMORY_SECONDS = 0.2
"""Between two looks at the memory, while a start waits for some."""
BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
MOST = 100_000


def default_starts() -> int:
    """How many sandboxes start at once unless told otherwise: more would only share our cpus."""
    return len(os.sched_getaffinity(0))


class Pool:
    """Keeps `size` unused sandboxes ready; `async with` it, or `with` it for `lis.run`.

    `async with` binds it to the running loop; `with` to the background loop of the sync verbs.

    Args:
        size: sandboxes that wait for a taker; 0 starts each one when it is asked for. None is
            kept where `limits.sandbox_seconds` is set: a sandbox's time begins with its start.
        config, limits, setup, caps: of every sandbox; None are those of an agent's.
        idle_seconds: after so long without a take the waiting ones are stopped, until the next.
        starts: most that start at once; None is one for each of our cpus.
        takes: how often it will be asked in all, if that is known: no spare is kept beyond it.
        reserve_bytes: memory that must be free for each start, beside what is left alone anyway.
        say: told once, in one line, that starts wait for memory, or that no spares are kept.
        available: bytes of memory that are free now.

    Raises:
        ConfigError: a setting is out of bounds, or no sandbox can be made of config and limits.
    """

    def __init__(
        self,
        size: int,
        *,
        config: SandboxConfig | None = None,
        limits: Limits | None = None,
        setup: str | None = None,
        caps: Mapping[str, int] | None = None,
        idle_seconds: float | None = None,
        starts: int | None = None,
        takes: int | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        say: Say = lambda _: None,
        available: Callable[[], int] = machine.available,
    ) -> None:
        _within("size", size, 0)
        _within("starts", starts, 1)
        _within("takes", takes, 0)
        _within("reserve_bytes", reserve_bytes, 0, 1 << 50)
        if idle_seconds is not None and not idle_seconds > 0:
            raise ConfigError("pool.idle_seconds", f"{idle_seconds!r} is no time.", "More than 0.")
        self.size = size
        given: dict[str, Any] = {"config": config, "limits": limits, "setup": setup, "caps": caps}
        self.kind = Kind(**{name: v for name, v in given.items() if v is not None})
        self.idle_seconds = idle_seconds
        self.starts = starts or default_starts()
        self.takes = takes
        self.reserve_bytes = reserve_bytes
        self._tell = say
        self._available = available
        self._loop: asyncio.AbstractEventLoop | None = None
        self._takers: deque[Taker] = deque()
        self._starting: dict[asyncio.Task[None], Member] = {}
        self._ready: deque[Member] = deque()
        self._taken: weakref.WeakSet[KernelSession] = weakref.WeakSet()
        self._ending: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._handed = 0
        self._failures = 0
        self._resting_until = 0.0
        self._asleep = False
        self._told: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        Member(self.kind, self._takers)  # what is wrong with the settings is told now

    # -- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("a pool is entered once")
        self._loop = asyncio.get_running_loop()
        if self.size and self.kind.limits.sandbox_seconds is not None:
            self._say_once(
                "the pool keeps no sandbox ready: under limits.sandbox_seconds a sandbox's time "
                "begins with its start"
            )
        self._wake()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return run_sync(self.__aenter__())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        run_sync(self.aclose())

    async def aclose(self) -> None:
        """Stop every sandbox that was not taken; returns when nothing of them is left.

        May be called twice. Who waits in `take` gets SandboxLost; what was taken lives on.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await to_its_end(self._closing)

    async def _close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        while self._takers:
            _fail(self._takers.popleft(), SandboxLost("the pool was closed"))
        while self._ready:
            self._discard(self._ready.popleft())
        for start in self._starting:
            start.cancel()
        while left := {*self._starting, *self._ending}:
            await asyncio.wait(left)

    # -- what is asked of it ---------------------------------------------------------------------

    async def take(self, say: Say = lambda _: None, progress: Progress = lambda *_: None) -> Warm:
        """A sandbox that nobody used, and nobody else will; waits for one if none is ready.

        `say` and `progress` are told what its start has to say, now and from now on, as those
        given to a sandbox are; they must not raise.

        Raises:
            SandboxError, KernelError, ConfigError: of a start that failed; asking again is allowed.
            SandboxLost: the pool is closed.
        """
        self._check_loop()
        self._wake()
        taker = Taker(say, progress)
        while self._ready and not taker.given.done():
            member = self._ready.popleft()
            self._give(member, taker) if member.session.alive else self._lose(member)
        if not taker.given.done():
            self._takers.append(taker)
            self._fill()
        try:
            member = await taker.given
        except asyncio.CancelledError:
            if taker.given.cancelled():
                self._takers.remove(taker)
                self._trim()
            elif taker.given.exception() is None:  # given in the moment of the cancel: not used
                self._take_back(taker.given.result())
            raise
        member.taker = taker
        for text in member.said:
            taker.hear(text)
        self._fill()
        return Warm(member.session, member.result)

    def _give(self, member: Member, taker: Taker) -> None:
        member.session.on_end = None
        self._taken.add(member.session)
        self._handed += 1
        self._failures = 0
        taker.given.set_result(member)

    def _take_back(self, member: Member) -> None:
        self._taken.discard(member.session)
        self._handed -= 1
        self._offer(member)

    @property
    def ready(self) -> int:
        """How many wait for a taker."""
        return len(self._ready)

    # -- starts ----------------------------------------------------------------------------------

    def _spares(self) -> int:
        """How many shall be ready beside those that are asked for now."""
        if self._asleep or self.kind.limits.sandbox_seconds is not None:
            return 0
        if self.takes is None:
            return self.size
        return max(0, min(self.size, self.takes - self._handed - len(self._takers)))

    def _missing(self) -> int:
        return len(self._takers) + self._spares() - len(self._ready) - len(self._starting)

    def _fill(self) -> None:
        """Begin what may begin now. Called whenever something changed that this depends on."""
        if self._closing is not None or self._loop is None:
            return
        while self._missing() > 0 and len(self._starting) < self.starts:
            rest = self._resting_until - self._loop.time()
            if rest > 0 and len(self._starting) >= len(self._takers):  # nobody waits for this one
                self._after("rest", rest, self._fill)
                return
            if not self._has_room():
                self._after("memory", MEMORY_SECONDS, self._fill)
                return
            member = Member(self.kind, self._takers)
            task = self._loop.create_task(member.start())
            self._starting[task] = member
            task.add_done_callback(self._started)

    def _has_room(self) -> bool:
        """Whether there is memory for one more; always, if nothing of ours could give any back."""
        ours = self._starting or self._ready or any(session.alive for session in self._taken)
        if not ours:
            return True
        free, starting = self._available(), len(self._starting)
        if free >= KEPT_BYTES + self.reserve_bytes * (starting + 1):
            return True
        needed = amount(self.reserve_bytes)
        self._say_once(f"sandboxes wait for memory: {amount(free)} are free, each needs {needed}")
        return False

    def _started(self, task: asyncio.Task[None]) -> None:
        member = self._starting.pop(task)
        if task.cancelled():  # not by us: the event loop ends, and no other shall begin
            return None
        if (error := task.exception()) is None:
            if self._closing is None:
                self._offer(member)
            else:
                self._discard(member)
            return self._fill()
        self._fail_back(f"a sandbox of the pool did not start: {error}")
        if self._takers:
            _fail(self._takers.popleft(), error)
        return self._fill()

    def _offer(self, member: Member) -> None:
        """To who waits longest, else it waits itself."""
        if self._closing is not None or not member.session.alive:
            return self._lose(member)
        while self._takers:
            taker = self._takers.popleft()
            if not taker.given.done():
                return self._give(member, taker)
        member.session.on_end = lambda: self._lose(member)
        self._ready.append(member)
        return self._trim()

    def _lose(self, member: Member) -> None:
        """One that ended while it waited."""
        with contextlib.suppress(ValueError):
            self._ready.remove(member)
        self._discard(member)
        self._fail_back("a sandbox of the pool ended while it waited")
        self._fill()

    def _fail_back(self, why: str) -> None:
        """Let the spares rest, longer each time: the first failure may be chance."""
        log.info("%s", why)
        seconds = min(LONGEST_BACKOFF_SECONDS, BACKOFF_SECONDS * (2**self._failures - 1))
        self._failures = min(self._failures + 1, 20)
        if self._loop is not None:
            self._resting_until = self._loop.time() + seconds

    def _trim(self) -> None:
        """Give up what nobody asks for any more, the latest first."""
        for task, member in list(reversed(self._starting.items())):
            if self._missing() < 0:
                del self._starting[task]
                task.remove_done_callback(self._started)
                task.add_done_callback(partial(self._given_up, member))
                self._ending.add(task)
                task.cancel()
        while self._missing() < 0 and self._ready:
            self._discard(self._ready.pop())

    def _given_up(self, member: Member, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is None:  # it was quicker than the cancel
            self._discard(member)

    def _discard(self, member: Member) -> None:
        member.session.on_end = None
        task = asyncio.get_running_loop().create_task(member.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # -- time ------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._asleep = False
        if self.idle_seconds is not None:
            self._after("idle", self.idle_seconds, self._sleep)
        self._fill()

    def _sleep(self) -> None:
        if self._takers:
            return self._wake()
        self._asleep = True
        return self._trim()

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call it once then, in place of the last one of this name."""
        if (old := self._timers.pop(name, None)) is not None:
            old.cancel()
        if self._loop is not None:
            self._timers[name] = self._loop.call_later(seconds, call)

    def _say_once(self, text: str) -> None:
        kind = text.partition(":")[0]
        if kind not in self._told:
            self._told.add(kind)
            self._tell(text)
            for taker in list(self._takers):
                taker.hear(text)

    def _check_loop(self) -> None:
        if self._loop is None:
            raise ConfigError("pool", "it was not begun.", "Write `with pool:` or `async with`.")
        if self._loop is not asyncio.get_running_loop():
            raise ConfigError(
                "pool",
                "it was begun on another event loop.",
                "Write `with pool:` for lis.run, `async with pool:` for what you await.",
            )
        if self._closing is not None:
            raise SandboxLost("the pool is closed")


def _fail(taker: Taker, error: BaseException) -> None:
    if not taker.given.done():
        taker.given.set_exception(error)


def _within(name: str, value: int | None, least: int, most: int = MOST) -> None:
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise ConfigError(f"pool.{name}", f"{value!r} is not a number from {least} to {most}.")
