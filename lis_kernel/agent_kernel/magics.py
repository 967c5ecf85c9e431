"""What the magics of a cell do, and a cell as a whole. Called by `kernel.py`, once a cell."""

from __future__ import annotations

import glob
import os
import shlex
from pathlib import Path

from lis_kernel.agent_kernel.cell import CELL_MAGICS, MAGICS, Line, read
from lis_kernel.agent_kernel.conversation import Conversation
from lis_kernel.agent_kernel.display import Screen
from lis_kernel.config import Budget, checked
from lis_kernel.errors import ConfigError

__all__ = ["carry_out", "help_text"]

BUDGET = {"turns": "turns", "tokens": "tokens", "cost": "cost_usd", "seconds": "seconds"}
"""A word of `%budget` → the setting."""
FIELDS = {"--model": "%model", "--files": "%files"}
"""What an error names → what the person wrote."""


async def carry_out(source: str, talk: Conversation, screen: Screen) -> None:
    """Do what a cell asks for; what it shows goes to `screen`.

    Raises:
        ConfigError: a magic or an argument is wrong; what stands above it was done.
        CellFailed: the code or the run failed, and said so.
        LisKernelError: model or sandbox failed.
    """
    cell = read(source)
    try:
        for line in cell.lines:
            await _line(line, talk, screen)
        if cell.kind == "task":
            await screen.task(talk, cell.body)
        elif cell.kind != "nothing":
            await _code(cell.kind, cell.body, talk, screen)
        else:
            await talk.put()
    except ConfigError as error:
        if error.field not in FIELDS:
            raise
        raise ConfigError(FIELDS[error.field], error.problem, error.fix) from error


async def _code(kind: str, code: str, talk: Conversation, screen: Screen) -> None:
    source = f"%%bash\n{code}" if kind == "bash" else code
    screen.ran(await talk.run_code(source, screen.message))


async def _line(line: Line, talk: Conversation, screen: Screen) -> None:
    name, rest = line.name, line.rest
    if name in ("reset", "help") and rest:
        raise ConfigError(f"%{name}", f"takes no arguments, and got {rest!r}.", f"Write %{name}.")
    if name in ("python", "bash"):
        if not rest:
            fix = f"Write e.g. %{name} {MAGICS[name].example}, or %%{name} above a whole cell."
            raise ConfigError(f"%{name}", "there is no code on its line.", fix)
        await _code(name, rest, talk, screen)
    elif name == "model":
        await _model(rest, talk, screen)
    elif name == "files":
        _files(rest, talk, screen)
    elif name in ("turns", "budget"):
        _budget(name, rest, talk, screen)
    elif name == "reset":
        await talk.reset()
        given = " The files of %files are put into it again." if talk.files else ""
        screen.say(f"a new conversation; its sandbox starts when it is used.{given}")
    else:
        screen.say(help_text())


async def _model(rest: str, talk: Conversation, screen: Screen) -> None:
    names = _words("model", rest)
    if len(names) > 1:
        raise ConfigError("%model", f"takes one name, and got {rest!r}.", _example("model"))
    if names:
        await talk.use_model(names[0])
    screen.say(f"model: {talk.config.model.name}")


def _files(rest: str, talk: Conversation, screen: Screen) -> None:
    if words := _words("files", rest):
        talk.give([path for word in words for path in _paths(word)])
    given = ", ".join(str(path) for path in talk.files)
    screen.say(f"files for the next task: {given or 'none'}")


def _paths(word: str) -> list[Path]:
    """The files that a word means; a pattern only where no file has that very name."""
    path = Path(os.path.expanduser(word))  # pathlib's raises where there is no such user
    if path.exists() or not glob.has_magic(word):
        return [Path(os.path.abspath(path))]
    found = sorted(glob.glob(str(path)))
    if not found:
        raise ConfigError("%files", f"nothing fits {word!r}.", f"Looked in {Path.cwd()}.")
    return [Path(os.path.abspath(one)) for one in found]


def _budget(name: str, rest: str, talk: Conversation, screen: Screen) -> None:
    budget = talk.config.budget
    words = _words(name, rest)
    if name == "turns":
        if len(words) != 1:
            raise ConfigError("%turns", f"takes one number, and got {rest!r}.", _example("turns"))
        words = [f"turns={words[0]}"]
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in BUDGET or not equals:
            raise ConfigError("%budget", f"cannot read {word!r}.", _example("budget"))
        usual = Budget.model_fields[BUDGET[key]].default
        given[BUDGET[key]] = usual if value == "none" else value
    names = {setting: f"%{name} {word}" for word, setting in BUDGET.items()}
    changed = checked(Budget, {**budget.model_dump(), **given}, lambda field: names[field])
    talk.config = talk.config.model_copy(update={"budget": changed})
    said = [f"{word}={getattr(changed, setting) or 'none'}" for word, setting in BUDGET.items()]
    screen.say(f"of one task: {', '.join(said)}")


def _words(name: str, rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise ConfigError(f"%{name}", f"cannot read {rest!r}: {error}.", _example(name)) from error


def _example(name: str) -> str:
    return f"Write e.g. %{name} {MAGICS[name].example}"


def help_text() -> str:
    """What `%help` shows."""
    rows = [(f"%{name} {usage.arguments}".rstrip(), usage.help) for name, usage in MAGICS.items()]
    rows += [(f"%%{name}", help) for name, help in CELL_MAGICS.items()]
    width = max(len(left) for left, _ in rows[:4])
    said = [
        f"{left:{width}}  {right}" if len(left) <= width else f"{left}\n{'':{width}}  {right}"
        for left, right in rows
    ]
    return "\n".join(
        [
            "What you write in a cell is a task for the model, which works on it in a sandbox. The",
            "conversation and the sandbox go on from cell to cell. On the first lines, or alone:",
            "",
            *said,
            "",
            "Each task's run is kept as a notebook in runs/, and can be stopped like any cell.",
        ]
    )
