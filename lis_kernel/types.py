"""The words: small frozen values that every floor speaks.

A conversation is a list of `Message`; a model answers with a `Reply`; a reply's `RawCall`s are
what the model wrote, a `ToolCall` is one that was understood; a `CellResult` is what running its
cell gave; an `Observation` is what the model is shown of that.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AssistantMessage",
    "CellResult",
    "Message",
    "Observation",
    "RawCall",
    "Reply",
    "StopReason",
    "SystemMessage",
    "Task",
    "ToolCall",
    "ToolMessage",
    "ToolResult",
    "ToolSpec",
    "Usage",
    "UserMessage",
]

Output = dict[str, Any]
"""One nbformat output: `stream`, `display_data`, `execute_result` or `error`."""


class Value(BaseModel):
    """Base of the frozen values."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StopReason(StrEnum):
    """Why a run ended. The set is closed; only `SUBMITTED` may be scored as an answer."""

    SUBMITTED = "submitted"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    MAX_COST = "max_cost"
    TIMEOUT = "timeout"
    CONTEXT_WINDOW = "context_window"
    MODEL_ERROR = "model_error"
    SANDBOX_ERROR = "sandbox_error"
    SANDBOX_LOST = "sandbox_lost"
    INTERRUPTED = "interrupted"

    @property
    def is_budget(self) -> bool:
        """True if one of the run's own budgets ended it."""
        return self in _BUDGETS


_BUDGETS = {
    StopReason.MAX_TURNS,
    StopReason.MAX_TOKENS,
    StopReason.MAX_COST,
    StopReason.TIMEOUT,
    StopReason.CONTEXT_WINDOW,
}


class Usage(Value):
    """What one model call, or a sum of them, used.

    `input_tokens` counts the whole prompt, tokens read from a cache included. `cost_usd` is None
    where the price is not known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        costs = [c for c in (self.cost_usd, other.cost_usd) if c is not None]
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost_usd=sum(costs) if costs else None,
        )


class ToolSpec(Value):
    """A tool as a provider's API wants it: `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


class RawCall(Value):
    """A tool call exactly as the model wrote it; nothing about it is trusted yet.

    `arguments` is the JSON text (or the object, where the provider parses it); `extra` holds keys
    that the model put beside the known ones (some models put the arguments there).
    """

    id: str
    name: str
    arguments: Any = None
    extra: dict[str, Any] = Field(default_factory=dict)


class ToolCall(Value):
    """A call that was understood: a known tool's name and an object of arguments."""

    id: str
    name: str
    arguments: dict[str, Any]


class Reply(Value):
    """One assistant message and what it cost.

    `raw` is the provider's own message as JSON (thinking blocks and signatures included), so that
    the conversation can be replayed unchanged to the same provider; `finish` says why it ended.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[RawCall, ...] = ()
    raw: dict[str, Any] = Field(default_factory=dict)
    usage: Usage = Usage()
    finish: Literal["stop", "tool_calls", "length", "refusal", "other"] = "stop"
    seconds: float = 0.0


class SystemMessage(Value):
    role: Literal["system"] = "system"
    text: str


class UserMessage(Value):
    role: Literal["user"] = "user"
    text: str


class AssistantMessage(Value):
    """A reply as part of the conversation; `provider` names who wrote `raw`."""

    role: Literal["assistant"] = "assistant"
    text: str = ""
    reasoning: str = ""
    calls: tuple[RawCall, ...] = ()
    raw: dict[str, Any] = Field(default_factory=dict)
    provider: str = ""


class ToolResult(Value):
    """The answer to one call id. Every call of an assistant message gets exactly one."""

    call_id: str
    name: str
    text: str
    is_error: bool = False


class ToolMessage(Value):
    """The answers to all calls of the assistant message before it, in its order."""

    role: Literal["tool"] = "tool"
    results: tuple[ToolResult, ...]


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class Task(Value):
    """What is asked.

    `files` are host paths; each appears under its own name in the sandbox's /testbed/input.
    """

    prompt: str = Field(min_length=1)
    files: tuple[Path, ...] = ()


Verdict = Literal["oom", "disk_full", "pids", "timeout", "killed"]
"""Which limit of the sandbox a cell ran into."""


class Attempt(Value):
    """One try to reach the network through the sandbox's proxy."""

    host: str
    port: int
    allowed: bool
    reason: str = ""
    """Why it was refused, or what failed; empty if it went through."""


class CellResult(Value):
    """What running one cell gave.

    `status` is the kernel's: `ok` or `error`, or `timeout` when the cell was stopped by us, or
    `died` when the kernel ended under it. `execution_count` is None when no reply came.
    `restarted` says that the kernel had to be replaced and its variables are gone. `verdict` names
    the limit that the cell ran into, as far as the sandbox can tell, and `limit` says how much that
    is, in words ("2 GiB").
    """

    outputs: tuple[Output, ...] = ()
    status: Literal["ok", "error", "timeout", "died", "interrupted"] = "ok"
    execution_count: int | None = None
    seconds: float = 0.0
    restarted: bool = False
    verdict: Verdict | None = None
    limit: str = ""


class Observation(Value):
    """What the model is shown of a cell's result.

    `exit_code` is the shell's, None for other tools. `done` is True only for an accepted submit.
    """

    text: str
    is_error: bool = False
    exit_code: int | None = None
    truncated: bool = False
    done: bool = False

    def _repr_html_(self) -> str:
        from lis_kernel import cards

        tone: cards.Tone = "bad" if self.is_error else "good"
        word = "error" if self.is_error else "ok"
        said = word if self.exit_code is None else f"exit code {self.exit_code}"
        more = [word for word in ("truncated", "done") if getattr(self, word)]
        head = cards.badge(said, tone) + "".join(f" {cards.badge(word)}" for word in more)
        return cards.page(head, cards.pre(cards.ansi(self.text)))
