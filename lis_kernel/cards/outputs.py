"""A cell's outputs as HTML: text, errors, pictures, tables. Outputs may be forged; any JSON gives
some HTML, bounded in size, and never an error."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from html.parser import HTMLParser
from typing import Any

from lis_kernel.cards.ansi import ansi
from lis_kernel.cards.code import code, markdown, pre
from lis_kernel.cards.parts import MUTED, escape, table

__all__ = ["Clean", "outputs", "picture", "read_table"]

Clean = Callable[[str], str]
"""Makes a fragment of HTML harmless, e.g. `tools.clean.safe_html`."""

TEXT_CHARS = 12_000
LINES = 200
PICTURE_CHARS = 1_000_000
"""Of base64; a larger picture is named."""
CLEANED_CHARS = 200_000
OUTPUTS = 60
TABLE_ROWS = 30
TABLE_COLUMNS = 20

_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)


def outputs(found: Iterable[Mapping[str, Any]], clean: Clean | None = None) -> str:
    """The outputs under each other; pieces of one stream are joined.

    `clean` is asked for HTML that is no data frame; without it the text form is shown.
    """
    merged = _merged(found)
    shown = [piece for output in merged[:OUTPUTS] if (piece := _one(output, clean))]
    if (more := len(merged) - OUTPUTS) > 0:
        shown.append(f'<div style="{MUTED};font-size:12px">and {more} more outputs</div>')
    return "".join(f'<div style="margin-top:6px">{piece}</div>' for piece in shown)


def _merged(found: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    merged: list[Mapping[str, Any]] = []
    for output in found:
        if not isinstance(output, Mapping):
            continue
        if output.get("output_type") == "stream":
            last = merged[-1] if merged else {}
            if last.get("output_type") == "stream" and last.get("name") == output.get("name"):
                joined = _text(last.get("text")) + _text(output.get("text"))
                merged[-1] = {**last, "text": joined}
                continue
        merged.append(output)
    return merged


def _one(output: Mapping[str, Any], clean: Clean | None) -> str:
    kind = output.get("output_type")
    if kind == "stream":
        tint = "rgba(220, 70, 60, 0.12)" if output.get("name") == "stderr" else ""
        return _terminal(_text(output.get("text")), tint)
    if kind == "error":
        lines = output.get("traceback")
        trace = "\n".join(_strings(lines)) if isinstance(lines, list | tuple) else ""
        said = f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}"
        return _terminal(trace or said, "rgba(220, 70, 60, 0.12)")
    data = output.get("data")
    return _bundle(data, clean) if isinstance(data, Mapping) else ""


def _bundle(data: Mapping[str, Any], clean: Clean | None) -> str:
    """The richest form that can be shown."""
    for mime in _PICTURES:
        if mime in data:
            return picture(mime, _text(data[mime]))
    if "image/svg+xml" in data:
        drawn = _text(data["image/svg+xml"]).encode("utf-8", "replace")
        return picture("image/svg+xml", base64.b64encode(drawn).decode())
    if "text/html" in data and (shown := _html(_text(data["text/html"]), clean)):
        return shown
    if "text/markdown" in data:
        return markdown(_text(data["text/markdown"]))
    if "text/plain" in data:
        return _terminal(_text(data["text/plain"]))
    for mime, value in data.items():
        if mime == "application/json":
            return code(_cut(json.dumps(value, indent=2, ensure_ascii=False)), "json")
        if isinstance(value, str):
            return f'<div style="{MUTED};font-size:12px">{escape(mime)[:80]}, not shown</div>'
    return ""


def _html(source: str, clean: Clean | None) -> str:
    if 'class="dataframe"' in source[:2000] or clean is None:
        if (found := read_table(source)) is not None:
            return found
        if clean is None:
            return ""
    return clean(source) if len(source) <= CLEANED_CHARS else ""


def picture(mime: str, data: str) -> str:
    """A picture in base64 as an `img`, in which nothing runs and nothing is loaded."""
    data = "".join(data.split())
    if len(data) > PICTURE_CHARS or not _BASE64.fullmatch(data):
        size = f"{len(data) * 3 / 4e6:.1f} MB" if len(data) > PICTURE_CHARS else "damaged"
        return f'<div style="{MUTED};font-size:12px">{escape(mime)}, {size}, not shown here</div>'
    return (
        f'<img src="data:{mime};base64,{data}" alt="" style="max-width:100%;max-height:420px;'
        'height:auto;width:auto;border-radius:3px;background-color:white;display:block;margin:0">'
    )


def _terminal(text: str, tint: str = "") -> str:
    text = text.rstrip("\n")
    return pre(ansi(_cut(text)), tint=tint) if text.strip("\n") else ""


def _cut(text: str) -> str:
    """Head and tail of what is too long."""
    lines = text.split("\n")
    if len(lines) > LINES:
        left = len(lines) - LINES
        lines = [*lines[: LINES // 2], f"… {left:,} more lines …", *lines[-LINES // 2 :]]
        text = "\n".join(lines)
    if len(text) > TEXT_CHARS:
        half = TEXT_CHARS // 2
        text = f"{text[:half]}\n… {len(text) - TEXT_CHARS:,} more characters …\n{text[-half:]}"
    return text


def read_table(source: str) -> str | None:
    """The first table of an HTML text, read and written anew as plain cells; None without one."""
    reader = _Table()
    try:
        reader.feed(source[:CLEANED_CHARS])
        reader.close()
    except Exception:  # whatever a forged table does to the parser
        return None
    rows = [values[:TABLE_COLUMNS] for values in reader.rows[:TABLE_ROWS]]
    head = [values[:TABLE_COLUMNS] for values in reader.head]
    if not rows and not head:
        return None
    # pandas names the index in a second line of the head, and leaves the rest of it empty
    names = head[0] if head else []
    if len(head) == 2 and len(head[1]) == len(names) and not any(head[1][1:]):
        names = [head[1][0] or names[0], *names[1:]]
    left = len(reader.rows) - len(rows)
    note = reader.note or (f"and {left:,} more rows" if left > 0 else "")
    return table(rows, names, note=note)


class _Table(HTMLParser):
    """The cells of the first table, as texts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.head: list[list[str]] = []
        self.rows: list[list[str]] = []
        self.note = ""
        self._cell: list[str] | None = None
        self._row: list[str] = []
        self._in_head = self._done = self._hidden = self._after = False
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self._hidden = True
        if tag == "table":
            self._depth += 1
        if self._done or self._depth != 1:
            return
        if tag == "thead":
            self._in_head = True
        elif tag == "tr":
            self._row = []
        elif tag in ("td", "th"):
            self._end_cell()
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._hidden = False
        if tag == "table":
            self._depth = max(0, self._depth - 1)
            if self._depth == 0:
                self._done = True
        if self._done or self._depth != 1:
            return
        if tag in ("td", "th"):
            self._end_cell()
        elif tag == "thead":
            self._in_head = False
        elif tag == "tr":
            self._end_cell()
            if self._row:
                (self.head if self._in_head else self.rows).append(self._row)
            self._row = []

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._cell is not None:
            self._cell.append(data)
        elif self._done and not self.note and data.strip():
            self.note = " ".join(data.split())[:80]  # pandas: `1000 rows × 4 columns`

    def _end_cell(self) -> None:
        if self._cell is not None:
            self._row.append(" ".join("".join(self._cell).split()))
            self._cell = None


def _text(value: Any) -> str:
    """A string of the notebook format, which may be written as a list of its lines."""
    if isinstance(value, str):
        return value
    return "".join(_strings(value)) if isinstance(value, list | tuple) else ""


def _strings(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]
