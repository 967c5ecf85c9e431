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

__all__ = ["OnMessage", "OutputCollector", "clean_text"]

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


class OutputCollector:
    """Collects one cell's outputs as its messages come.

    Adjacent pieces of the same stream become one output; `clear_output` and display updates act
    as they do in a notebook. `limit` bounds the bytes kept; the guest's own caps come first, so it
    is met only by a kernel that forges messages. What is taken goes on to `on_message`.
    """

    def __init__(self, limit: int, on_message: OnMessage | None = None) -> None:
        self.outputs: list[Output] = []
        self._on_message = on_message
        self._limit = limit
        self._size = 0
        self._clear_next = False
        self._displays: dict[str, list[Output]] = {}

    def feed(self, kind: str, content: Mapping[str, Any]) -> Output | None:
        """Take one message; the output that it added (a piece, for a stream), or None."""
        if kind == "clear_output":
            wait = content.get("wait") is True
            if wait:
                self._clear_next = True
            else:
                self._clear()
            self._tell(kind, {"wait": wait})
            return None
        output = self._output(kind, content)
        if output is None:
            return None
        if self._clear_next:
            self._clear()
        last = self.outputs[-1] if self.outputs else None
        joins = kind == "stream" and last is not None and last.get("name") == output["name"]
        size = len(json.dumps(output["text"] if joins else output))
        full = len(self.outputs) >= MAX_OUTPUTS and not joins
        if full or self._size + size > self._limit:
            return None
        self._size += size
        shown = {name: value for name, value in output.items() if name != "output_type"}
        if name := _display_id(content):
            shown["transient"] = {"display_id": clean_text(name)}
        self._tell(kind, shown)
        if kind == "update_display_data":
            return self._update(content, output)
        if joins and last is not None:
            last["text"] += output["text"]
            return output
        self.outputs.append(dict(output))
        if kind == "display_data" and (name := _display_id(content)):
            self._displays.setdefault(name, []).append(self.outputs[-1])
        return output

    def _tell(self, kind: str, content: dict[str, Any]) -> None:
        if self._on_message is not None:
            self._on_message(kind, content)

    def _clear(self) -> None:
        self.outputs.clear()
        self._displays.clear()
        self._clear_next = False
        self._size = 0

    def _update(self, content: Mapping[str, Any], output: Output) -> Output | None:
        for shown in self._displays.get(_display_id(content) or "", []):
            shown.update(data=output["data"], metadata=output["metadata"])
        return None

    def _output(self, kind: str, content: Mapping[str, Any]) -> Output | None:
        if kind == "stream":
            name, text = content.get("name"), content.get("text")
            if name not in ("stdout", "stderr") or not isinstance(text, str) or not text:
                return None
            return {"output_type": "stream", "name": name, "text": clean_text(text)}
        if kind in ("display_data", "update_display_data", "execute_result"):
            data, metadata = content.get("data"), content.get("metadata")
            if not isinstance(data, dict):
                return None
            output: Output = {
                "output_type": "display_data" if kind != "execute_result" else kind,
                "data": {
                    str(mime): _bundle(str(mime), _clean(item)) for mime, item in data.items()
                },
                "metadata": _clean(metadata) if isinstance(metadata, dict) else {},
            }
            if kind == "execute_result":
                count = content.get("execution_count")
                output["execution_count"] = count if type(count) is int and count >= 0 else None
            return output
        if kind == "error":
            lines = content.get("traceback")
            return {
                "output_type": "error",
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
