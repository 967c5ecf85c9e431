"""Text as a terminal would show it: no escape sequences, progress bars collapsed.

`plain_text` is used on everything that comes out of a cell before a model is shown it, `for_people`
and `one_line` on what faces print. What comes out is hostile, so each pattern stops at the end of
its line: an unfinished sequence cannot hide what follows.
"""

from __future__ import annotations

import re

__all__ = ["for_people", "one_line", "plain_text"]

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # OSC: titles, links
    r"|\x1b[PX^_][^\x1b\n]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]"  # two characters and more
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TURNING = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Unicode's bidirectional controls: with them the rest of a line is shown backwards."""


def plain_text(text: str) -> str:
    """`text` without escape sequences and control characters; newlines and tabs stay.

    Of a line with carriage returns only what follows the last one stays, as after a progress bar;
    a backspace takes back one character; lone surrogates become U+FFFD. Never longer than `text`.
    """
    text = _SEQUENCE.sub("", text)
    if "\r" in text or "\b" in text:
        text = "\n".join(_line(line) for line in text.split("\n"))
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))


def for_people(text: str) -> str:
    """`text` for a person's terminal: as `plain_text`, and in the order in which it is written.

    Not for a model, whose observations are made again from the outputs and must stay the same.
    """
    return _TURNING.sub("", plain_text(text))


def one_line(text: str, most: int = 200) -> str:
    """`text` for a person, in one line of at most `most` characters: it cannot pose as another."""
    words = " ".join(for_people(text[: 4 * most]).split())
    return words if len(words) <= most else words[: most - 1] + "…"


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
