"""The zygotes of a runtime folder: how tests find them, end them, and tell them from sandboxes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lis_kernel.sandbox.berth import zygotes

__all__ = ["end_wardens", "family", "jails", "reserves", "until", "wardens"]

WARDEN = "lis_kernel.sandbox.warden"
RESERVE = "lis: fork in reserve"
STANDING = (WARDEN, "keeper.sh", "bwrap", "zygote.py", "nsenter", RESERVE)
"""In the command lines of a warden and of what it keeps while there is no sandbox."""


def wardens(place: Path) -> list[int]:
    """The process ids of the wardens whose folders are in `place`."""
    return _wardens(f"{place}/", _processes())


def family() -> tuple[set[int], dict[int, str]]:
    """Of this test's wardens: the processes that stand always, and the sandboxes' forks."""
    known = _processes()
    standing: set[int] = set()
    forks: dict[int, str] = {}
    todo = _wardens(f"{zygotes()}/", known)
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


def reserves() -> list[int]:
    """Of this test's zygotes: the forks that are for whoever comes next."""
    known = _processes()
    return [pid for pid in family()[0] if RESERVE in known.get(pid, (0, ""))[1]]


def jails(place: Path) -> list[Path]:
    """The folders of the jails of the wardens whose folders are in `place`."""
    return [path for path in place.glob("*/*") if (path / "owner").is_file()]


def end_wardens(place: Path) -> None:
    """End them all, and with them whatever sandboxes they still have."""
    for pid in wardens(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert until(lambda: not wardens(place))


def until(true: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not (seen := true()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(seen)
