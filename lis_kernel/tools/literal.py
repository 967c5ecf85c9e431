"""Python literals for cells: readable in a notebook, exact in the kernel.

Used by every `to_cell` that puts a model's text into Python source. IPython rewrites a cell before
it runs (it strips `>>> ` prompts and blanks whitespace-only lines, inside string literals too) and
editors and JSON tools have ideas about odd line separators, so whatever could be touched on the way
is written as an escape; everything else stays as the model wrote it.
"""

from __future__ import annotations

import re

__all__ = ["has_surrogate", "is_verbatim", "literal"]

_TRAILING_BLANK = re.compile(r"[ \t]$", re.MULTILINE)
_PROMPT = re.compile(r"^([ \t]*)>(?=>>)", re.MULTILINE)
_TOUCHED = re.compile(
    r"^[ \t]+$"  # a whitespace-only line is emptied
    r"|^[ \t]*>>>"  # Python's prompt is stripped wherever it stands
    r"|\A[ \t]*\.{3}|\A(?:\[(?:nav|ins)\])?\x20?In\x20\[",  # other prompts, seen on line 2 only
    re.MULTILINE,
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def literal(text: str) -> str:
    r"""A string literal whose value is exactly `text`, whatever `text` holds.

    Text of one line becomes `"..."`, longer text a triple-quoted literal that starts on a line of
    its own. Escaped are: backslashes, quotes that would end the literal, everything that `repr`
    escapes (control characters, odd separators, invisible and bidirectional marks, lone
    surrogates; not tabs within a line), blanks at the end of a line, and `>>>` at its start.

    A cell that holds such a literal must keep it out of its first two lines, where IPython looks
    for more kinds of prompts.
    """
    escaped = "".join(
        char if char in "\n\t" or char.isprintable() else _escape(char)
        for char in text.replace("\\", "\\\\")
    )
    if "\n" not in text[:-1]:
        quote = "'" if '"' in text and "'" not in text else '"'
        body = escaped.replace("\n", "\\n").replace("\t", "\\t")
        return quote + (body.replace('"', '\\"') if quote == '"' else body) + quote
    escaped = _TRAILING_BLANK.sub(lambda blank: _escape(blank[0]), escaped)
    escaped = _PROMPT.sub(r"\1\\x3e", escaped)
    quotes = "'''" if '"""' in escaped and "'''" not in escaped else '"""'
    quote = quotes[0]
    if escaped.endswith(quote):
        escaped = f"{escaped[:-1]}\\{quote}"
    escaped = escaped.replace(quotes, f"\\{quote}" * 3)
    return f"{quotes}\\\n{escaped}{quotes}"


def is_verbatim(text: str) -> bool:
    """True if `text` can stand under a `%%magic` line and every character of it reaches the magic.

    A cautious answer: it may be False for text that this or that IPython would leave alone.
    """
    odd = any(char not in "\n\t" and not char.isprintable() for char in text)
    return not odd and _TOUCHED.search(text) is None


def has_surrogate(text: str) -> bool:
    """True if `text` holds half of a surrogate pair, which no UTF-8 message or file can carry."""
    return _SURROGATE.search(text) is not None


def _escape(char: str) -> str:
    code = ord(char)
    if char in "\r\t":
        return "\\r" if char == "\r" else "\\t"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
