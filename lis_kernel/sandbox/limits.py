"""Which wall holds which limit: rlimits for the guest, the truth for the record, a disk watch.

Between `config.Limits` and what `sandbox/base.py` finds on this machine. Control groups bound the
sandbox as a whole; where there are none, rlimits bound each process of it, which is second best and
is called so. The disk watch is for sandboxes whose files lie among ours.
"""

from __future__ import annotations

import contextlib
import os
import platform
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lis_kernel.config import Limits, amount
from lis_kernel.sandbox.cgroup import Kind
from lis_kernel.sandbox.keeper import Place

__all__ = ["DiskWatch", "held", "in_words", "rlimits"]

EACH = "rlimit, of each process"
OWN_MEMORY = "rlimit, of each process, without what it shares with others"
WHOLE = "rlimit, of the whole sandbox"
"""A user namespace's processes are counted together."""
FULL_BYTES = 2 << 20
"""A disk with less room than this, or than 1/64 of it, is full: ext4 keeps some back, and no
program asks for single bytes."""
WATCHED_FILES = 200_000
"""Most files that the watch counts; a sandbox that made more is over its limit too."""


def rlimits(limits: Limits, controllers: set[str], *, alone: bool) -> dict[str, int]:
    """What `guest/boot.py` sets before anything else: `RLIMIT_` name → value, soft and hard.

    `controllers` are those whose control group holds; `alone` says that the sandbox has a uid or
    a user namespace of its own, so that its processes can be counted apart from the user's.
    """
    # not 0: a handler of the host's that takes cores by a pipe is given them even so, but not at 1
    values = {"CORE": 1, "NOFILE": limits.open_files, "FSIZE": limits.disk_bytes}
    if "memory" not in controllers:
        # not AS: it counts what is reserved and shared too, and stops numpy's threads at 2 GiB
        values["DATA"] = limits.memory_bytes
    if "pids" not in controllers and alone and counts_by_namespace():
        values["NPROC"] = limits.pids
    return values


def counts_by_namespace() -> bool:
    """Since Linux 5.14 RLIMIT_NPROC counts the processes of one user namespace only."""
    major, minor = (int(part) for part in platform.release().split(".")[:2])
    return (major, minor) >= (5, 14)


def held(
    limits: Limits, kind: Kind, controllers: set[str], rlimit: dict[str, int], place: Place
) -> dict[str, dict[str, Any]]:
    """Each limit with its value and what holds it here; None where nothing does."""
    disk = {
        "loop": "a file system of this size",
        "tmpfs": "a tmpfs of this size; its files count as memory",
        "none": "measured each second, and RLIMIT_FSIZE of each file",
    }[place.disk]
    rows: dict[str, tuple[Any, str | None]] = {
        "memory_bytes": (limits.memory_bytes, kind if "memory" in controllers else OWN_MEMORY),
        "pids": (
            limits.pids,
            kind if "pids" in controllers else WHOLE if "NPROC" in rlimit else None,
        ),
        "cpus": (limits.cpus, kind if "cpu" in controllers else None),
        "disk_bytes": (place.disk_bytes, disk),
        "open_files": (limits.open_files, EACH),
        "core_bytes": (0, EACH),
        "cell_seconds": (limits.cell_seconds, "the host's clock"),
    }
    if limits.sandbox_seconds is not None:
        rows["sandbox_seconds"] = (limits.sandbox_seconds, "the host's clock, and the keeper's")
    return {name: {"limit": limit, "held_by": by} for name, (limit, by) in rows.items()}


def in_words(facts: Mapping[str, Any]) -> tuple[bool, str]:
    """A line about what `describe()` says of a sandbox's walls; and whether every limit is held."""
    rows = facts["limits"]
    holders: dict[str, list[str]] = {}
    for name, row in rows.items():
        if name not in ("core_bytes", "cell_seconds", "sandbox_seconds"):
            limit = amount(row["limit"]) if name.endswith("_bytes") else f"{row['limit']:g}"
            word = name.removesuffix("_bytes").replace("_", " ")
            holders.setdefault(row["held_by"] or "NOTHING", []).append(f"{word} {limit}")
    lines = [f"{', '.join(what)}: {by}" for by, what in holders.items()]
    abi = facts.get("landlock_abi")
    lines.append(f"Landlock: ABI {abi}" if abi else "Landlock: none")
    lines.append("seccomp: a filter" if facts.get("seccomp") else "seccomp: NO filter")
    return "NOTHING" not in holders, "; ".join(lines)


def is_full(files: Path) -> bool:
    """Whether the disk below `files` has no room, or no inode, left."""
    try:
        room = os.statvfs(files)
    except OSError:
        return False
    full = min(FULL_BYTES, room.f_blocks * room.f_frsize // 64)
    return room.f_bavail * room.f_frsize < full or (room.f_files > 0 and room.f_ffree == 0)


class DiskWatch:
    """Measures what a sandbox has written, and says when it is too much.

    That is what lies below `folder`, and what its processes `pids` hold open though it was removed.
    `full` is told at a measurement over the limit, but not again until more was written: what the
    sandbox deletes while it is over the limit is its way out.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        full: Callable[[], None],
        pids: Callable[[], Iterable[int]] = lambda: (),
    ) -> None:
        self.folder = folder
        self.pids = pids
        self.limit = limits.disk_bytes
        self.full = full
        self._told = 0

    def measure(self) -> None:
        """One look; blocks for as long as counting takes."""
        used = usage(self.folder) + removed(self.pids())
        if used > max(self.limit, self._told):
            self._told = used
            self.full()
        elif used <= self.limit:
            self._told = 0


def usage(folder: Path) -> int:
    """Bytes on the disk below `folder`, each hard link counted; symlinks are not followed."""
    total = count = 0
    todo = [str(folder)]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > WATCHED_FILES:
                        return 1 << 62
                    info = entry.stat(follow_symlinks=False)
                    total += info.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            continue
    return total


def removed(pids: Iterable[int]) -> int:
    """Bytes of the files that have no name any more and that these processes keep open."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{fd}")
                    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
                        found[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(found.values())
