"""The loop: task in, trajectory out. Everything else on the main path is called from here.

    task → model → tool call → cell (saved) → kernel → outputs → observation (saved) → model …

What happens between two arrows back to the model is one turn: `ask` and `act` in `agent/turn.py`.
Between turns and calls people may take over (`agent/handover.py`).
A run always ends with a `StopReason` and a closed notebook, whatever fails: the model's failures
and the sandbox's are reasons of their own and never look like an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lis_kernel.agent import events, record
from lis_kernel.agent.budget import Meter
from lis_kernel.agent.handover import Handover
from lis_kernel.agent.human import Guests
from lis_kernel.agent.listener import Listener
from lis_kernel.agent.prompts import first_messages
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.agent.turn import Turns, cut_short, of_model
from lis_kernel.agent.workspace import RunFolder, Taken, now_of_files, put_in, take_out
from lis_kernel.errors import (
    ConfigError,
    ContextOverflow,
    KernelError,
    ModelError,
    SandboxError,
    TrajectoryError,
)
from lis_kernel.kernel.outputs import OnMessage, clean_text
from lis_kernel.kernel.pool import Warm
from lis_kernel.kernel.session import KernelSession
from lis_kernel.protocols import Model, Progress, Sandbox
from lis_kernel.tools.toolset import toolset
from lis_kernel.trajectory import Recorder, Trajectory
from lis_kernel.trajectory.notebook import KEY, code_cell, markdown_cell
from lis_kernel.types import CellResult, Message, StopReason, Task, ToolMessage

if TYPE_CHECKING:
    from lis_kernel.agent.agent import Agent

__all__ = ["Run"]

log = logging.getLogger(__name__)

ANSWERS = ("output/answer.txt", "answer.txt")
"""Below the sandbox's testbed."""
LISTED = 100
"""Files of the output folder that watchers are told of."""


class Run:
    """One run's state. Made and carried out by `Agent.arun` alone."""

    def __init__(
        self,
        agent: Agent,
        task: Task,
        model: Model,
        sandbox: Sandbox,
        history: Sequence[Message],
        continues: str,
        placed: Collection[Path],
    ) -> None:
        self.agent = agent
        self.config = agent.config
        self.task = task
        self.model = model
        self.sandbox = sandbox
        self.tell = agent._tell
        more = self.config.more_tools
        self.tools = toolset(self.config.tools, self.config.limits.cell_seconds, more)
        self.protocol = self.config.protocol or model.default_protocol
        if more and self.protocol == "blocks":
            raise ConfigError("more_tools", "code blocks call none.", 'Set protocol to "tools".')
        self.meter = Meter(self.config.budget)
        self.kind = agent._kind
        self.session = KernelSession(sandbox, self.kind.limits, self.kind.setup)
        self.warm: Warm | None = None
        self.shared = agent._shared
        self.since = 0 if self.shared is None else now_of_files()
        """Files that are older are another run's."""
        self.history = list(history)
        self.placed = placed
        self.handover = Handover(self.tell)
        self.folder = RunFolder(agent.out, task.prompt)
        facts = record.metadata(task, self.config, self.protocol)
        if continues:
            facts["continues"] = continues
        self.recorder = Recorder(self.folder.notebook, facts, record.kernel(self.config))
        self.guests = Guests(self.handover, self.recorder, self.tell)
        self.listener = Listener(agent, self) if agent.listen else None
        self.turns: Turns | None = None
        self.listed: list[tuple[str, int]] = []

    # -- the whole run -----------------------------------------------------------------------

    async def carry_out(self) -> Trajectory:
        started = time.monotonic()
        name = self.folder.path.name
        self.tell(events.RunStarted(self.folder.notebook, self.task, self.config, name))
        work = self.agent._work = asyncio.create_task(self._work())
        cancelled: asyncio.CancelledError | None = None
        if self.agent._stopped:
            work.cancel()
        try:
            late = await self._late(work, started)
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

    async def _listen(self) -> None:
        """Let others reach the run; that they cannot is no reason not to run."""
        try:
            if self.listener is not None:
                await self.listener.start()
        except (OSError, SandboxError) as error:
            listener, self.listener = self.listener, None
            if listener is not None:  # it may have been half there
                with contextlib.suppress(OSError):
                    await listener.close()
            self.tell(events.Note(f"other processes cannot reach this run: {error}"))

    async def _late(self, work: asyncio.Task[StopReason], started: float) -> bool:
        """Wait for the work's end, or for that of its time, of which pauses take nothing."""
        seconds, left = self.config.budget.seconds, None
        while not work.done():
            if seconds is not None:
                left = started + seconds + self.handover.waited - time.monotonic()
                if left <= 0:
                    return True
                if self.handover.state == "paused":  # the time left stays the same
                    left = max(left, 0.05)
            await asyncio.wait({work}, timeout=left)
        return False

    async def _end(self, work: asyncio.Task[StopReason], late: bool, started: float) -> None:
        """Stop what still runs, take out the files, close the notebook; whatever fails."""
        work.cancel()
        self.handover.end()  # from here on no person's cell begins
        await self.guests.end()
        await asyncio.wait({work})
        reason, detail = self._outcome(work, late)
        most = self.config.limits.collect_bytes
        taken = await asyncio.to_thread(take_out, self.sandbox, self.folder.files, most, self.since)
        for sentence in taken.refused:
            self.tell(events.Note(f"not taken out: {sentence}"))
        if taken.lost and reason is StopReason.SUBMITTED:
            reason = StopReason.INTERRUPTED if self.agent._stopped else StopReason.SANDBOX_LOST
            detail = taken.lost
        try:
            if self.shared is None:
                with contextlib.suppress(Exception):
                    await self.session.close()
                await self.sandbox.stop()
        except Exception:
            log.exception("the sandbox could not be removed")
        seconds = time.monotonic() - started - self.handover.waited
        self._close(reason, detail, taken, seconds)
        try:
            await self.recorder.saved()
        except TrajectoryError as error:
            reason, detail = StopReason.SANDBOX_ERROR, str(error)
            raise
        finally:  # also without its notebook the run is over
            if self.shared is not None:
                self._leave(self.shared)
            if self.turns is not None:
                self.agent.messages = list(self.turns.context.messages)
            self.tell(events.RunEnded(reason, detail, taken.answer, self.folder.notebook))
            if self.listener is not None:
                await self.listener.close()

    def _leave(self, shared: SharedSandbox) -> None:
        """Have the sandbox remember what ran in it."""
        for cell in self.recorder.notebook["cells"]:
            ours = cell["metadata"][KEY]
            if ours.get("kind") in ("call", "human") and ours.get("tool") != "submit":
                shared.remember(cell)

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
        await self._listen()
        loading = asyncio.create_task(self.model.prepare(self._fetching()))
        loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await self.recorder.saved()
            messages = await self._start()
            await of_model(loading)
        finally:
            loading.cancel()
        self.recorder.notebook["metadata"][KEY]["model"] = self.model.name
        turns = self.turns = Turns(
            self.config.model,
            self.model,
            self.protocol,
            self.tools,
            messages,
            self.session,
            self.recorder,
            self.meter,
            self.tell,
            self._between,
        )
        self.handover.begin()
        while (reason := self.meter.exceeded()) is None:
            await self._between()
            if news := self.handover.news():
                turns.hear(news)
            reply = await turns.ask()
            if await turns.act(reply):
                return StopReason.SUBMITTED
        return reason

    async def _between(self) -> None:
        """Before each answer and call: people may have asked to have the sandbox to themselves."""
        if self.agent.listen and self.session.alive:
            with contextlib.suppress(Exception):  # it is for watchers alone
                args = "/testbed/output", LISTED, self.since
                found = await asyncio.to_thread(self.sandbox.listing, *args)
                if found != self.listed:
                    self.listed = found
                    self.tell(events.OutputFiles(tuple(found)))
        await self.handover.ready()

    async def human(
        self, source: str, on_message: OnMessage | None, timeout: float | None
    ) -> CellResult:
        """A person's cell, see `Agent.run_cell`."""
        turn = self.meter.turns
        return await self.guests.run(self.session, source, turn, on_message, timeout)

    async def _start(self) -> list[Message]:
        """Sandbox, files, kernel, set-up cell; the conversation's first messages."""
        try:
            await self._have_sandbox()
        finally:
            messages = self._open_notebook()
        for path in self.task.files:
            try:
                there = path in self.placed
                put = await asyncio.to_thread(
                    put_in, self.sandbox, path, self.folder.path, placed=there
                )
            except OSError as error:
                raise SandboxError(f"{path} could not be put into the sandbox: {error}") from error
            if put is not None:
                self.recorder.notebook["metadata"][KEY]["task"].setdefault("inputs", []).append(put)
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
        if self.shared is not None and (self.shared.cells or self.shared.visited):
            await self._take_over(self.shared)
        return messages

    async def _take_over(self, shared: SharedSandbox) -> None:
        """What has run in the sandbox, for the record; an answer of an earlier task goes."""
        for cell in shared.cells:
            self.recorder.add(record.earlier(cell, self.recorder.new_id(cell["id"])))
        testbed = shared.sandbox.describe().get("testbed", "/testbed")
        answers = " ".join(shlex.quote(f"{testbed}/{name}") for name in ANSWERS)
        source = f"%%bash\nrm -f {answers}"
        name = self.recorder.new_id("no-answer-yet")
        cell = code_cell(name, source, ["lis-setup"], folded=True, kind="setup")
        self.recorder.begin(cell)
        try:
            result = await shared.session.execute(source)
        except BaseException as error:
            self.recorder.finish(status=cut_short(error))
            raise
        cell["outputs"], cell["execution_count"] = list(result.outputs), result.execution_count
        self.recorder.finish(seconds=result.seconds, status=result.status)

    async def _have_sandbox(self) -> None:
        """Start ours, or have the pool's or the shared one, whose set-up cell has run."""
        if self.shared is not None:
            await self.shared.start()
            self.warm = Warm(self.shared.session, self.shared.setup_result)
            self.session = self.shared.session
            self.sandbox = self.agent._sandbox = self.session.sandbox
            return None
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
        return [*self.history, messages[-1]] if self.history else messages


def _exception(work: asyncio.Task[StopReason]) -> BaseException | None:
    if work.cancelled():
        return asyncio.CancelledError()
    return work.exception()
