"""Files that a run made, as tiles: a preview of pictures, tables and text, and how to have them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass

from lis_kernel.cards.code import pre
from lis_kernel.cards.outputs import PICTURE_CHARS
from lis_kernel.cards.parts import MUTED, colour, escape, link, table

__all__ = ["PREVIEW_BYTES", "File", "files", "size"]

PREVIEW_BYTES = 600_000
"""More of a file is never needed: a larger picture is not shown, of a text the beginning is."""
DOWNLOAD_BYTES = 200_000
TILES = 24

_PICTURES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class File:
    """A file below the output folder.

    `length` is in bytes; `data` are its first `PREVIEW_BYTES`, or None if it was not read;
    `address` is where the page finds it, relative to the page, or empty.
    """

    name: str
    length: int
    data: bytes | None = None
    address: str = ""


def size(count: int) -> str:
    """`12 KB`, `3.4 MB`."""
    if count < 1000:
        return f"{count} B"
    for unit in ("KB", "MB", "GB"):
        count_in = count / {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
        if count_in < 1000 or unit == "GB":
            return f"{count_in:.1f} {unit}" if count_in < 10 else f"{count_in:.0f} {unit}"
    raise AssertionError


def files(found: Iterable[File], room: int = 1_500_000) -> str:
    """A tile for each file; together within about `room` characters of HTML."""
    listed = list(found)
    tiles = []
    for file in listed[:TILES]:
        tile = _tile(file, room)
        room -= len(tile)
        tiles.append(tile)
    more = len(listed) - TILES
    note = f'<div style="{MUTED};font-size:12px">and {more} more files</div>' if more > 0 else ""
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:10px;align-items:stretch">'
        f"{''.join(tiles)}</div>{note}"
    )


def _tile(file: File, room: int) -> str:
    shown = _preview(file)
    if len(shown) > room:
        shown = ""
    have = ""
    whole = file.data is not None and len(file.data) == file.length
    if file.address:
        have = link("open", file.address)
    elif whole and file.data is not None and file.length <= min(DOWNLOAD_BYTES, room):
        name = file.name.rpartition("/")[2]
        packed = base64.b64encode(file.data).decode()
        have = link("download", f"data:application/octet-stream;base64,{packed}", download=name)
    top = shown or f'<div style="{MUTED};font-size:12px;padding:8px 10px">no preview</div>'
    return (
        f'<div style="flex:1 1 220px;max-width:340px;min-width:160px;border:1px solid '
        f'{colour("faint")};border-radius:4px;overflow:hidden;display:flex;flex-direction:column">'
        f'<div style="flex:1 1 auto;max-height:150px;overflow:hidden">{top}</div>'
        f'<div style="border-top:1px solid {colour("faint")};padding:5px 10px;display:flex;'
        f'gap:8px;align-items:baseline;font-size:12px"><span title="{escape(file.name)}" '
        f'style="flex:1 1 auto;min-width:0;overflow:hidden;text-overflow:ellipsis;'
        f'white-space:nowrap;font-weight:600">{escape(file.name.rpartition("/")[2])}</span>'
        f'<span style="{MUTED};white-space:nowrap">{size(file.length)}</span>{have}</div></div>'
    )


def _preview(file: File) -> str:
    data, ending = file.data, file.name.rpartition(".")[2].lower()
    if not data:
        return ""
    if ending in _PICTURES:
        packed = base64.b64encode(data).decode()
        if len(data) < file.length or len(packed) > PICTURE_CHARS:
            return ""
        return (
            f'<img src="data:{_PICTURES[ending]};base64,{packed}" alt="{escape(file.name)}" '
            'style="display:block;width:auto;max-width:100%;height:auto;max-height:150px;'
            'margin:0 auto;background-color:white">'
        )
    text = data[:20_000].decode("utf-8", "replace")
    if "\0" in text or text.count("\ufffd") > len(text) // 50:
        return ""
    if ending in ("csv", "tsv"):
        rows = _rows(text, "\t" if ending == "tsv" else ",")
        if len(rows) > 1:
            return f'<div style="padding:6px 10px">{table(rows[1:7], rows[0])}</div>'
    if ending == "json" and len(data) == file.length <= 20_000:
        text = _indented(text)
    lines = "\n".join(line[:200] for line in text.split("\n")[:10])
    return f'<div style="padding:4px 10px">{pre(escape(lines))}</div>'


def _rows(text: str, separator: str) -> list[list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=separator))[:7]
    except csv.Error:
        return []
    return [row[:8] for row in rows if row]


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
