"""How much memory a new sandbox may count on: the machine's, and our own control group's.

Floor 2, asked by `kernel/pool.py` before each start. Free is what the kernel calls available
(caches can be given up) within every limit that is set above us: of a container or a job, the
machine's own numbers say nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available"]


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can still be used; a huge number where the system does not say."""
    found = [1 << 62]
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    for folder in _ours(proc, groups):
        with contextlib.suppress(OSError, ValueError):
            found.append(_left(folder))
    return min(found)


def _ours(proc: Path, groups: Path) -> Iterator[Path]:
    """Our memory control group's folder and all those above it."""
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                top = groups / "memory"
            elif number == "0":
                top = groups
            else:
                continue
            steps = [step for step in path.split("/") if step not in ("", "..")]
            for n in range(len(steps), -1, -1):
                yield top.joinpath(*steps[:n])


def _left(folder: Path) -> int:
    """Of a group with a limit: the rest, with what its files' caches would give back.

    Raises:
        OSError, ValueError: no such group, or no limit (`max`).
    """
    second = (folder / "memory.max").exists()
    limit, usage, key = (
        ("memory.max", "memory.current", "inactive_file")
        if second
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    most, used = (int((folder / name).read_text()) for name in (limit, usage))
    lines = (folder / "memory.stat").read_text().splitlines()
    facts = dict(line.split() for line in lines)
    return max(0, most - used + int(facts.get(key, 0)))
