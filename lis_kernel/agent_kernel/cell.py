"""How a cell of the agent kernel is read: magics on its first lines, then a task or code.

Pure; used to run a cell, to complete in one, and to tell a console whether one is finished.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from io import StringIO
from typing import Literal

from lis_kernel.errors import ConfigError

__all__ = ["CELL_MAGICS", "MAGICS", "Cell", "Line", "Usage", "code_at", "read"]


@dataclass(frozen=True)
class Usage:
    """What `%help` says of a magic."""

    arguments: str
    help: str
    example: str


MAGICS = {
    "model": Usage(
        "[NAME]",
        "Which model answers from here on; without a name, which one it is.",
        "anthropic/claude-sonnet-5-5",
    ),
    "files": Usage(
        "PATH...",
        "Files and folders for the sandbox, in /testbed/input; the next task speaks of them.",
        "data.csv figures/",
    ),
    "python": Usage("CODE", "Run a line of Python of yours in the sandbox.", "df.describe()"),
    "bash": Usage("COMMAND", "Run a command of yours in the sandbox's shell.", "ls -l output"),
    "turns": Usage("NUMBER", "Most turns that the model may take for one task.", "20"),
    "budget": Usage(
        "[turns=N] [tokens=N] [cost=USD] [seconds=S]",
        "Bounds of one task; without arguments, what they are. `none` takes one away.",
        "cost=0.50 seconds=600",
    ),
    "reset": Usage("", "Begin anew: another conversation, another sandbox.", ""),
    "help": Usage("", "Show this.", ""),
}
CELL_MAGICS = {
    "python": "The whole cell is Python of yours, run in the sandbox.",
    "bash": "The whole cell is for the sandbox's shell.",
}

_LINE = re.compile(r"(%%?)(\S*)[ \t]*(.*)")


@dataclass(frozen=True)
class Line:
    """A magic on a line of its own."""

    name: str
    rest: str


@dataclass(frozen=True)
class Cell:
    """What a cell asks for."""

    lines: tuple[Line, ...] = ()
    """In order, before all else."""
    kind: Literal["nothing", "task", "python", "bash"] = "nothing"
    body: str = ""
    """The task's text, or the code."""


def _lines(source: str) -> list[str]:
    """The lines with their ends, as Python and the shell see them.

    `str.splitlines` breaks also at U+2028, form feeds and the like, which may stand in a string.
    """
    return list(StringIO(source, newline="\n"))


def read(source: str) -> Cell:
    """The parts of a cell.

    Raises:
        ConfigError: a magic that there is not, or one that stands in a wrong place.
    """
    lines: list[Line] = []
    rest = _lines(source)
    while rest:
        text = rest[0].rstrip()
        if not text:
            del rest[0]
            continue
        if not text.startswith("%"):
            return Cell(tuple(lines), "task", "".join(rest).strip())
        found = _LINE.fullmatch(text)
        assert found is not None
        percent, name, arguments = found[1], found[2], found[3]
        del rest[0]
        if percent == "%":
            if name not in MAGICS:
                raise _unknown(f"%{name}", [f"%{known}" for known in MAGICS])
            lines.append(Line(name, arguments))
            continue
        if name not in CELL_MAGICS:
            raise _unknown(f"%%{name}", [f"%%{known}" for known in CELL_MAGICS])
        if arguments:
            fix = f"Write the code on the lines below it, or %{name} {arguments}"
            raise ConfigError(f"%%{name}", "takes no arguments.", fix)
        code = "".join(rest)
        if not code.strip():
            raise ConfigError(f"%%{name}", "there is no code below it.", "Write some, or leave it.")
        return Cell(tuple(lines), "python" if name == "python" else "bash", code)
    return Cell(tuple(lines))


def _unknown(name: str, known: list[str]) -> ConfigError:
    # `%%model` is meant as `%model`: compared without the signs
    plain = name.lstrip("%").lower()
    near = difflib.get_close_matches(plain, [one.lstrip("%") for one in known], 1, 0.5)
    percent = name[: len(name) - len(name.lstrip("%"))]
    if not near and percent == "%%" and plain in MAGICS:
        near, percent = [plain], "%"
    hint = f"Did you mean {percent}{near[0]}? " if near else ""
    return ConfigError(
        name,
        "there is no such magic.",
        f"{hint}%help lists them; a task that begins with % needs a word before it.",
    )


def code_at(source: str, cursor: int) -> tuple[str, int] | None:
    """The Python in which the cursor is, and where it begins in the cell; None if it is in none."""
    at = 0
    for line in _lines(source):
        end = at + len(line)
        found = _LINE.match(line.rstrip("\r\n"))  # a space before the cursor is part of the code
        if found is None and line.strip():
            return None
        if found is not None and found[1] == "%%":
            return (source[end:], end) if found[2] == "python" and cursor >= end else None
        within = cursor < end or (end == len(source) and not line.endswith("\n"))
        if found is not None and found[2] == "python" and within and cursor >= at + found.start(3):
            return found[3], at + found.start(3)
        if within:
            return None
        at = end
    return None
