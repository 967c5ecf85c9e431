"""Starting a run from the server: `lis run` as a process of its own, which outlives the server.

It has a session of its own, so that neither the server's end nor Ctrl-C in its terminal reaches
it, and writes to `run.log` in its run's folder. The settings are those of the command line that
are safe to hand on: none that reads or writes outside the server's root, sends a key elsewhere, or
does without a sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from lis_kernel.agent.remote import live_runs
from lis_kernel.errors import ConfigError
from lis_kernel.models import split_name
from lis_kernel.tools.terminal import for_people, one_line

__all__ = ["OPTIONS", "Started", "arguments", "start"]

OPTIONS = {
    "model": "--model",
    "temperature": "--temperature",
    "tools": "--tools",
    "protocol": "--protocol",
    "backend": "--backend",
    "network": "--network",
    "memory": "--memory",
    "disk": "--disk",
    "pids": "--pids",
    "cpus": "--cpus",
    "cell_timeout": "--cell-timeout",
    "sandbox_timeout": "--sandbox-timeout",
    "max_turns": "--max-turns",
    "max_tokens": "--max-tokens",
    "max_cost": "--max-cost",
    "timeout": "--timeout",
}
"""Setting → the option of `lis run`; beside them `task` and `files`."""
BACKENDS = ("zygote", "bubblewrap", "docker", "podman")
SECONDS = 60.0
"""Until a run that neither lives nor ended is left to itself."""
LOG = "run.log"
LONGEST = 10_000
"""Characters of a setting; the kernel takes 131,071 bytes as one argument of a program."""


class Started(NamedTuple):
    """A run's process, and the run's id; None if it was not known in time."""

    process: subprocess.Popen[bytes]
    id: str | None


def arguments(words: Mapping[str, Any], root: Path) -> list[str]:
    """The options of `lis run` for the settings `words`; files are paths below `root`.

    Raises:
        ConfigError: a setting is unknown, of a wrong type or not to be had here.
    """
    made = []
    for name, value in words.items():
        if name == "task" or value is None:
            continue
        if name == "files":
            made += [f"--files={path}" for path in _files(value, root)]
            continue
        if name not in OPTIONS:
            known = f"Known: task, files, {', '.join(OPTIONS)}."
            raise ConfigError(name, "unknown setting, or one for the command line only.", known)
        _check_value(name, value)
        if name == "model":
            _check_model(str(value), root)
        if name == "backend" and value not in BACKENDS:
            raise ConfigError(name, f"{value!r} is not to be had here.", f"One of {BACKENDS}.")
        made.append(f"{OPTIONS[name]}={value}")
    return made


def _check_value(name: str, value: Any) -> None:
    """See that `lis run` can read what is given to it; what it means is for it to judge."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ConfigError(name, f"{_short(value)} is neither text nor a number.")
    text = str(value)
    if "\0" in text or len(text) > LONGEST or not _encodes(text):
        raise ConfigError(name, f"{_short(value)} is too long, or no text.")
    kind = _kinds().get(name, str)
    try:
        kind(text)
    except ValueError as error:
        what = "integer" if kind is int else "number"
        raise ConfigError(name, f"{_short(value)} is not a valid {what}.") from error


@functools.cache
def _kinds() -> dict[str, type[int] | type[float]]:
    """The numbers among the settings: the parameters of `lis run` have the same names."""
    from lis_kernel.cli.run import run

    hints = {name: hint for name, hint in get_type_hints(run).items() if name in OPTIONS}
    return {
        name: kind
        for name, hint in hints.items()
        for kind in (int, float)
        if kind is hint or kind in get_args(hint)
    }


def _encodes(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeError:
        return False
    return True


def _short(value: Any) -> str:
    return one_line(repr(value), 80)


def _check_model(name: str, root: Path) -> None:
    """No code and no weights but those that are installed, and no script from outside."""
    try:
        provider, rest = split_name(name)
    except ConfigError as error:
        raise ConfigError("model", error.problem, error.fix) from error
    if ":" in provider or rest.endswith(".gguf"):
        raise ConfigError("model", f"{name!r} is for the command line only.")
    if provider == "scripted" and not _below(root / rest, root):
        raise ConfigError("model", f"{rest!r} is not below the server's root folder.")


def _below(path: Path, root: Path) -> Path | None:
    """Where `path` leads, if it is there and lies below `root`."""
    try:
        path = path.resolve()
        return path if path.exists() and path.is_relative_to(root) else None
    except (OSError, ValueError, RuntimeError):
        return None


def _files(given: Any, root: Path) -> list[Path]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ConfigError("files", "not a list of paths.", 'Write e.g. ["data/a.csv"].')
    paths = []
    for name in given:
        path = _below(root / name.lstrip("/"), root)
        if path is None:
            problem = f"{name!r} is not below the server's root folder."
            raise ConfigError("files", problem, "Give a path as the file browser shows it.")
        if path == root:
            raise ConfigError("files", "the whole root folder is not given.", "Name folders in it.")
        _check_plain(name, path, root)
        paths.append(path)
    return paths


def _check_plain(name: str, path: Path, root: Path) -> None:
    """See that neither `path` nor what is in it is hidden, or a link out of `root`.

    Jupyter's own pages show no hidden files, and a run must not either.
    """
    inside = (Path(at, one) for at, *found in os.walk(path) for ones in found for one in ones)
    for one in itertools.chain([path], inside):
        leads = _below(one, root)
        if leads is None:
            raise ConfigError("files", f"{name!r} holds a link that leads out, {one.name!r}.")
        parts = (*one.relative_to(root).parts, *leads.relative_to(root).parts)
        if any(part.startswith(".") for part in parts):
            raise ConfigError("files", f"{name!r} is or holds a hidden file, {one.name!r}.")


async def start(words: Mapping[str, Any], root: Path, runs: Path) -> Started:
    """Start the run, and wait until it can be reached, or has ended already.

    Raises:
        ConfigError: a setting is wrong; nothing runs.
    """
    task = words.get("task")
    if not isinstance(task, str) or not task.strip():
        raise ConfigError("task", "it is empty.", "Say what is to be done.")
    options = arguments(words, root)
    log = runs / f".{secrets.token_hex(4)}.log"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        process = _spawn(task, [*options, f"--out={runs}"], root, log)
    except OSError as error:
        raise ConfigError("runs_dir", f"{runs} cannot be written: {error.strerror}.") from error
    run: str | None = None
    deadline = time.monotonic() + SECONDS
    while run is None and time.monotonic() < deadline:
        ended = process.poll() is not None
        run = await asyncio.to_thread(_id_of, process.pid, log, ended)
        if run is None and ended:
            said = log.read_text("utf-8", "replace")
            log.unlink(missing_ok=True)
            raise _refused(said)
        await asyncio.sleep(0 if run else 0.1)
    if run is not None:
        with contextlib.suppress(OSError):
            log.rename(runs / run / LOG)  # it is open, and stays so
    return Started(process, run)


def _spawn(task: str, options: list[str], root: Path, log: Path) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as stdin, log.open("xb") as out:
        stdin.write(task.encode("utf-8", "replace"))
        stdin.seek(0)
        return subprocess.Popen(
            # -P: what lies in the root is no part of the program
            [sys.executable, "-P", "-m", "lis_kernel", "run", "-", *options],
            stdin=stdin,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=root,
            start_new_session=True,
        )


def _id_of(pid: int, log: Path, ended: bool) -> str | None:
    """Of the run in this process; of one that was over too soon by its last words."""
    if not ended:
        return next((live.id for live in live_runs() if live.pid == pid), None)
    last = (log.read_text("utf-8", "replace").rstrip().splitlines() or [""])[-1]
    path = Path(last.removeprefix("notebook: "))
    if last.startswith("notebook: ") and path.parent.parent == log.parent and path.is_file():
        return path.parent.name
    return None


def _refused(said: str) -> ConfigError:
    """What `lis run` said before it gave up, in the words of the request."""
    lines = for_people(said).strip().splitlines() or ["the run ended without a word"]
    framed = " ".join(line.strip("│ ") for line in lines if line.startswith("│"))  # by typer
    ours = (line for line in reversed(lines) if line.startswith("error: "))
    last = next(ours, framed or lines[-1]).removeprefix("error: ")
    names = {option: name for name, option in OPTIONS.items()} | {"--files": "files"}
    field, _, problem = last.partition(": ")
    if not problem or " " in field:  # a sentence, with a colon or without
        return ConfigError("run", last)
    return ConfigError(names.get(field, field), problem)
