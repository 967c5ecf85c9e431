"""What comes out of a sandbox or a model, made fit for a person's own page and terminal.

A notebook page runs the outputs of its own kernel as trusted, and a sandbox's outputs become such
outputs in the magics and the live view (floor 6). So whatever they show passes here: an allow-list
of types, each cleaned for what can be done with it; the rest is named and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lis_kernel.tools.markup import safe_html, safe_latex, safe_markdown, svg_image

__all__ = [
    "Cleaned",
    "clean_bundle",
    "safe_bundle",
    "safe_html",
    "safe_markdown",
    "safe_metadata",
    "safe_stream",
]

_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*", re.ASCII)
_ESCAPE = re.compile(
    r"(?P<kept>\x1b\[[0-9;:]*m|\x1b\[[012]?K)"  # colours; the rest of a line emptied
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x9c\n]*(?:\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile(r"\x1b(?!\[[0-9;:]*[mK])|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


class Cleaned(NamedTuple):
    data: dict[str, Any]
    """The bundle that may be shown, maybe empty."""
    dropped: tuple[str, ...]
    """The types that were left out."""


def clean_bundle(data: Mapping[str, Any]) -> Cleaned:
    """The harmless part of a MIME bundle.

    Text, pictures and JSON stay what they are, LaTeX and HTML are cleaned; Markdown becomes HTML,
    and SVG a picture in HTML, as not every front end shows it so itself.
    """
    kept: dict[str, Any] = {}
    dropped = []
    for mime, value in data.items():
        if mime == "application/json":
            kept[mime] = value
        elif not isinstance(value, str):
            dropped.append(mime)
        elif mime == "text/plain":
            kept[mime] = safe_stream(value)
        elif mime in _PICTURES and _BASE64.fullmatch(value):
            kept[mime] = value
        elif mime == "text/latex":
            kept[mime] = safe_latex(value)
        elif mime == "text/html":
            kept[mime] = safe_html(value)
        elif mime in ("text/markdown", "image/svg+xml"):
            make = safe_markdown if mime == "text/markdown" else svg_image
            if "text/html" not in data and "text/html" not in kept:
                kept["text/html"] = make(value)
        else:
            dropped.append(mime)
    return Cleaned(kept, tuple(dropped))


def safe_bundle(data: Mapping[str, Any], trust: bool = False) -> dict[str, Any]:
    """`data` as it may be shown; a line of text where nothing of it may. `trust` takes it as it is.

    What was left out beside something that is shown is known to `clean_bundle`.
    """
    if trust:
        return dict(data)
    cleaned = clean_bundle(data)
    if not cleaned.data and cleaned.dropped:
        types = ", ".join(sorted(ascii(mime)[1:-1][:80] for mime in cleaned.dropped[:5]))
        return {"text/plain": f"[not shown: {types}]"}
    return cleaned.data


def safe_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle's metadata says of sizes, backgrounds and folding; nothing else."""
    kept: dict[str, Any] = {}
    for mime in (*_PICTURES, "application/json"):
        words = metadata.get(mime)
        if isinstance(words, Mapping):
            sizes = {
                name: words[name]
                for name in ("width", "height")
                if type(words.get(name)) in (int, float) and 0 < words[name] < 100_000
            }
            if type(words.get("expanded")) is bool:
                sizes["expanded"] = words["expanded"]
            if sizes:
                kept[mime] = sizes
    if metadata.get("needs_background") in ("light", "dark"):
        kept["needs_background"] = metadata["needs_background"]
    return kept


def safe_stream(text: str) -> str:
    r"""`text` for a terminal or a page that acts as one: colours, `\r` and `\b` stay.

    Other escape sequences (titles, links, cursor movements, the clipboard) and control characters
    are gone, also one of which only a part is here.
    """
    if "\x1b" not in text and not _CONTROL.search(text):
        return text
    return _CONTROL.sub("", _ESCAPE.sub(lambda found: found["kept"] or "", text))
