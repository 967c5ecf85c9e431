"""Text as a terminal would show it: no escape sequences, progress bars collapsed.

Used on everything that comes out of a cell before a model is shown it. What comes out is hostile,
so each pattern stops at the end of its line: an unfinished sequence cannot hide what follows.
"""

from __future__ import annotations

import re

__all__ = ["plain_text"]

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # OSC: titles, links
    r"|\x1b[PX^_][^\x1b\n]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]"  # two characters and more
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def plain_text(text: str) -> str:
    """`text` without escape sequences and control characters; newlines and tabs stay.

    Of a line with carriage returns only what follows the last one stays, as after a progress bar;
    a backspace takes back one character; lone surrogates become U+FFFD. Never longer than `text`.
    """
    text = _SEQUENCE.sub("", text)
    if "\r" in text or "\b" in text:
        text = "\n".join(_line(line) for line in text.split("\n"))
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))


def _line(line: str) -> str:
    line = line.rstrip("\r").rpartition("\r")[2]
    if "\b" not in line:
        return line
    shown: list[str] = []
    for char in line:
        if char != "\b":
            shown.append(char)
        elif shown:
            shown.pop()
    return "".join(shown)
