"""The agent: a model at work in a sandbox, and what people can do about it meanwhile.

Floor 3's door: made by the faces and by `rollout/`, it carries out one run at a time, which is
`agent/loop.py`. While the run lasts it can be paused, spoken to, worked in and stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from lis_kernel.agent import events
from lis_kernel.agent.handover import State
from lis_kernel.agent.loop import Run
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.agent.workspace import check_files
from lis_kernel.config import RunConfig
from lis_kernel.errors import SandboxBusy
from lis_kernel.kernel.outputs import OnMessage
from lis_kernel.kernel.pool import Pool
from lis_kernel.kernel.setup import Kind
from lis_kernel.models import load_provider
from lis_kernel.protocols import Model, Sandbox
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import CellResult, Message, StopReason, Task

__all__ = ["Agent"]

log = logging.getLogger(__name__)


class Agent:
    """A model at work in a sandbox.

    Args:
        config: everything that decides how the run goes.
        out: folder under which each run gets a folder of its own.
        model: a model to use instead of the one that `config` names; the caller closes it.
        on_event: told what happens, see `agent/events.py`.
        pool: where each run takes its sandbox from, instead of starting one.
        shared: a living sandbox to work in instead, which the run leaves alive; what it is decides
            `config.sandbox` and `config.limits`.
        listen: whether other processes of this user can watch the run and reach into it, see
            `agent/remote.py`.

    Raises:
        ConfigError: the pool's sandboxes are not what `config` asks for.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        out: Path | str = "runs",
        model: Model | None = None,
        on_event: events.OnEvent = lambda _: None,
        pool: Pool | None = None,
        shared: SharedSandbox | None = None,
        listen: bool = False,
    ) -> None:
        if shared is not None:
            ours = {"sandbox": shared.config, "limits": shared.limits}
            config = config.model_copy(update=ours)
        self.config = config
        self._kind = Kind(config.sandbox, config.limits) if shared is None else shared.kind
        if pool is not None:
            pool.kind.fit(self._kind)
        self._pool = pool
        self._shared = shared
        self.listen = listen
        self.out = Path(out)
        self._given = model
        self._on_event = on_event
        self._work: asyncio.Task[StopReason] | None = None
        self._sandbox: Sandbox | None = None
        self._run: Run | None = None
        self._stopped = False
        self.messages: list[Message] = []
        """The conversation of the run that ended last, for one that goes on with it."""

    @property
    def state(self) -> State:
        """Of the run: `pausing` and `paused` after `pause`, `idle` while there is none."""
        return "idle" if self._run is None else self._run.handover.state

    @property
    def sandbox(self) -> Sandbox | None:
        """Of the run, for who looks into it."""
        return self._sandbox

    def pause(self) -> None:
        """Have the model wait once its present answer or call is over.

        Like all that follows: to be called on the run's event loop; does nothing without a run.
        """
        if self._run is not None:
            self._run.handover.pause()

    def resume(self) -> None:
        """Have the model go on, told of what people ran meanwhile."""
        if self._run is not None:
            self._run.handover.resume()

    def say(self, text: str) -> None:
        """Have the model told `text` before its next turn."""
        if self._run is not None:
            self._run.handover.say(text)

    async def run_cell(
        self, source: str, on_message: OnMessage | None = None, *, timeout: float | None = None
    ) -> CellResult:
        """Run a person's cell in the paused run's kernel; it is recorded as theirs.

        Raises:
            SandboxBusy: the run is not paused, or another such cell runs.
        """
        if self._run is None:
            raise SandboxBusy("there is no run to work in")
        return await self._run.human(source, on_message, timeout)

    def stop(self) -> None:
        """End the run soon with `interrupted`; call it from the run's own event loop."""
        self._stopped = True
        if self._work is not None:
            self._work.cancel()

    def abandon(self) -> None:
        """As `stop`, without waiting for the running cell: its kernel is killed at once.

        In a shared sandbox the cell is interrupted: it is not the run's own.
        """
        self.stop()
        if self._shared is not None:
            self._shared.interrupt()
        elif self._sandbox is not None:
            self._sandbox.cleanup()

    async def arun(
        self,
        task: Task,
        *,
        history: Sequence[Message] = (),
        continues: str = "",
        placed: Collection[Path] = (),
    ) -> Trajectory:
        """Run `task` to its end.

        `history` is a conversation that the task goes on with (see `messages`), and `continues`
        names the trajectory that holds it. Of the task's files those in `placed` lie in the shared
        sandbox already, as people left them.

        Raises:
            ConfigError: a setting or a file of the task is wrong; nothing was started.
            SandboxBusy: somebody is at work in the shared sandbox; nothing was started.
            TrajectoryError: the notebook could not be written to its end; the sandbox is gone.
            CancelledError: the caller gave up; the notebook is closed and the sandbox gone.
        """
        check_files(task.files, self.config.limits.disk_bytes)
        if (model := self._given) is None:
            # in a thread: a pool's sandbox starts meanwhile
            make = await asyncio.to_thread(load_provider, self.config.model)
            model = make(self.config.model)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._shared is not None:
                    await stack.enter_async_context(self._shared.taken(self))
                self._sandbox = self._kind.sandbox(self._say, self._progress)
                self._run = Run(self, task, model, self._sandbox, history, continues, placed)
                return await self._run.carry_out()
        finally:
            self._work, self._sandbox, self._run, self._stopped = None, None, None, False
            if self._given is None:
                await model.aclose()

    def _say(self, text: str) -> None:
        self._tell(events.Note(text))

    def _progress(self, done: int, total: int, what: str) -> None:
        self._tell(events.Fetching(done, total, what, "parts"))

    def _tell(self, event: events.Event) -> None:
        """A view that fails is no reason to stop a run, or to call the sandbox or model broken."""
        try:
            if self._run is not None and self._run.listener is not None:
                self._run.listener.publish(event)
        except Exception as error:
            log.warning("watchers were not told: %s: %s", type(error).__name__, error)
        try:
            self._on_event(event)
        except Exception as error:
            log.warning("on_event failed: %s: %s", type(error).__name__, error)
