"""Finds the processes of a test's sandboxes, however they hide from their parents."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from zygotes import family


def processes_of(place: Path | str) -> dict[int, str]:
    """Every live process that has to do with a folder or a piece of a path: pid to command.

    By its command line, and by its mounts: what runs in a jail has an environment and a command
    line of its own, but its /testbed is a bind mount out of the runtime folder. A zygote's forks
    are found by their parents; the zygote itself outlives its sandboxes.
    """
    marker = (place.name if isinstance(place, Path) else place).encode()
    standing, found = family()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in {os.getpid(), *standing}:
            continue
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
            if state not in (b"Z", b"X") and marker in command + (entry / "mountinfo").read_bytes():
                shown = command.replace(b"\0", b" ").decode("utf-8", "replace")
                found[int(entry.name)] = shown
    return found


def left_within(seconds: float, place: Path | str) -> dict[int, str]:
    """The processes that are still there after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(place)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
