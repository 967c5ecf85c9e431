"""`scripted:<file>`: replies read from a file instead of asked of a model.

For tests, demonstrations and replaying a recorded run's decisions in a fresh sandbox: the file is
a list of replies in JSON, or a trajectory notebook of ours, whose turns hold the replies.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError, ModelError
from lis_kernel.models import split_name
from lis_kernel.models.text import Finish, estimate
from lis_kernel.protocols import OnText, Progress
from lis_kernel.types import Message, RawCall, Reply, ToolSpec

__all__ = ["ScriptedModel"]

_FIX = (
    'Write a JSON list of {"text": "...", "tool_calls": [{"name": "...", "arguments": {...}}]}, '
    "or name a trajectory notebook."
)


class _Call(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    arguments: Any = None
    id: str | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = ""
    reasoning: str = ""
    tool_calls: list[_Call] = Field(default_factory=list)
    finish: Finish | None = None
    delay: float = Field(default=0.0, ge=0)
    """Seconds before the reply begins."""

    def reply(self, turn: int) -> Reply:
        calls = tuple(
            RawCall(
                id=call.id or f"call_{turn}_{position}",
                name=call.name,
                arguments=call.arguments,
                extra=call.model_extra or {},
            )
            for position, call in enumerate(self.tool_calls)
        )
        return Reply(
            text=self.text,
            reasoning=self.reasoning,
            calls=calls,
            finish=self.finish or ("tool_calls" if calls else "stop"),
            seconds=self.delay,
        )


class ScriptedModel:
    """Gives its replies in order, whatever it is asked."""

    provider = "scripted"
    default_protocol: Literal["tools", "blocks"] = "tools"

    def __init__(self, config: ModelConfig) -> None:
        """Read the script.

        Raises:
            ConfigError: the file cannot be read, or an entry of it is no reply.
        """
        self._set(config.name, _read(Path(split_name(config.name)[1])))
        if config.context_window is not None:
            self.context_window = config.context_window

    @classmethod
    def from_replies(cls, replies: Sequence[Reply | dict[str, Any]]) -> Self:
        """A model out of replies, or of entries as in the file.

        Raises:
            ConfigError: an entry is no reply.
        """
        model = cls.__new__(cls)
        model._set("scripted:replies", _replies("replies", list(replies)))
        return model

    def _set(self, name: str, replies: list[Reply]) -> None:
        self.name = name
        self.context_window = 1_000_000
        self._replies = replies
        self._next = 0

    async def prepare(self, progress: Progress | None = None) -> None:
        """Nothing has to be prepared."""

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """The next reply. Usage is estimated from its length; it costs nothing.

        Raises:
            ModelError: the script has no more replies.
        """
        count = len(self._replies)
        if self._next >= count:
            raise ModelError(
                f"the script has {count} {'reply' if count == 1 else 'replies'} and the run asked "
                "for more"
            )
        reply = self._replies[self._next]
        self._next += 1
        await asyncio.sleep(reply.seconds)
        if on_text is not None:
            for piece in _pieces(reply.reasoning):
                on_text("reasoning", piece)
            for piece in _pieces(reply.text):
                on_text("text", piece)
        usage = estimate(messages, reply).model_copy(update={"cost_usd": 0.0})
        return reply.model_copy(update={"usage": usage})

    async def aclose(self) -> None:
        """Nothing to close."""


def _pieces(text: str) -> Iterator[str]:
    """The text in four pieces, as a stream would bring it."""
    size = max(1, -(-len(text) // 4))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _read(path: Path) -> list[Reply]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("--model", f"cannot read {path}: {error.strerror}.", _FIX) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError("--model", f"{path} is not JSON: {error}.", _FIX) from error
    if isinstance(data, dict) and isinstance(data.get("cells"), list):
        return _from_notebook(path, data["cells"])
    if not isinstance(data, list):
        raise ConfigError("--model", f"{path} holds no list of replies.", _FIX)
    return _replies(str(path), data)


def _replies(source: str, entries: Sequence[Any]) -> list[Reply]:
    replies = []
    for turn, entry in enumerate(entries):
        try:
            if isinstance(entry, Reply):
                replies.append(_at_once(entry))
            else:
                replies.append(_Entry.model_validate(entry).reply(turn))
        except ValidationError as error:
            raise _bad_entry(source, f"entry {turn}", error) from error
    return replies


def _from_notebook(path: Path, cells: Sequence[Any]) -> list[Reply]:
    replies = []
    for position, cell in enumerate(cells):
        ours = cell.get("metadata", {}).get("lis_kernel", {}) if isinstance(cell, dict) else {}
        if not isinstance(ours, dict) or ours.get("kind") != "turn":
            continue
        try:
            replies.append(_at_once(Reply.model_validate(ours.get("reply"))))
        except ValidationError as error:
            raise _bad_entry(str(path), f"the turn in cell {position}", error) from error
    if not replies:
        raise ConfigError("--model", f"{path} is no trajectory notebook: it has no turns.", _FIX)
    return replies


def _at_once(reply: Reply) -> Reply:
    """A recorded reply without the time that it once took."""
    return reply.model_copy(update={"seconds": 0.0})


def _bad_entry(source: str, where: str, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return ConfigError(
        "--model", f"{source}: {where} is no reply: {place or 'it'}: {first['msg']}.", _FIX
    )
