"""Which limit a sandbox ran into, told by the kernel's own counters.

The counters of a cgroup and the free space of a folder are looked at after each cell; what grew
since the last look names the limit. Reading them takes microseconds and asks no daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lis_kernel.types import Verdict

__all__ = ["Breaches"]

CGROUPS = Path("/sys/fs/cgroup")
COUNTERS: tuple[tuple[str, tuple[str, ...], str, Verdict], ...] = (
    ("memory", ("memory.events", "memory.oom_control"), "oom_kill", "oom"),
    ("pids", ("pids.events",), "max", "pids"),
)
"""Controller, file names of version 2 and 1, key in the file, and what its growth means."""
LITTLE_BYTES = 2 << 20


class Breaches:
    """The counters of the cgroup that process `pid` is in, and the folders' free space."""

    def __init__(self, pid: int, folders: Iterable[int]) -> None:
        self._files = _counter_files(pid)
        self._folders = list(folders)
        self._seen = {verdict: _read(*place) for verdict, place in self._files.items()}
        self._full = False

    @property
    def groups(self) -> list[Path]:
        """The cgroups' folders."""
        return sorted({path.parent for path, _ in self._files.values()})

    @property
    def readable(self) -> bool:
        """False where the cgroup cannot be seen from here, as with a daemon in another VM."""
        return all(_read(*place) is not None for place in self._files.values()) and bool(
            self._files
        )

    def new(self) -> Verdict | None:
        """The gravest limit that was hit since the last call."""
        found: Verdict | None = None
        for verdict, place in reversed(self._files.items()):
            count, seen = _read(*place), self._seen[verdict]
            if count is not None and seen is not None and count > seen:
                self._seen[verdict] = count
                found = verdict
        full = any(map(_is_full, self._folders))
        if found is None and full and not self._full:
            found = "disk_full"
        self._full = full
        return found


def _is_full(folder: int) -> bool:
    try:
        space = os.fstatvfs(folder)
    except OSError:
        return False
    # a program that asked for more than there was leaves a little
    little = min(LITTLE_BYTES, space.f_blocks * space.f_frsize // 64)
    return space.f_bavail * space.f_frsize < little or space.f_favail == 0


def _counter_files(pid: int) -> dict[Verdict, tuple[Path, str]]:
    """By verdict: the file and the key in it. Understands cgroup v2, v1 and both at once."""
    groups: dict[str, str] = {}
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    found: dict[Verdict, tuple[Path, str]] = {}
    for controller, names, key, verdict in COUNTERS:
        if controller in groups:
            folder = CGROUPS / controller / groups[controller]
        else:
            folder = CGROUPS / groups.get("", "")
        for name in names:
            if (folder / name).exists():
                found[verdict] = (folder / name, key)
                break
    return found


def _read(path: Path, key: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return None
