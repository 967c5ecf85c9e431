"""One turn: the model is asked, and what it calls is carried out. Made by `agent/loop.py`.

    reply → call → cell (saved before it runs) → kernel → outputs → observation (saved)

Every call of a reply is answered, also one that is not run. What fails goes up to the loop as it
is, a model's failure always as a `ModelError`; the cell that ran then is recorded all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from lis_kernel.agent import events, record
from lis_kernel.agent.budget import Meter
from lis_kernel.agent.context import Context
from lis_kernel.agent.nudges import Nudges
from lis_kernel.agent.prompts import refused_hosts
from lis_kernel.config import ModelConfig
from lis_kernel.errors import ContextOverflow, LisKernelError, ModelError, ToolError
from lis_kernel.kernel.outputs import clean_text
from lis_kernel.kernel.session import KernelSession
from lis_kernel.protocols import Model, Tool
from lis_kernel.tools import calls
from lis_kernel.tools.blocks import parse_blocks, prose
from lis_kernel.tools.observation import befell
from lis_kernel.trajectory import Recorder
from lis_kernel.trajectory.notebook import code_cell, markdown_cell
from lis_kernel.types import (
    AssistantMessage,
    CellResult,
    Message,
    Observation,
    RawCall,
    Reply,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)

__all__ = ["Turns", "cut_short", "of_model"]

T = TypeVar("T")

LAST_TURNS = 2
"""Models of the code-block protocol are told of their remaining turns only from here on."""


class Turns:
    """A run's turns, and the conversation that grows by them.

    Args:
        config: bounds of a reply and of the prompt.
        model: ready to answer.
        protocol: native tool calls, or code blocks in plain text.
        tools: by name, in the order in which they are offered.
        messages: the conversation's first.
        session: started; the cells run in it.
        recorder: of the open notebook.
        meter: counts the turns, and is asked how many are left.
        tell: told what happens, see `agent/events.py`.
        between: awaited before each call but the first of a reply.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: Model,
        protocol: Literal["tools", "blocks"],
        tools: Mapping[str, Tool],
        messages: Sequence[Message],
        session: KernelSession,
        recorder: Recorder,
        meter: Meter,
        tell: events.OnEvent,
        between: Callable[[], Awaitable[None]],
    ) -> None:
        self.config = config
        self.model = model
        self.protocol = protocol
        self.tools = tools
        self.session = session
        self.recorder = recorder
        self.meter = meter
        self.tell = tell
        self.between = between
        self.specs = [tool.spec for tool in tools.values()] if protocol == "tools" else []
        window = config.context_window or model.context_window
        self.context = Context(
            messages,
            protocol,
            window=window,
            reply_tokens=min(config.max_output_tokens or 4096, window // 4),
            overhead=sum(len(json.dumps(spec.model_dump())) for spec in self.specs),
        )
        self.call_ids = {
            call.id for m in messages if isinstance(m, AssistantMessage) for call in m.calls
        }
        self.nudges = Nudges() if protocol == "blocks" else None

    async def ask(self) -> Reply:
        """One model call, retried with a shorter conversation when the provider asks for that."""
        turn = self.meter.turns + 1
        await self.recorder.saved()  # the model may think for long
        self.tell(events.TurnStarted(turn))
        dropped: list[str] = []
        for attempt in range(3):
            prompt, newly = self.context.prompt()
            dropped += newly
            started = time.monotonic()
            try:
                reply = await of_model(
                    self.model.generate(
                        prompt,
                        self.specs,
                        max_tokens=self.config.max_output_tokens,
                        on_text=lambda channel, text: self.tell(events.TextStreamed(channel, text)),
                    )
                )
                break
            except ContextOverflow:
                if attempt == 2:
                    raise
                self.context.shrink()
        reply = Reply.model_validate(record.cleaned(dict(reply)))
        reply = reply.model_copy(update={"seconds": time.monotonic() - started})
        self.context.calibrate(reply.usage.input_tokens)
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

    async def act(self, reply: Reply) -> bool:
        """Carry out a reply's calls and answer every one of them; True once one submitted."""
        text, raws = reply.text, list(reply.calls)
        if self.protocol == "blocks":
            raws, text = parse_blocks(reply.text, self.meter.turns, self.tools)
        raws = self._with_unique_ids(raws)
        unchanged = text == reply.text and tuple(raws) == reply.calls
        self.context.add(
            AssistantMessage(
                text=text,
                reasoning=reply.reasoning,
                calls=tuple(raws) if self.protocol == "tools" else (),
                raw=reply.raw if unchanged else {},
                provider=self.model.provider,
            )
        )
        if not raws:
            self._nudge(reply)
            return False
        results: list[ToolResult] = []
        done = False
        try:
            for raw in raws:
                if done:
                    results.append(_result(raw, "Not run: the task had been submitted.", True))
                    continue
                if results:
                    await self.between()
                seen = await self._call(raw)
                done = done or seen.done
                results.append(_result(raw, seen.text, seen.is_error))
        except BaseException:
            # another run may go on with the conversation: no call of it may lack an answer
            rest = [_result(raw, "Broken off.", True) for raw in raws[len(results) :]]
            self.context.add(ToolMessage(results=(*results, *rest)))
            raise
        if not done and (hint := self._turns_left()):
            last = results[-1]
            results[-1] = last.model_copy(update={"text": f"{last.text}\n{hint}"})
        self.context.add(ToolMessage(results=tuple(results)))
        return done

    def hear(self, text: str) -> None:
        """What the model must know of what people did and said, before its next answer."""
        name = self.recorder.new_id(f"message-{self.meter.turns}")
        tags, turn = ["lis-message"], self.meter.turns
        self.recorder.add(markdown_cell(name, text, tags, kind="message", turn=turn))
        self.context.add(UserMessage(text=text))
        self.tell(events.Said(text))

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

    def _nudge(self, reply: Reply) -> None:
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
        self.context.add(UserMessage(text=text))

    async def _call(self, raw: RawCall) -> Observation:
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
        self.context.remember_cell(raw.id, name)
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
        started, begun = time.monotonic(), False
        try:
            await self.recorder.saved()
            self.tell(events.CallStarted(call, source))
            begun = True
            result = await self.session.execute(
                source, on_message=lambda *said: self.tell(events.CallOutput(*said))
            )
        except BaseException as error:
            cut = CellResult(
                outputs=self.session.partial if begun else (),
                status=cut_short(error),
                seconds=time.monotonic() - started,
                verdict=self.session.verdict if begun else None,
            )
            await self._finish(cell, call, cut)
            raise
        return await self._finish(cell, call, result)

    async def _finish(
        self, cell: dict[str, Any], call: ToolCall, result: CellResult
    ) -> Observation:
        seen = self.tools[call.name].to_observation(result)
        hint = self.nudges.hint(cell["source"], seen) if self.nudges else ""
        network = self.session.sandbox.attempts()
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
        if note := befell(result.status, result.verdict, result.limit, result.restarted):
            # a cell that was killed has nothing to show for itself
            self.recorder.add(
                markdown_cell(
                    self.recorder.new_id(f"{cell['id']}-note"),
                    f"{note[0].upper()}{note[1:]}.",
                    ["lis-note"],
                    kind="note",
                    turn=self.meter.turns,
                    call_id=call.id,
                )
            )
        await self.recorder.saved()
        self.tell(events.CallFinished(result, seen, network))
        if refused := refused_hosts(network):
            self.tell(events.Note(refused))
            seen = seen.model_copy(update={"text": f"{seen.text}\n[{refused}]"})
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


async def of_model(asked: Awaitable[T]) -> T:
    """What a model does; that it fails is a `ModelError` even if its client says otherwise."""
    try:
        return await asked
    except LisKernelError:
        raise
    except Exception as error:
        raise ModelError(f"{type(error).__name__}: {error}") from error


def cut_short(error: BaseException) -> Literal["interrupted", "died"]:
    """The status of a cell that `error` ended."""
    return "interrupted" if isinstance(error, asyncio.CancelledError) else "died"
