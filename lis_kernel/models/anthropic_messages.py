"""The Messages API's messages: from our conversation, and back from a stream of events.

`to_messages` gives what the API accepts, and it is strict: roles alternate, no text is blank, every
call is answered in the next message. `Answer` puts a streamed message together and keeps its
blocks as they came, so that thinking and its signatures go back unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lis_kernel.errors import ModelUnavailable
from lis_kernel.models.base import Piece, Retry
from lis_kernel.models.text import CallIds, Finish, as_object, parse_object, scrub, tool_name
from lis_kernel.types import (
    AssistantMessage,
    Message,
    RawCall,
    Reply,
    SystemMessage,
    ToolMessage,
    ToolResult,
    Usage,
    UserMessage,
)

__all__ = ["CACHE", "PROVIDER", "Answer", "to_messages"]

PROVIDER = "anthropic"

EMPTY = "(empty)"
"""Stands for a text without a visible character, which the API refuses."""

CACHE = {"type": "ephemeral"}
"""Marks the end of a prefix that the next request is likely to begin with."""

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class Answer:
    """One streamed message, put together event by event."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._json: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}
        self._complete = False

    def feed(self, event: dict[str, Any]) -> Iterator[Piece]:
        """Take one event; give the text that it brought."""
        match event["type"]:
            case "message_start":
                self._message = event["message"]
                self._count(self._message.get("usage"))
            case "content_block_start":
                block = self._blocks[event["index"]] = event["content_block"]
                if block["type"] == "text" and block.get("text"):
                    yield "text", block["text"]
            case "content_block_delta":
                yield from self._delta(event["index"], event["delta"])
            case "message_delta":
                self._message.update(event["delta"])
                self._count(event.get("usage"))
            case "message_stop":
                self._complete = True

    def _delta(self, index: int, delta: dict[str, Any]) -> Iterator[Piece]:
        block = self._blocks[index]
        match delta["type"]:
            case "text_delta":
                block["text"] = block.get("text", "") + delta["text"]
                yield "text", delta["text"]
            case "thinking_delta":
                block["thinking"] = block.get("thinking", "") + delta["thinking"]
                yield "reasoning", delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                self._json.setdefault(index, []).append(delta["partial_json"])
                yield "arguments", delta["partial_json"]
            case "citations_delta":
                block.setdefault("citations", []).append(delta["citation"])

    def _count(self, usage: dict[str, Any] | None) -> None:
        # The counts of a later event are totals, and leave out what does not apply to it.
        self._usage.update({k: v for k, v in (usage or {}).items() if isinstance(v, int)})

    def reply(self) -> Reply:
        """The whole message.

        Raises:
            Retry: the stream ended before the message did.
        """
        if not self._complete or not self._message.get("stop_reason"):
            raise Retry(ModelUnavailable("The answer was cut: the stream ended without its end."))
        for index, pieces in self._json.items():
            text = "".join(pieces)
            if text.strip():
                # Cut by max_tokens or badly written: kept as text, and mended only when sent back.
                parsed = parse_object(text)
                self._blocks[index]["input"] = text if parsed is None else parsed
        content = scrub([self._blocks[index] for index in sorted(self._blocks)])
        cached = self._usage.get("cache_read_input_tokens", 0)
        written = self._usage.get("cache_creation_input_tokens", 0)
        return Reply(
            text="".join(b.get("text", "") for b in content if b["type"] == "text"),
            reasoning="".join(b.get("thinking", "") for b in content if b["type"] == "thinking"),
            calls=tuple(
                RawCall(id=b["id"], name=b["name"], arguments=b.get("input"))
                for b in content
                if b["type"] == "tool_use"
            ),
            raw={
                "id": self._message.get("id"),
                "model": self._message.get("model"),
                "role": "assistant",
                "content": content,
                "stop_reason": self._message["stop_reason"],
            },
            usage=Usage(
                # The API counts only what no cache had a part in.
                input_tokens=self._usage.get("input_tokens", 0) + cached + written,
                output_tokens=self._usage.get("output_tokens", 0),
                cache_read_tokens=cached,
                cache_write_tokens=written,
            ),
            finish=_FINISH.get(self._message["stop_reason"], "other"),
        )


def to_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as the API wants it: roles alternate, every block is allowed."""
    ids = CallIds()
    sent: list[dict[str, Any]] = []
    for message in messages:
        match message:
            case SystemMessage():
                continue
            case UserMessage():
                role, content = "user", [_text(message.text)]
            case ToolMessage():
                role, content = "user", [_result(result, ids) for result in message.results]
            case AssistantMessage():
                role, content = "assistant", _assistant(message, ids)
        if not content:
            continue
        if sent and sent[-1]["role"] == role:
            sent[-1]["content"] += content
        else:
            sent.append({"role": role, "content": content})
    # The end of this request is where the next one reads; the end of the one before is where
    # this one does. Without the second mark a turn of many blocks hides it from the API's search.
    for message_ in [m for m in sent if m["role"] == "user"][-2:]:
        message_["content"][-1] = {**message_["content"][-1], "cache_control": CACHE}
    return sent


def _assistant(message: AssistantMessage, ids: CallIds) -> list[dict[str, Any]]:
    kept = message.raw.get("content") if message.provider == PROVIDER else None
    if kept is None:
        kept = [{"type": "text", "text": message.text}] + [
            {"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments}
            for c in message.calls
        ]
    known = {call.id for call in message.calls}
    blocks = [block for block in kept if _may_be_sent(block, known)]
    while blocks and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
        blocks.pop()  # a message must not end in a thought
    names = iter(ids.calls([b["id"] for b in blocks if b["type"] == "tool_use"]))
    return [
        {**b, "id": next(names), "name": tool_name(b["name"]), "input": as_object(b["input"])}
        if b["type"] == "tool_use"
        else b
        for b in blocks
    ]


def _may_be_sent(block: dict[str, Any], known: set[str]) -> bool:
    match block["type"]:
        case "text":
            return bool(block["text"].strip())
        case "thinking":
            return bool(block.get("signature"))  # none if max_tokens cut the thought
        case "tool_use":
            return block["id"] in known  # one that the loop dropped gets no result
    return True


def _result(result: ToolResult, ids: CallIds) -> dict[str, Any]:
    return {
        "type": "tool_result",
        "tool_use_id": ids.answer(result.call_id),
        "content": result.text if result.text.strip() else EMPTY,
        "is_error": result.is_error,
    }


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text if text.strip() else EMPTY}
