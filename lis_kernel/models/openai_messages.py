"""Chat Completions' messages: from our conversation, and back from a stream of chunks.

Servers agree on the shape of a chunk and differ in its corners: no index, one id for every piece,
a whole call at once, no id at all. `Answer` takes them all; each tolerance is for a server that
needs it. `to_messages` sends back only what the strictest of them accept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from lis_kernel.errors import ModelUnavailable
from lis_kernel.models.base import Piece, Retry
from lis_kernel.models.text import CallIds, Finish, as_object, scrub, tool_name
from lis_kernel.types import (
    AssistantMessage,
    Message,
    RawCall,
    Reply,
    SystemMessage,
    ToolMessage,
    Usage,
)

__all__ = ["PROVIDER", "Answer", "to_messages"]

PROVIDER = "openai"

_REASONING = ("reasoning_content", "reasoning")
_CALL_KEYS = ("index", "id", "type", "function")
_FUNCTION_KEYS = ("name", "arguments")
_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "content_filter": "refusal",
}


class Answer:
    """One streamed message, put together chunk by chunk."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._reasoning_key = _REASONING[0]
        self._calls: list[dict[str, Any]] = []
        self._by_index: dict[int, dict[str, Any]] = {}
        self._finish: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._refused = False

    def feed(self, chunk: dict[str, Any]) -> Iterator[Piece]:
        """Take one chunk; give the text that it brought."""
        self._usage = chunk.get("usage") or self._usage
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or {}
            for key in _REASONING:
                if isinstance(piece := delta.get(key), str) and piece:
                    self._reasoning_key = key
                    self._reasoning.append(piece)
                    yield "reasoning", piece
                    break  # some servers send the same piece under both names
            for key in ("content", "refusal"):
                if isinstance(piece := delta.get(key), str) and piece:
                    self._refused |= key == "refusal"
                    self._text.append(piece)
                    yield "text", piece
            for call in delta.get("tool_calls") or []:
                yield "arguments", self._call(call)
            self._finish = choice.get("finish_reason") or self._finish

    def _call(self, delta: dict[str, Any]) -> str:
        """Add a piece of a call to the call that it belongs to; the arguments that it brought."""
        function = delta.get("function") or {}
        call = self._slot(delta.get("index"), delta.get("id"), function.get("name"))
        call["id"] = call["id"] or delta.get("id") or ""
        call["name"] = call["name"] or function.get("name") or ""
        call["extra"] |= _unknown(delta, _CALL_KEYS)
        call["function_extra"] |= _unknown(function, _FUNCTION_KEYS)
        arguments = function.get("arguments")
        if arguments is None:
            return ""
        # A string is a piece of JSON; a few servers send the whole object instead.
        piece = arguments if isinstance(arguments, str) else json.dumps(arguments)
        call["arguments"].append(piece)
        return piece

    def _slot(self, index: int | None, call_id: str | None, name: str | None) -> dict[str, Any]:
        """The call that a piece continues, or a new one.

        By index, as the API says; but some servers give every call the index 0, and some give
        none. Another id always starts another call, and so does a name where there is no more.
        """
        if index is None:
            call = self._calls[-1] if self._calls else None
            starts = call is not None and not call_id and bool(name and call["name"])
        else:
            call = self._by_index.get(index)
            starts = False
        if call is None or starts or (call_id and call["id"] and call_id != call["id"]):
            call = {"id": "", "name": "", "arguments": [], "extra": {}, "function_extra": {}}
            self._calls.append(call)
            if index is not None:
                self._by_index[index] = call
        return call

    def reply(self) -> Reply:
        """The whole message.

        Raises:
            Retry: the stream ended before the message did.
        """
        if self._finish is None:
            raise Retry(ModelUnavailable("The answer was cut: the stream ended without its end."))
        text, reasoning = scrub("".join(self._text)), scrub("".join(self._reasoning))
        raw: dict[str, Any] = {"role": "assistant", "content": text}
        if reasoning:
            raw[self._reasoning_key] = reasoning
        calls = [scrub(call) for call in self._calls]
        ids = CallIds(bad="", longest=512).calls(
            [call["id"] or f"call_{uuid4().hex[:24]}" for call in calls]
        )
        for call, call_id in zip(calls, ids, strict=True):
            call.update(id=call_id, arguments="".join(call["arguments"]))
        if calls:
            raw["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {
                        "name": call["name"],
                        "arguments": call["arguments"],
                        **call["function_extra"],
                    },
                    **call["extra"],
                }
                for call in calls
            ]
        finish: Finish = "refusal" if self._refused else _FINISH.get(self._finish, "other")
        return Reply(
            text=text,
            reasoning=reasoning,
            calls=tuple(
                RawCall(
                    id=call["id"],
                    name=call["name"],
                    arguments=call["arguments"],
                    extra={**call["extra"], **call["function_extra"]},
                )
                for call in calls
            ),
            raw=raw,
            usage=_usage(self._usage),
            finish="tool_calls" if calls and finish == "stop" else finish,
        )


def _unknown(place: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in place.items() if key not in known and value is not None}


def _usage(counted: Mapping[str, Any]) -> Usage:
    details = counted.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=counted.get("prompt_tokens") or 0,
        output_tokens=counted.get("completion_tokens") or 0,
        cache_read_tokens=details.get("cached_tokens") or 0,
        cache_write_tokens=details.get("cache_write_tokens") or 0,
    )


def to_messages(messages: Sequence[Message], ids: CallIds) -> Iterator[dict[str, Any]]:
    """The conversation as the API wants it: the system first, a message per tool result."""
    system = "\n\n".join(m.text for m in messages if isinstance(m, SystemMessage))
    if system:
        yield {"role": "system", "content": system}
    for message in messages:
        match message:
            case SystemMessage():
                continue
            case ToolMessage():
                for result in message.results:
                    call_id = ids.answer(result.call_id)
                    yield {"role": "tool", "tool_call_id": call_id, "content": result.text}
            case AssistantMessage():
                yield _assistant(message, ids)
            case _:
                yield {"role": "user", "content": message.text}


def _assistant(message: AssistantMessage, ids: CallIds) -> dict[str, Any]:
    kept = message.raw if message.provider == PROVIDER else {}
    sent: dict[str, Any] = kept or {"role": "assistant", "content": message.text}
    # What the provider put beside the known keys (a thought's signature) goes back with the call.
    written = {call["id"]: call for call in kept.get("tool_calls", ())}
    calls = []
    for call, call_id in zip(message.calls, ids.calls([c.id for c in message.calls]), strict=True):
        original = written.get(call.id, {"type": "function", "function": {}})
        # Chat templates parse the arguments: only the text of an object does not break them.
        function = {
            **original["function"],
            "name": tool_name(call.name),
            "arguments": _arguments(call.arguments),
        }
        calls.append({**original, "id": call_id, "function": function})
    sent = {key: value for key, value in sent.items() if key != "tool_calls"}
    return {**sent, "tool_calls": calls} if calls else sent


def _arguments(arguments: Any) -> str:
    """The text of a JSON object; the model's own text where it is one, to the byte."""
    parsed = as_object(arguments)
    if isinstance(arguments, str) and arguments.strip() and parsed.keys() != {"_malformed"}:
        return arguments
    return json.dumps(parsed)
