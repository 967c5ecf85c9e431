"""Making what one model wrote fit for the API of another, or of the same one a turn later.

APIs are stricter about the past than about the present: a call whose arguments were broken, an
id used twice or half a surrogate pair is refused with a 400 when it is sent back, and the run
would be stuck for good. Everything here is deterministic, so that the sent prefix stays the same
from turn to turn and prompt caches keep working.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeVar

from lis_kernel.types import AssistantMessage, Message, RawCall, Reply, ToolMessage, Usage

__all__ = ["CallIds", "Finish", "as_object", "estimate", "parse_object", "scrub", "tool_name"]

T = TypeVar("T")

Finish = Literal["stop", "tool_calls", "length", "refusal", "other"]
"""Why a reply ended, as in `types.Reply.finish`."""


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`, or None. NaN and Infinity are not JSON, whatever Python says."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def as_object(arguments: Any) -> dict[str, Any]:
    """Arguments as the object that APIs insist on; what is none is kept under `_malformed`."""
    if isinstance(arguments, dict):
        return arguments
    if isinstance(arguments, str):
        if not arguments.strip():
            return {}
        parsed = parse_object(arguments)
        return parsed if parsed is not None else {"_malformed": arguments}
    return {} if arguments is None else {"_malformed": json.dumps(arguments)}


def scrub(value: T) -> T:
    """`value` with lone surrogates replaced, in every string of it.

    JSON can spell them (`"\\ud83d"`), UTF-8 cannot: they would break the next request and the
    saved notebook. Surrogate pairs that were split over two pieces are joined.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # type: ignore[return-value]
        return value
    if isinstance(value, dict):
        return {scrub(k): scrub(v) for k, v in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [scrub(v) for v in value]  # type: ignore[return-value]
    return value


def tool_name(name: str) -> str:
    """A name that APIs take (`^[a-zA-Z0-9_-]{1,64}$`), unchanged if it is one already."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "unnamed"


class CallIds:
    """Ids of tool calls that an API takes, each used once in the whole conversation.

    `calls` names those of one assistant message; `answer` gives the same names to the results
    that follow it, call by call, even where the model used one id twice.
    """

    def __init__(self, bad: str = "[^a-zA-Z0-9_-]", longest: int = 64) -> None:
        """`bad` matches a character that the API refuses; empty: it takes them all."""
        self._bad = re.compile(bad) if bad else None
        self._longest = longest
        self._used: set[str] = set()
        self._open: list[tuple[str, str]] = []

    def calls(self, raw_ids: Sequence[str]) -> list[str]:
        """The ids to send for the calls of one assistant message."""
        names = [self._fresh(raw) for raw in raw_ids]
        self._open = list(zip(raw_ids, names, strict=True))
        return names

    def answer(self, raw_id: str) -> str:
        """The id to send with the next result for `raw_id`."""
        for position, (raw, name) in enumerate(self._open):
            if raw == raw_id:
                del self._open[position]
                return name
        return self._clean(raw_id)

    def _clean(self, raw: str) -> str:
        return (self._bad.sub("_", raw) if self._bad else raw)[: self._longest] or "call"

    def _fresh(self, raw: str) -> str:
        clean = name = self._clean(raw)
        count = 1
        while name in self._used:
            count += 1
            tail = f"_{count}"
            name = clean[: self._longest - len(tail)] + tail
        self._used.add(name)
        return name


def estimate(messages: Sequence[Message], reply: Reply) -> Usage:
    """Four characters to a token: for servers that do not count, and for scripts."""
    written = len(reply.text) + len(reply.reasoning) + sum(map(_length, reply.calls))
    return Usage(input_tokens=sum(map(_characters, messages)) // 4, output_tokens=written // 4)


def _characters(message: Message) -> int:
    if isinstance(message, ToolMessage):
        return sum(len(result.text) for result in message.results)
    if isinstance(message, AssistantMessage):
        return len(message.text) + len(message.reasoning) + sum(map(_length, message.calls))
    return len(message.text)


def _length(call: RawCall) -> int:
    arguments = call.arguments
    return len(call.name) + len(arguments if isinstance(arguments, str) else json.dumps(arguments))
