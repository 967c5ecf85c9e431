"""The loop: task in, trajectory out. Everything else on the main path is called from here.

    task → model → tool call → cell (saved) → kernel → outputs → observation (saved) → model …

A run always ends with a `StopReason` and a closed notebook, whatever fails: the model's failures
and the sandbox's are reasons of their own and never look like an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Literal, TypeVar

from lis_kernel import registry
from lis_kernel.agent import events, record
from lis_kernel.agent.budget import Meter
from lis_kernel.agent.context import Context
from lis_kernel.agent.nudges import Nudges
from lis_kernel.agent.prompts import first_messages, refused_hosts
from lis_kernel.agent.workspace import RunFolder, check_files, given_name
from lis_kernel.config import RunConfig
from lis_kernel.errors import (
    ConfigError,
    ContextOverflow,
    KernelError,
    LisKernelError,
    ModelError,
    SandboxError,
    ToolError,
)
from lis_kernel.kernel.outputs import clean_text
from lis_kernel.kernel.session import KernelSession
from lis_kernel.models import make_model
from lis_kernel.protocols import Model, Progress, Sandbox
from lis_kernel.tools import calls, observation
from lis_kernel.tools.blocks import parse_blocks, prose
from lis_kernel.tools.toolset import toolset
from lis_kernel.trajectory import Recorder, Trajectory
from lis_kernel.trajectory.notebook import KEY, code_cell, markdown_cell
from lis_kernel.types import (
    AssistantMessage,
    CellResult,
    Message,
    Observation,
    RawCall,
    Reply,
    StopReason,
    Task,
    ToolCall,
    ToolMessage,
    ToolResult,
    ToolSpec,
    UserMessage,
)

__all__ = ["Agent"]

log = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_FILES = ("/testbed/output/answer.txt", "/testbed/answer.txt")
ANSWER_BYTES = 1_000_000
REFUSALS = 100
"""Most sentences about files that were not taken out; a sandbox can make a million symlinks."""
LAST_TURNS = 2
"""Models of the code-block protocol are told of their remaining turns only from here on."""


class Agent:
    """A model at work in a sandbox.

    Args:
        config: everything that decides how the run goes.
        out: folder under which each run gets a folder of its own.
        model: a model to use instead of the one that `config` names; the caller closes it.
        on_event: told what happens, see `agent/events.py`.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        out: Path | str = "runs",
        model: Model | None = None,
        on_event: events.OnEvent = lambda _: None,
    ) -> None:
        self.config = config
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
            CancelledError: the caller gave up; the notebook is closed and the sandbox gone.
        """
        check_files(task.files)
        model = self._given or make_model(self.config.model)
        try:
            self._sandbox = registry.load(
                registry.SANDBOXES, self.config.sandbox.backend, "--backend"
            )(
                self.config.sandbox,
                self.config.limits,
                caps={
                    "spill_lines": observation.HEAD_LINES + observation.TAIL_LINES,
                    "spill_chars": observation.STREAM_CHARS,
                },
                say=lambda text: self._tell(events.Note(text)),
            )
            return await _Run(self, task, model, self._sandbox).carry_out()
        finally:
            self._work, self._sandbox, self._stopped = None, None, False
            if self._given is None:
                await model.aclose()

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
        self.session = KernelSession(sandbox, self.config.limits, record.setup_source())
        self.folder = RunFolder(agent.out, task.prompt)
        self.recorder = Recorder(
            self.folder.notebook, record.metadata(task, self.config, self.protocol)
        )
        self.call_ids: set[str] = set()
        self.nudges = Nudges() if self.protocol == "blocks" else None
        self.verdicts: dict[str, int] = {}

    # -- the whole run -----------------------------------------------------------------------

    async def carry_out(self) -> Trajectory:
        started = time.monotonic()
        self.tell(events.RunStarted(self.folder.notebook, self.task, self.config))
        self.recorder.save()
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
        answer, files, refused, failure = await asyncio.to_thread(self._take_out)
        if failure and reason is StopReason.SUBMITTED:
            reason = StopReason.INTERRUPTED if self.agent._stopped else StopReason.SANDBOX_LOST
            detail, answer = failure, None
        try:
            with contextlib.suppress(Exception):
                await self.session.close()
            await self.sandbox.stop()
        except Exception:
            log.exception("the sandbox could not be removed")
        self._close(reason, detail, answer, files, refused, time.monotonic() - started)
        self.tell(events.RunEnded(reason, detail, answer, self.folder.notebook))

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
        log.error("the run failed", exc_info=error)
        return StopReason.SANDBOX_ERROR, f"{type(error).__name__}: {error}"

    def _take_out(self) -> tuple[str | None, list[str], list[str], str]:
        """Answer, files, refusals; and why there can be none, if the sandbox is gone."""
        try:
            found = (self.sandbox.read(path, ANSWER_BYTES) for path in ANSWER_FILES)
            data = next((data for data in found if data and data.strip()), None)
        except (SandboxError, OSError) as error:
            return None, [], [], f"the sandbox was gone before the answer was read: {error}"
        answer = None if data is None else data.decode("utf-8", "replace").rstrip("\r\n")
        names: list[str] = []
        try:
            names, refused = self.sandbox.collect(
                "/testbed/output", self.folder.files, self.config.limits.collect_bytes
            )
        except Exception as error:  # whatever a hostile folder can bring about
            log.debug("the files could not be taken out", exc_info=error)
            refused = [f"the rest of /testbed/output: {type(error).__name__}: {error}"]
        files = [name for name in names if clean_text(name) == name]
        refused += [
            f"{name!a}: taken out, but its name is no Unicode and cannot be listed"
            for name in names
            if clean_text(name) != name
        ]
        if len(refused) > REFUSALS:
            refused[REFUSALS:] = [f"and {len(refused) - REFUSALS} more"]
        for sentence in refused:
            self.tell(events.Note(f"not taken out: {sentence}"))
        return answer, files, refused, ""

    def _close(
        self,
        reason: StopReason,
        detail: str,
        answer: str | None,
        files: list[str],
        refused: list[str],
        seconds: float,
    ) -> None:
        usage = self.meter.usage
        text = record.outcome_text(reason, detail, answer, files, refused, self.meter, seconds)
        name = self.recorder.new_id("outcome")
        self.recorder.add(markdown_cell(name, text, ["lis-outcome"], kind="outcome"))
        self.recorder.close(
            stop_reason=reason.value,
            detail=clean_text(detail),
            answer=answer,
            files=files,
            refused=refused,
            usage=usage.model_dump(),
            verdicts=self.verdicts,
            turns=self.meter.turns,
            seconds=seconds,
        )

    # -- start -------------------------------------------------------------------------------

    async def _work(self) -> StopReason:
        loading = asyncio.create_task(self.model.prepare(self._fetching()))
        loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            messages = await self._start()
            await _of_model(loading)
        finally:
            loading.cancel()
        self.recorder.notebook["metadata"][KEY]["model"] = self.model.name
        specs = [tool.spec for tool in self.tools.values()] if self.protocol == "tools" else []
        window = self.config.model.context_window or self.model.context_window
        context = Context(
            messages,
            self.protocol,
            window=window,
            reply_tokens=min(self.config.model.max_output_tokens or 4096, window // 4),
            overhead=sum(len(json.dumps(spec.model_dump())) for spec in specs),
        )
        while (reason := self.meter.exceeded()) is None:
            reply = await self._ask(context, specs)
            if await self._act(context, reply):
                return StopReason.SUBMITTED
        return reason

    async def _start(self) -> list[Message]:
        """Sandbox, files, kernel, set-up cell; the conversation's first messages."""
        try:
            await self.sandbox.start()
        finally:
            messages = self._open_notebook()
        for path in self.task.files:
            await asyncio.to_thread(self.sandbox.put, path, f"/testbed/input/{given_name(path)}")
        setup = code_cell("setup", record.setup_source(), ["lis-setup"], folded=True, kind="setup")
        self.recorder.begin(setup)
        try:
            result = await self.session.start()
        except BaseException as error:
            self.recorder.finish(status=_cut(error))
            raise
        # a start may have had to do with less than was tried first
        self.recorder.notebook["metadata"][KEY]["sandbox"] = dict(self.sandbox.describe())
        setup["execution_count"] = result.execution_count
        self.recorder.finish(seconds=result.seconds, status=result.status)
        return messages

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

    # -- one turn ----------------------------------------------------------------------------

    async def _ask(self, context: Context, specs: list[ToolSpec]) -> Reply:
        """One model call, retried with a shorter conversation when the provider asks for that."""
        turn = self.meter.turns + 1
        self.recorder.flush()  # the model may think for long
        self.tell(events.TurnStarted(turn))
        dropped: list[str] = []
        for attempt in range(3):
            prompt, newly = context.prompt()
            dropped += newly
            started = time.monotonic()
            try:
                reply = await _of_model(
                    self.model.generate(
                        prompt,
                        specs,
                        max_tokens=self.config.model.max_output_tokens,
                        on_text=lambda channel, text: self.tell(events.TextStreamed(channel, text)),
                    )
                )
                break
            except ContextOverflow:
                if attempt == 2:
                    raise
                context.shrink()
        reply = Reply.model_validate(record.cleaned(dict(reply)))
        reply = reply.model_copy(update={"seconds": time.monotonic() - started})
        context.calibrate(reply.usage.input_tokens)
        self.meter.add(reply.usage)
        said = prose(reply.text) if self.protocol == "blocks" else reply.text
        self.tell(events.ReplyFinished(reply, said, self.meter.usage))
        ours = {"kind": "turn", "turn": turn, "reply": reply.model_dump(mode="json")}
        if dropped:
            ours["dropped"] = dropped
        name = self.recorder.new_id(f"turn-{turn}")
        self.recorder.add(
            markdown_cell(name, record.turn_text(turn, reply, said), ["lis-turn"], **ours)
        )
        return reply

    async def _act(self, context: Context, reply: Reply) -> bool:
        """Carry out a reply's calls and answer every one of them; True once one submitted."""
        text, raws = reply.text, list(reply.calls)
        if self.protocol == "blocks":
            raws, text = parse_blocks(reply.text, self.meter.turns, self.tools)
        raws = self._with_unique_ids(raws)
        unchanged = text == reply.text and tuple(raws) == reply.calls
        context.add(
            AssistantMessage(
                text=text,
                reasoning=reply.reasoning,
                calls=tuple(raws) if self.protocol == "tools" else (),
                raw=reply.raw if unchanged else {},
                provider=self.model.provider,
            )
        )
        if not raws:
            self._nudge(context, reply)
            return False
        results: list[ToolResult] = []
        done = False
        for raw in raws:
            if done:
                results.append(_result(raw, "Not run: the task had been submitted.", True))
                continue
            seen = await self._call(raw, context)
            done = done or seen.done
            results.append(_result(raw, seen.text, seen.is_error))
        if not done and (hint := self._turns_left()):
            last = results[-1]
            results[-1] = last.model_copy(update={"text": f"{last.text}\n{hint}"})
        context.add(ToolMessage(results=tuple(results)))
        return done

    def _with_unique_ids(self, raws: list[RawCall]) -> list[RawCall]:
        """Every call id of a conversation must differ; some servers number each reply from 0."""
        unique = []
        for n, raw in enumerate(raws):
            name = raw.id or f"call_{self.meter.turns}_{n}"
            while name in self.call_ids:
                name = f"{name}_{self.meter.turns}"
            self.call_ids.add(name)
            unique.append(raw if name == raw.id else raw.model_copy(update={"id": name}))
        return unique

    def _turns_left(self) -> str:
        """Small models take the number for a finding (`7 turns left` was submitted once)."""
        many = self.meter.budget.turns - self.meter.turns > LAST_TURNS
        return "" if many and self.protocol == "blocks" else self.meter.hint()

    def _nudge(self, context: Context, reply: Reply) -> None:
        """The reply held no call: say what is expected. The turn counts."""
        if reply.finish == "length":
            text = "Your reply was cut off at its length limit before any action. Be shorter."
        elif self.protocol == "blocks":
            text = (
                "No code block was found, so nothing happened. Write one ```bash or ```python "
                "block that finds the answer. If it stands in an output above, write a "
                "```submit block with nothing but the answer."
            )
        else:
            text = (
                "No tool was called, so nothing happened. Go on by calling a tool; "
                "when the task is done, write the result to /testbed/output and call `submit`."
            )
        if hint := self._turns_left():
            text += f"\n{hint}"
        name = self.recorder.new_id(f"nudge-{self.meter.turns}")
        cell = markdown_cell(name, text, ["lis-nudge"], kind="nudge", turn=self.meter.turns)
        self.recorder.add(cell)
        self.tell(events.Note("the reply held no action"))
        context.add(UserMessage(text=text))

    async def _call(self, raw: RawCall, context: Context) -> Observation:
        """One call: cell, kernel, observation; one that cannot be understood is not run."""
        try:
            call = calls.understand(raw, self.tools)
            source = clean_text(self.tools[call.name].to_cell(call.arguments))
        except ToolError as error:
            return self._refuse(raw, str(error))
        answer = call.arguments.get("answer") if call.name == "submit" else None
        if self.nudges and (why := self.nudges.objection(answer)):
            return self._refuse(raw, why)
        name = self.recorder.new_id(raw.id)
        context.remember_cell(raw.id, name)
        cell = code_cell(
            name,
            source,
            ["lis-call", f"lis-{call.name}"],
            kind="call",
            turn=self.meter.turns,
            call_id=raw.id,
            tool=call.name,
            arguments=call.arguments,
        )
        self.recorder.begin(cell)
        self.tell(events.CallStarted(call, source))
        try:
            result = await self.session.execute(
                source, on_output=lambda output: self.tell(events.CallOutput(output))
            )
        except BaseException as error:
            cut = CellResult(
                outputs=self.session.partial, status=_cut(error), verdict=self.session.verdict
            )
            self._finish(cell, call, cut)
            raise
        return self._finish(cell, call, result)

    def _finish(self, cell: dict[str, Any], call: ToolCall, result: CellResult) -> Observation:
        seen = self.tools[call.name].to_observation(result)
        hint = self.nudges.hint(cell["source"], seen) if self.nudges else ""
        network = self.sandbox.attempts()
        cell["outputs"] = list(result.outputs)
        cell["execution_count"] = result.execution_count
        tags = set(cell["metadata"]["tags"])
        if result.status == "error":
            tags.add("raises-exception")  # nbclient and nbmake go on after this cell
        elif result.status != "ok":
            tags.add("skip-execution")  # it would hang or kill a re-execution as it did here
        cell["metadata"]["tags"] = sorted(tags)
        self.recorder.finish(
            status=result.status,
            seconds=result.seconds,
            exit_code=seen.exit_code,
            is_error=seen.is_error,
            truncated=seen.truncated,
            restarted=result.restarted,
            verdict=result.verdict,
            limit=result.limit,
            done=seen.done,
            observation_sha256=hashlib.sha256(seen.text.encode()).hexdigest(),
            **({"network": [attempt.model_dump() for attempt in network]} if network else {}),
            **({"hint": hint} if hint else {}),
        )
        if result.verdict is not None:
            self.verdicts[result.verdict] = self.verdicts.get(result.verdict, 0) + 1
        self.tell(events.CallFinished(result, seen))
        if note := refused_hosts(network):
            self.tell(events.Note(note))
            seen = seen.model_copy(update={"text": f"{seen.text}\n[{note}]"})
        return seen.model_copy(update={"text": f"{seen.text}\n{hint}"}) if hint else seen

    def _refuse(self, raw: RawCall, why: str) -> Observation:
        """Record a call that was not run, with what the model was told."""
        text = clean_text(why)
        name = self.recorder.new_id(raw.id)
        shown = f"Call of `{clean_text(raw.name)[:100]}` was not run: {text}"
        cell = markdown_cell(
            name, shown, ["lis-refused"], kind="refused", turn=self.meter.turns, call_id=raw.id
        )
        self.recorder.add(cell)
        self.tell(events.Note(f"a call was not run: {text}"))
        return Observation(text=text, is_error=True)


def _result(raw: RawCall, text: str, is_error: bool) -> ToolResult:
    return ToolResult(call_id=raw.id, name=raw.name, text=text, is_error=is_error)


async def _of_model(asked: Awaitable[T]) -> T:
    """What a model does; that it fails is a `ModelError` even if its client says otherwise."""
    try:
        return await asked
    except LisKernelError:
        raise
    except Exception as error:
        raise ModelError(f"{type(error).__name__}: {error}") from error


def _cut(error: BaseException) -> Literal["interrupted", "died"]:
    """The status of a cell that `error` ended."""
    return "interrupted" if isinstance(error, asyncio.CancelledError) else "died"


def _exception(work: asyncio.Task[StopReason]) -> BaseException | None:
    if work.cancelled():
        return asyncio.CancelledError()
    return work.exception()
