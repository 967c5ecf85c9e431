"""iopub messages → nbformat outputs. Pure, and it trusts nothing that a kernel says.

On the main path between `kernel/session.py`, which receives messages, and the trajectory, which
stores outputs. Messages come from hostile code: a field of the wrong type drops the message, text
is made valid Unicode, and a cell's outputs are bounded in bytes and number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from lis_kernel.trajectory.notebook import is_json
from lis_kernel.types import Output

__all__ = ["OnMessage", "OutputCollector", "Shown", "clean_text"]

OnMessage = Callable[[str, dict[str, Any]], None]
"""Called with each message of a cell that changes what is shown, in order: its kind (`stream`,
`display_data`, `update_display_data`, `execute_result`, `error` or `clear_output`) and its content,
clean and bounded."""

MAX_OUTPUTS = 5_000
MAX_NESTING = 100


def clean_text(text: str) -> str:
    """`text` with lone surrogates replaced, so that it can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _clean(value: Any, depth: int = 0) -> Any:
    """`value` as JSON that every reader takes; too deep for them, it drops the message."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | dict) and depth == MAX_NESTING:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean_text(str(key)): _clean(item, depth + 1) for key, item in value.items()}
    return value


class Shown:
    """What a cell shows, after each of its messages as `OnMessage` has them.

    As in a notebook: adjacent pieces of the same stream are one output, a display changes in place,
    `clear_output` takes all away. An output is replaced and never changed: a list that was copied
    stays as it was.

    Args:
        most: outputs; what comes after them is left out.
        tail: characters of one stream; its beginning goes.
    """

    def __init__(self, most: int = MAX_OUTPUTS, tail: int | None = None) -> None:
        self.outputs: list[Output] = []
        self.clears = False
        """Whether the next output takes all others away."""
        self._most = most
        self._tail = tail
        self._displays: dict[str, list[int]] = {}

    def feed(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take one message."""
        if kind == "clear_output":
            self.clears = True
            if not content["wait"]:
                self.clear()
            return
        if self.clears:
            self.clear()
        if kind == "update_display_data":
            for n in self.displays(content):
                news = {"data": content["data"], "metadata": content["metadata"]}
                self.outputs[n] = {**self.outputs[n], **news}
        elif self.joins(kind, content):
            text = self.outputs[-1]["text"] + content["text"]
            self.outputs[-1] = {**self.outputs[-1], "text": self._end(text)}
        elif len(self.outputs) < self._most:
            if name := _display_id(content):
                self._displays.setdefault(name, []).append(len(self.outputs))
            fields = {name: value for name, value in content.items() if name != "transient"}
            if kind == "stream":
                fields["text"] = self._end(fields["text"])
            self.outputs.append({"output_type": kind, **fields})

    def clear(self) -> None:
        """Show nothing."""
        self.outputs.clear()
        self._displays.clear()
        self.clears = False

    def joins(self, kind: str, content: Mapping[str, Any]) -> bool:
        """Whether the message would be a piece of the last output."""
        last = self.outputs[-1] if self.outputs else {}
        return kind == "stream" and last.get("name") == content["name"]

    def displays(self, content: Mapping[str, Any]) -> list[int]:
        """Where among the outputs the display stands that the message names."""
        return self._displays.get(_display_id(content) or "", [])

    def _end(self, text: str) -> str:
        return text if self._tail is None else text[-self._tail :]


class OutputCollector:
    """Collects one cell's outputs as its messages come, and passes them on to `on_message`.

    `limit` bounds the bytes kept; the guest's own caps come first, so it is met only by a kernel
    that forges messages. What does not fit is dropped.
    """

    def __init__(self, limit: int, on_message: OnMessage | None = None) -> None:
        self._shown = Shown()
        self._on_message = on_message
        self._limit = limit
        self._size = 0

    @property
    def outputs(self) -> list[Output]:
        """So far."""
        return self._shown.outputs

    def feed(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take one message, whatever is in it."""
        message = _message(kind, content)
        if message is None:
            return
        shown = self._shown
        if kind == "clear_output":
            if not message["wait"]:
                self._size = 0
        else:
            if shown.clears:
                shown.clear()
                self._size = 0
            if not self._fits(kind, message):
                return
        shown.feed(kind, message)
        if self._on_message is not None:
            self._on_message(kind, message)

    def _fits(self, kind: str, message: Mapping[str, Any]) -> bool:
        shown = self._shown
        if kind == "update_display_data":  # takes the place of what is there
            each = _size(message["data"], message["metadata"])
            old = [shown.outputs[n] for n in shown.displays(message)]
            size = each * len(old) - sum(_size(one["data"], one["metadata"]) for one in old)
            if not old and each > self._limit:
                return False
        elif shown.joins(kind, message):
            size = _size(message["text"])
        elif len(shown.outputs) >= MAX_OUTPUTS:
            return False
        else:
            size = _size(message)
        if self._size + size > self._limit:
            return False
        self._size += size
        return True


def _size(*values: Any) -> int:
    return sum(len(json.dumps(value)) for value in values)


def _message(kind: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of a message that changes what is shown, clean; None for all others."""
    if kind == "clear_output":
        return {"wait": content.get("wait") is True}
    if kind == "stream":
        name, text = content.get("name"), content.get("text")
        if name not in ("stdout", "stderr") or not isinstance(text, str) or not text:
            return None
        return {"name": name, "text": clean_text(text)}
    if kind in ("display_data", "update_display_data", "execute_result"):
        data, metadata = content.get("data"), content.get("metadata")
        if not isinstance(data, dict):
            return None
        message: dict[str, Any] = {
            "data": {str(mime): _bundle(str(mime), _clean(item)) for mime, item in data.items()},
            "metadata": _clean(metadata) if isinstance(metadata, dict) else {},
        }
        if kind == "execute_result":
            count = content.get("execution_count")
            message["execution_count"] = count if type(count) is int and count >= 0 else None
        elif name := _display_id(content):
            message["transient"] = {"display_id": clean_text(name)}
        return message
    if kind == "error":
        lines = content.get("traceback")
        return {
            "ename": clean_text(str(content.get("ename", ""))),
            "evalue": clean_text(str(content.get("evalue", ""))),
            "traceback": [clean_text(str(line)) for line in lines]
            if isinstance(lines, list)
            else [],
        }
    return None


def _bundle(mime: str, item: Any) -> Any:
    """nbformat wants text for every type that is not JSON."""
    if is_json(mime) or isinstance(item, str):
        return item
    if isinstance(item, list) and all(isinstance(part, str) for part in item):
        return "".join(item)
    return json.dumps(item)


def _display_id(content: Mapping[str, Any]) -> str | None:
    transient = content.get("transient")
    name = transient.get("display_id") if isinstance(transient, dict) else None
    return name if isinstance(name, str) else None
