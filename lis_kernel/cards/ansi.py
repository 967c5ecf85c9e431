"""Text as a terminal shows it, in HTML: its colours, and progress bars at their last state."""

from __future__ import annotations

import re

from lis_kernel.cards.parts import escape

__all__ = ["ansi"]

# Jupyter's own, made to be read on white and on black
_BASIC = ("#3e424d", "#e75c58", "#00a250", "#ddb62b", "#208ffb", "#d160c4", "#60c6c8", "#c5c1b4")
_BRIGHT = ("#7a7f8a", "#ff6b67", "#16c26a", "#e8c547", "#4aa5ff", "#e07ad4", "#74d7d9", "#a1a6b2")

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)(?P<sgr>[0-9;:]{0,64})m"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x9c\n]*(?:\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)

Style = tuple[tuple[str, str], ...]


def ansi(text: str) -> str:
    """`text` as HTML, to stand where white space is kept."""
    pen: dict[str, str] = {}
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        lines.append(_line(line, pen))
    return "\n".join(lines)


class _Done(list[tuple[Style, str]]):
    """What a line shows so far; after a carriage return the next text is written over it."""

    returned = False


def _line(line: str, pen: dict[str, str]) -> str:
    """One line; `pen` goes on in the next."""
    done = _Done()
    at = 0
    for found in _SEQUENCE.finditer(line):
        _write(done, line[at : found.start()], pen)
        at = found.end()
        if found["sgr"] is not None:
            _set(pen, found["sgr"])
    _write(done, line[at:], pen)
    return "".join(_span(style, piece) for style, piece in done)


def _write(done: _Done, piece: str, pen: dict[str, str]) -> None:
    head, back, last = piece.rpartition("\r")
    if piece and done.returned and not piece.startswith("\r"):
        done.clear()
        done.returned = False
    if back:
        if last or head.strip("\r"):
            done.clear()
        done.returned = not last
        piece = last or head.rstrip("\r").rpartition("\r")[2]
    while "\b" in piece:
        before, _, piece = piece.partition("\b")
        if before:
            done.append((_style(pen), before))
        while done and not done[-1][1]:
            done.pop()
        if done:
            style, shown = done[-1]
            done[-1] = (style, shown[:-1])
    if piece:
        done.append((_style(pen), piece))


def _style(pen: dict[str, str]) -> Style:
    shown = dict(pen)
    if shown.pop("inverse", ""):
        ink, ground = shown.get("color", ""), shown.get("background-color", "")
        shown["background-color"] = ink or "rgba(128, 128, 128, 0.4)"
        shown.pop("color", None)
        if ground:
            shown["color"] = ground
    return tuple(sorted(shown.items()))


def _span(style: Style, piece: str) -> str:
    shown = escape(piece)
    if not style or not shown:
        return shown
    css = ";".join(f"{name}:{value}" for name, value in style)
    return f'<span style="{css}">{shown}</span>'


def _set(pen: dict[str, str], words: str) -> None:
    """Change the pen as a sequence of SGR parameters says."""
    parts = re.split("[;:]", words)
    codes = [int(word) if word.isdigit() and len(word) < 6 else 0 for word in parts]
    while codes:
        code = codes.pop(0)
        if code == 0:
            pen.clear()
        elif code == 1:
            pen["font-weight"] = "bold"
        elif code == 2:
            pen["opacity"] = "0.7"
        elif code == 3:
            pen["font-style"] = "italic"
        elif code == 4:
            pen["text-decoration"] = "underline"
        elif code == 7:
            pen["inverse"] = "1"
        elif code == 9:
            pen["text-decoration"] = "line-through"
        elif code in _ENDS:
            for name in _ENDS[code]:
                pen.pop(name, None)
        elif code in (38, 48):
            if value := _extended(codes):
                pen["color" if code == 38 else "background-color"] = value
        elif (found := _PALETTE.get(code)) is not None:
            pen[found[0]] = found[1]


_ENDS = {
    22: ("font-weight", "opacity"),
    23: ("font-style",),
    24: ("text-decoration",),
    27: ("inverse",),
    29: ("text-decoration",),
    39: ("color",),
    49: ("background-color",),
}
_PALETTE = {
    base + n: (name, colours[n])
    for base, name, colours in (
        (30, "color", _BASIC),
        (40, "background-color", _BASIC),
        (90, "color", _BRIGHT),
        (100, "background-color", _BRIGHT),
    )
    for n in range(8)
}


def _extended(codes: list[int]) -> str:
    """One of 256 colours, or one of 16 million; takes its numbers out of `codes`."""
    kind = codes.pop(0) if codes else 0
    if kind == 5 and codes:
        return _of_256(codes.pop(0))
    if kind == 2 and len(codes) >= 3:
        red, green, blue = (min(255, codes.pop(0)) for _ in range(3))
        return f"rgb({red}, {green}, {blue})"
    return ""


def _of_256(n: int) -> str:
    if n < 16:
        return (_BASIC + _BRIGHT)[n]
    if n < 232:
        n -= 16
        steps = (0, 95, 135, 175, 215, 255)
        return f"rgb({steps[n // 36]}, {steps[n // 6 % 6]}, {steps[n % 6]})"
    grey = min(255, 8 + 10 * (n - 232))
    return f"rgb({grey}, {grey}, {grey})"
