"""The loop: task in, trajectory out. Everything else on the main path is called from here.

    task → model → tool call → cell (saved) → kernel → outputs → observation (saved) → model …

What happens between two arrows back to the model is one turn: `ask` and `act` in `agent/turn.py`.
A run always ends with a `StopReason` and a closed notebook, whatever fails: the model's failures
and the sandbox's are reasons of their own and never look like an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from lis_kernel.agent import events, record
from lis_kernel.agent.budget import Meter
from lis_kernel.agent.prompts import first_messages
from lis_kernel.agent.turn import Turns, cut_short, of_model
from lis_kernel.agent.workspace import RunFolder, Taken, check_files, given_name, take_out
from lis_kernel.config import RunConfig
from lis_kernel.errors import (
    ConfigError,
    ContextOverflow,
    KernelError,
    ModelError,
    SandboxError,
    TrajectoryError,
)
from lis_kernel.kernel.outputs import clean_text
from lis_kernel.kernel.pool import Pool, Warm
from lis_kernel.kernel.session import KernelSession
from lis_kernel.kernel.setup import Kind
from lis_kernel.models import load_provider
from lis_kernel.protocols import Model, Progress, Sandbox
from lis_kernel.tools.toolset import toolset
from lis_kernel.trajectory import Recorder, Trajectory
from lis_kernel.trajectory.notebook import KEY, code_cell, markdown_cell
from lis_kernel.types import Message, StopReason, Task, ToolMessage

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
    ) -> None:
        self.config = config
        self._kind = Kind(config.sandbox, config.limits)
        if pool is not None:
            pool.kind.fit(self._kind)
        self._pool = pool
        self.out = Path(out)
        self._given = model
        self._on_event = on_event
        self._work: asyncio.Task[StopReason] | None = None
        self._sandbox: Sandbox | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the run soon with `interrupted`; call it from the run's own event loop."""
        self._stopped = True
        if self._work is not None:
            self._work.cancel()

    def abandon(self) -> None:
        """As `stop`, without waiting for the running cell: its kernel is killed at once."""
        self.stop()
        if self._sandbox is not None:
            self._sandbox.cleanup()

    async def arun(self, task: Task) -> Trajectory:
        """Run `task` to its end.

        Raises:
            ConfigError: a setting or a file of the task is wrong; nothing was started.
            TrajectoryError: the notebook could not be written to its end; the sandbox is gone.
            CancelledError: the caller gave up; the notebook is closed and the sandbox gone.
        """
        check_files(task.files, self.config.limits.disk_bytes)
        if (model := self._given) is None:
            # in a thread: a pool's sandbox starts meanwhile
            make = await asyncio.to_thread(load_provider, self.config.model)
            model = make(self.config.model)
        try:
            self._sandbox = self._kind.sandbox(self._say, self._progress)
            return await _Run(self, task, model, self._sandbox).carry_out()
        finally:
            self._work, self._sandbox, self._stopped = None, None, False
            if self._given is None:
                await model.aclose()

    def _say(self, text: str) -> None:
        self._tell(events.Note(text))

    def _progress(self, done: int, total: int, what: str) -> None:
        self._tell(events.Fetching(done, total, what, "parts"))

    def _tell(self, event: events.Event) -> None:
        """A view that fails is no reason to stop a run, or to call the sandbox or model broken."""
        try:
            self._on_event(event)
        except Exception as error:
            log.warning("on_event failed: %s: %s", type(error).__name__, error)


class _Run:
    """One run's state. Made and used by `Agent.arun` alone."""

    def __init__(self, agent: Agent, task: Task, model: Model, sandbox: Sandbox) -> None:
        self.agent = agent
        self.config = agent.config
        self.task = task
        self.model = model
        self.sandbox = sandbox
        self.tell = agent._tell
        self.tools = toolset(self.config.tools, self.config.limits.cell_seconds)
        self.protocol = self.config.protocol or model.default_protocol
        self.meter = Meter(self.config.budget)
        self.kind = agent._kind
        self.session = KernelSession(sandbox, self.kind.limits, self.kind.setup)
        self.warm: Warm | None = None
        self.folder = RunFolder(agent.out, task.prompt)
        self.recorder = Recorder(
            self.folder.notebook, record.metadata(task, self.config, self.protocol)
        )

    # -- the whole run -----------------------------------------------------------------------

    async def carry_out(self) -> Trajectory:
        started = time.monotonic()
        self.tell(events.RunStarted(self.folder.notebook, self.task, self.config))
        work = self.agent._work = asyncio.create_task(self._work())
        cancelled: asyncio.CancelledError | None = None
        if self.agent._stopped:
            work.cancel()
        try:
            done, _ = await asyncio.wait({work}, timeout=self.config.budget.seconds)
            late = not done
        except asyncio.CancelledError as error:
            cancelled, late = error, False
        ending = asyncio.create_task(self._end(work, late, started))
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as error:  # an impatient caller does not cut the end
                cancelled = error
        ending.result()
        if cancelled is not None:
            raise cancelled
        failure = _exception(work)
        if isinstance(failure, ConfigError):
            raise failure
        return Trajectory(self.folder.notebook, self.recorder.notebook)

    async def _end(self, work: asyncio.Task[StopReason], late: bool, started: float) -> None:
        """Stop what still runs, take out the files, close the notebook; whatever fails."""
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
        reason, detail = self._outcome(work, late)
        most = self.config.limits.collect_bytes
        taken = await asyncio.to_thread(take_out, self.sandbox, self.folder.files, most)
        for sentence in taken.refused:
            self.tell(events.Note(f"not taken out: {sentence}"))
        if taken.lost and reason is StopReason.SUBMITTED:
            reason = StopReason.INTERRUPTED if self.agent._stopped else StopReason.SANDBOX_LOST
            detail = taken.lost
        try:
            with contextlib.suppress(Exception):
                await self.session.close()
            await self.sandbox.stop()
        except Exception:
            log.exception("the sandbox could not be removed")
        self._close(reason, detail, taken, time.monotonic() - started)
        await self.recorder.saved()
        self.tell(events.RunEnded(reason, detail, taken.answer, self.folder.notebook))

    def _outcome(self, work: asyncio.Task[StopReason], late: bool) -> tuple[StopReason, str]:
        """Why the work ended, and a sentence about it."""
        error = _exception(work)
        if error is None:
            return work.result(), ""
        if isinstance(error, asyncio.CancelledError):
            if late:
                return StopReason.TIMEOUT, f"more than {self.config.budget.seconds} seconds"
            return StopReason.INTERRUPTED, ""
        if isinstance(error, ContextOverflow):
            return StopReason.CONTEXT_WINDOW, str(error)
        if isinstance(error, ModelError | ConfigError):
            return StopReason.MODEL_ERROR, str(error)
        if isinstance(error, SandboxError | KernelError):
            lost = self.meter.turns > 0
            return StopReason.SANDBOX_LOST if lost else StopReason.SANDBOX_ERROR, str(error)
        if isinstance(error, TrajectoryError):
            return StopReason.SANDBOX_ERROR, str(error)
        log.error("the run failed", exc_info=error)
        return StopReason.SANDBOX_ERROR, f"{type(error).__name__}: {error}"

    def _close(self, reason: StopReason, detail: str, taken: Taken, seconds: float) -> None:
        verdicts = record.breaches(self.recorder.notebook)
        text = record.outcome_text(reason, detail, taken, self.meter, seconds, verdicts)
        name = self.recorder.new_id("outcome")
        self.recorder.add(markdown_cell(name, text, ["lis-outcome"], kind="outcome"))
        self.recorder.close(
            stop_reason=reason.value,
            detail=clean_text(detail),
            answer=taken.answer,
            files=taken.files,
            refused=taken.refused,
            usage=self.meter.usage.model_dump(),
            verdicts=verdicts,
            turns=self.meter.turns,
            seconds=seconds,
        )

    # -- start and turns ---------------------------------------------------------------------

    async def _work(self) -> StopReason:
        """Sandbox and model at once, then turn after turn until one submits."""
        loading = asyncio.create_task(self.model.prepare(self._fetching()))
        loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await self.recorder.saved()
            messages = await self._start()
            await of_model(loading)
        finally:
            loading.cancel()
        self.recorder.notebook["metadata"][KEY]["model"] = self.model.name
        turns = Turns(
            self.config.model,
            self.model,
            self.protocol,
            self.tools,
            messages,
            self.session,
            self.recorder,
            self.meter,
            self.tell,
        )
        while (reason := self.meter.exceeded()) is None:
            reply = await turns.ask()
            if await turns.act(reply):
                return StopReason.SUBMITTED
        return reason

    async def _start(self) -> list[Message]:
        """Sandbox, files, kernel, set-up cell; the conversation's first messages."""
        try:
            await self._have_sandbox()
        finally:
            messages = self._open_notebook()
        for path in self.task.files:
            try:
                inside = f"/testbed/input/{given_name(path)}"
                await asyncio.to_thread(self.sandbox.put, path, inside)
            except OSError as error:
                raise SandboxError(f"{path} could not be put into the sandbox: {error}") from error
        setup = code_cell("setup", self.kind.setup, ["lis-setup"], folded=True, kind="setup")
        self.recorder.begin(setup)
        try:
            if self.warm is None:
                await self.recorder.saved()
                result = await self.session.start()
            else:
                result = self.warm.setup_result
        except BaseException as error:
            self.recorder.finish(status=cut_short(error))
            raise
        # a start may have had to do with less than was tried first
        self.recorder.notebook["metadata"][KEY]["sandbox"] = dict(self.sandbox.describe())
        setup["execution_count"] = result.execution_count
        self.recorder.finish(seconds=result.seconds, status=result.status)
        return messages

    async def _have_sandbox(self) -> None:
        """Start ours, or have the pool's in its place: with its kernel, and the set-up cell run."""
        if (pool := self.agent._pool) is None:
            return await self.sandbox.start()
        self.warm = await pool.take(self.agent._say, self.agent._progress)
        self.session = self.warm.session
        self.sandbox = self.agent._sandbox = self.session.sandbox
        return None

    def _fetching(self) -> Progress:
        """Passes a model's progress on, from whatever thread it comes."""
        loop = asyncio.get_running_loop()

        def progress(done: int, total: int, label: str) -> None:
            loop.call_soon_threadsafe(self.tell, events.Fetching(done, total, label))

        return progress

    def _open_notebook(self) -> list[Message]:
        facts = dict(self.sandbox.describe())
        self.recorder.notebook["metadata"][KEY]["sandbox"] = facts
        messages = first_messages(
            self.task,
            self.protocol,
            testbed=str(facts.get("testbed", "/testbed")),
            network=str(facts.get("network", "none")),
        )
        messages = [
            message
            if isinstance(message, ToolMessage)
            else message.model_copy(update={"text": clean_text(message.text)})
            for message in messages
        ]
        for n, message in enumerate(messages):
            kind, text, shown = record.opening(message, last=n == len(messages) - 1)
            name = self.recorder.new_id(kind)
            tags = [f"lis-{kind}"]
            cell = markdown_cell(name, shown, tags, kind=kind, role=message.role, text=text)
            self.recorder.add(cell)
        self.recorder.new_id("setup")
        return messages


def _exception(work: asyncio.Task[StopReason]) -> BaseException | None:
    if work.cancelled():
        return asyncio.CancelledError()
    return work.exception()
