"""One living sandbox in which people and agents take turns.

Behind `%%sandbox` and the agent kernel: a sandbox with its kernel that outlives the runs in it.
What has run is kept as cells, so that the trajectory of an agent that comes later begins with what
it found, and can be executed from the top. Everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Literal

from lis_kernel.agent.turn import cut_short
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import SandboxBusy, SandboxLost
from lis_kernel.kernel.outputs import OnMessage
from lis_kernel.kernel.session import KernelSession
from lis_kernel.kernel.setup import Kind
from lis_kernel.protocols import Progress, Sandbox
from lis_kernel.trajectory.notebook import code_cell
from lis_kernel.types import CellResult

if TYPE_CHECKING:
    from lis_kernel.agent.agent import Agent

__all__ = ["SharedSandbox", "human_cell"]

MESSAGES = 2_000
"""Displays that one cell may show at a time: people show more than models."""
PATIENCE_SECONDS = 5.0
KEPT_BYTES = 100_000
"""Of the outputs of one of them: each later trajectory holds them all."""
KEPT = 500
"""Cells that are remembered; older ones are no more in later trajectories."""


class SharedSandbox:
    """A sandbox with a name, started when it is first used.

    Args:
        name: what people call it.
        config, limits: what it is; `limits.output_bytes` bounds what a cell shows.
        say: told in one line of anything slow or noteworthy at start.
        progress: told how far something slow is.

    Raises:
        ConfigError: a setting is wrong, or is not one of the backend.
    """

    def __init__(
        self,
        name: str,
        config: SandboxConfig | None = None,
        limits: Limits | None = None,
        *,
        say: Callable[[str], None] = lambda _: None,
        progress: Progress = lambda *_: None,
    ) -> None:
        self.name = name
        self.config = config or SandboxConfig()
        self.limits = limits or Limits(output_bytes=10_000_000)
        usual = Kind(self.config, self.limits)
        self.kind = Kind(self.config, self.limits, caps={**usual.caps, "messages": MESSAGES})
        self.cells: list[dict[str, Any]] = []
        self.setup_result = CellResult()
        self.created = 0.0
        self.agent: Agent | None = None
        """Who is at work in it."""
        self.visited = False
        """Whether an agent was, whose answer may lie in it."""
        self._say, self._progress = say, progress
        self._session: KernelSession | None = None
        self._working = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._number = 0
        self.kind.sandbox(say, progress)  # a wrong setting is said now

    @property
    def session(self) -> KernelSession:
        """Its kernel. Raises SandboxLost: it has not been started, or was stopped."""
        if self._session is None:
            raise SandboxLost(f"the sandbox {self.name!r} is not running")
        return self._session

    @property
    def sandbox(self) -> Sandbox:
        """Raises SandboxLost: it has not been started, or was stopped."""
        return self.session.sandbox

    @property
    def alive(self) -> bool:
        return self._session is not None and self._session.alive

    @property
    def busy(self) -> Literal["agent", "cell"] | None:
        """Who runs something in it now."""
        if self.agent is not None:
            return "agent"
        return "cell" if self._working.locked() else None

    async def start(self) -> None:
        """Start it unless it runs: sandbox, kernel, setup cell.

        Raises:
            SandboxError, KernelError: it did not come up; nothing is left of it.
        """
        async with self._starting:
            await self._start()

    async def _start(self) -> None:
        if self._session is not None:
            return
        sandbox = self.kind.sandbox(self._say, self._progress)
        session = KernelSession(sandbox, self.limits, self.kind.setup)
        try:
            await sandbox.start()
            self.setup_result = await session.start()
        except BaseException:
            await session.close()
            await sandbox.stop()
            raise
        self._session, self.created = session, time.time()

    async def execute(
        self,
        source: str,
        *,
        timeout: float | None = None,
        on_message: OnMessage | None = None,
        author: str = "human",
    ) -> CellResult:
        """Run a person's cell; `timeout` in seconds, None for the limits' own.

        While an agent is at work here and has been paused the cell is part of its trajectory.

        Raises:
            SandboxBusy: an agent is at work, or another cell; nothing was run.
            SandboxError, KernelError: as `KernelSession.execute`.
        """
        if self.agent is not None:
            return await self.agent.run_cell(source, on_message, timeout=timeout)
        async with self._alone():
            await self.start()
            session, result = self.session, CellResult(status="interrupted")
            try:
                result = await session.execute(source, timeout, on_message=on_message)
            except BaseException as error:  # what it did is there all the same
                result = CellResult(status=cut_short(error), outputs=session.partial)
                raise
            finally:
                if self._session is session:  # else it was stopped meanwhile
                    self._number += 1
                    name = f"human-{self._number}"
                    self.remember(human_cell(name, source, result, author=author))
            return result

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the sandbox for a cell; one that was given up may still be ending.

        Raises:
            SandboxBusy: another cell does not end.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._working.acquire()
        except TimeoutError:
            raise SandboxBusy(
                f"a cell is running in the sandbox {self.name!r}; wait for its end"
            ) from None
        try:
            if self.agent is not None:
                raise SandboxBusy(f"an agent is at work in the sandbox {self.name!r}")
            yield
        finally:
            self._working.release()

    def remember(self, cell: dict[str, Any]) -> None:
        """Keep a finished cell for the trajectories that begin later; without large outputs."""
        size = len(json.dumps(cell["outputs"]))
        if size > KEPT_BYTES:
            text = f"[its outputs, {size} bytes, are not repeated here]\n"
            note = {"output_type": "stream", "name": "stdout", "text": text}
            cell = {**cell, "outputs": [note]}
        self.cells.append(cell)
        del self.cells[:-KEPT]

    def interrupt(self) -> None:
        """Interrupt the cell that runs."""
        if self._session is not None:
            self._session.interrupt()

    @contextlib.asynccontextmanager
    async def taken(self, agent: Agent) -> AsyncIterator[None]:
        """An agent is at work in it.

        Raises:
            SandboxBusy: another one is, or a person's cell runs.
        """
        if self.busy is not None:
            who = "an agent is" if self.busy == "agent" else "a cell is"
            raise SandboxBusy(f"{who} at work in the sandbox {self.name!r}; wait for its end")
        self.agent = agent
        try:
            yield
        finally:
            self.agent, self.visited = None, True

    async def restart(self) -> None:
        """End it and start it anew: another kernel, no files.

        Raises:
            SandboxBusy: an agent is at work in it.
        """
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """End its kernel and remove its files; does nothing if it does not run.

        Raises:
            SandboxBusy: an agent is at work in it.
        """
        if self.agent is not None:
            raise SandboxBusy(f"an agent is at work in the sandbox {self.name!r}; stop it first")
        session, self._session = self._session, None
        self.cells.clear()
        self.visited = False
        if session is not None:
            try:
                await session.close()
            finally:
                await session.sandbox.stop()


def human_cell(name: str, source: str, result: CellResult, **ours: Any) -> dict[str, Any]:
    """The finished cell of a person, as a trajectory keeps it."""
    tags = ["lis-human"]
    if result.status == "error":
        tags.append("raises-exception")
    elif result.status != "ok":
        tags.append("skip-execution")
    cell = code_cell(name, source, tags, kind="human", **ours)
    cell["outputs"] = list(result.outputs)
    cell["execution_count"] = result.execution_count
    cell["metadata"]["lis_kernel"].update(status=result.status, seconds=result.seconds)
    return cell
