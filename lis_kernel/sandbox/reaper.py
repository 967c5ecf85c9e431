"""Removes what a dead owner left of a sandbox: processes, control groups, its folder.

Two callers: whoever sweeps or cleans (`sandbox/state.py`, `lis clean`), and each sandbox's keeper,
which runs this file as a program once its owner is gone, or the sandbox's time is over. So it uses
the standard library only.
Every process of a sandbox is found by its control group or by its label: `LIS_SANDBOX_ID` in the
environment that it was started with. Both may be done at once, twice, and in any half-made state.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = [
    "LABEL",
    "RECORD",
    "members",
    "read_record",
    "reap",
    "remove_groups",
    "remove_tree",
]

LABEL = "LIS_SANDBOX_ID"
"""Environment variable with the sandbox's id."""
RECORD = "state.json"
"""What is known of a sandbox, in its folder: id, backend, owner, created, ttl, uid, cgroups."""
BUSY_SECONDS = 3.0
PATIENCE = 3.0
"""Seconds until processes that do not go are left behind."""


def read_record(folder: Path) -> dict[str, Any]:
    """What the owner wrote down; empty if there is nothing readable."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def reap(folder: Path) -> None:
    """End the sandbox whose folder this is, or was, and remove every trace of it."""
    groups = _groups(folder)
    deadline = time.monotonic() + PATIENCE
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:  # twice: one may just have been starting
        found = members(folder.name, groups)
        quiet = 0 if found else quiet + 1
        _kill(found)
        time.sleep(0.02)
    remove_groups(groups)
    if read_record(folder).get("container"):
        program = Path(__file__).with_name("container_reaper.py")
        subprocess.run([sys.executable, "-I", "-S", program, folder], check=False)
    for place in (folder.with_name(f".{folder.name}"), folder):
        if os.path.lexists(place):
            remove_tree(place)


def remove_groups(groups: list[Path]) -> None:
    """Remove control groups whose processes were killed: one that still ends keeps its own busy."""
    deadline = time.monotonic() + BUSY_SECONDS
    for group in groups:
        while True:
            try:
                group.rmdir()
            except OSError as error:
                if error.errno == errno.EBUSY and time.monotonic() < deadline:
                    time.sleep(0.003)
                    continue
            break


def _groups(folder: Path) -> list[Path]:
    """The control groups that it wrote down, if they are its own."""
    known = read_record(folder).get("cgroups", [])
    return [Path(path) for path in known if f"lis-{folder.name}" in path]


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def members(name: str, groups: list[Path]) -> set[int]:
    """The processes of sandbox `name`, but for the one that asks."""
    found: set[int] = set()
    for group in groups:
        with contextlib.suppress(OSError, ValueError):
            found |= {int(line) for line in (group / "cgroup.procs").read_text().split()}
    label = f"{LABEL}={name}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if label in file.read().split(b"\0"):
                    found.add(int(entry))
    return found - {0, os.getpid()}


def remove_tree(root: Path) -> None:
    """`rm -rf`, however deep it is and whatever modes a sandbox gave its parts."""
    if not os.path.isdir(root) or os.path.islink(root):
        with contextlib.suppress(OSError):
            os.unlink(root)
        return
    with contextlib.suppress(RecursionError):
        shutil.rmtree(root, ignore_errors=True)
    if os.path.lexists(root):
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(root)], capture_output=True, check=False)


def expire(folder: Path, keeper: int) -> None:
    """End every process of the sandbox but its `keeper`; its files stay for the owner."""
    groups = _groups(folder)
    deadline = time.monotonic() + PATIENCE
    while (found := members(folder.name, groups) - {keeper}) and time.monotonic() < deadline:
        _kill(found)
        time.sleep(0.02)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        expire(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        reap(Path(sys.argv[1]))
