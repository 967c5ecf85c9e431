"""Finds the processes of a test's sandboxes, however they hide from their parents."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from zygotes import family


def processes_of(folder: Path) -> dict[int, str]:
    """Live processes of the sandboxes in `folder`, by their command line or their mounts.

    Without the zygote, which outlives them.
    """
    standing, found = family()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in {os.getpid(), *standing}:
            with suppress(OSError):
                said = (entry / "cmdline").read_bytes() + (entry / "mounts").read_bytes()
                said += (entry / "mountinfo").read_bytes()
                if folder.name.encode() in said:
                    found[int(entry.name)] = (entry / "cmdline").read_text("utf-8", "replace")[:80]
    return found


def left_within(seconds: float, folder: Path) -> dict[int, str]:
    """The processes that are still there after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
