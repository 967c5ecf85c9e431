"""The zygotes of a runtime folder: how tests find them, end them, and tell them from sandboxes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lis_kernel.sandbox.berth import FOLDER
from lis_kernel.sandbox.reaper import read_record

__all__ = ["FOLDER", "end_wardens", "family", "jails", "sandboxes_in", "until", "wardens"]

WARDEN = "lis_kernel.sandbox.warden"
STANDING = (WARDEN, "keeper.sh", "bwrap", "zygote.py", "nsenter")
"""In the command lines of a warden and of what it keeps while there is no sandbox."""


def wardens(runtime: Path) -> list[int]:
    """The process ids of the wardens that serve this folder."""
    return _wardens(f"{runtime}/", _processes())


def family(marker: str) -> tuple[set[int], dict[int, str]]:
    """Of the wardens with `marker` in their paths: what stands always, and the sandboxes' forks."""
    known = _processes()
    standing: set[int] = set()
    forks: dict[int, str] = {}
    todo = _wardens(marker, known)
    while todo:
        pid = todo.pop()
        command = known[pid][1]
        if any(word in command for word in STANDING):
            standing.add(pid)
        else:
            forks[pid] = command
        todo += [child for child, (parent, _) in known.items() if parent == pid]
    return standing, forks


def _wardens(marker: str, known: dict[int, tuple[int, str]]) -> list[int]:
    return [pid for pid, (_, said) in known.items() if WARDEN in said and marker in said]


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every live process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                said = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    found[int(entry.name)] = (int(parent), said.decode("utf-8", "replace"))
    return found


def jails(runtime: Path) -> list[str]:
    """The names of their jails' folders."""
    records = (read_record(path) for path in runtime.iterdir())
    return [record["id"] for record in records if "jail" in record.get("backend", "")]


def sandboxes_in(runtime: Path) -> list[Path]:
    """The folders of sandboxes; a zygote's are none."""
    none = {FOLDER, *jails(runtime)}
    return [path for path in runtime.iterdir() if path.name not in none]


def end_wardens(runtime: Path) -> None:
    """End them all, and with them whatever sandboxes they still have."""
    for pid in wardens(runtime):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert until(lambda: not wardens(runtime))


def until(true: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not (seen := true()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(seen)
