"""What processes take: memory by PSS, processor time, descriptors, mounts.

Ours are found as descendants of this process, whatever namespaces they are in: each jail, keeper
and zygote is started by it. PSS (proportional set size) counts a page that k processes share as
1/k in each, so sums over processes are right.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

MB = 1e6
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    threads: int
    seconds: float
    """Of processor time, its own threads'."""
    words: str
    """Its command line, or its name in brackets."""

    @property
    def kind(self) -> str:
        """`kernel`, `jail`, `keeper`, or `init`: a small Python beside a kernel."""
        program = os.path.basename(self.words.split(" ", 1)[0])
        if program == "bwrap":
            return "jail"
        if "python" in program:
            return "kernel" if self.threads > 2 else "init"
        return "keeper"


def descendants(root: int | None = None) -> list[Process]:
    """All processes below `root`, or below this one."""
    known: dict[int, Process] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (one := _read(int(entry))) is not None:
            known[one.pid] = one
            children[one.parent].append(one.pid)
    found, queue = [], list(children[os.getpid() if root is None else root])
    while queue:
        pid = queue.pop()
        found.append(known[pid])
        queue += children[pid]
    return found


def _read(pid: int) -> Process | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        name, fields = text[text.index("(") : text.rindex(")") + 1], text.rpartition(")")[2].split()
        if fields[0] in "ZX":
            return None
        words = (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
        )
        seconds = (int(fields[11]) + int(fields[12])) / TICK
        return Process(pid, int(fields[1]), int(fields[17]), seconds, words.strip() or name)
    return None


def pss_mb(pid: int) -> float:
    """Of one process, in MB; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / MB
    return 0.0


def pss_by_kind(processes: Collection[Process]) -> dict[str, float]:
    """MB of `processes`, by their kind."""
    found: defaultdict[str, float] = defaultdict(float)
    for one in processes:
        found[one.kind] += pss_mb(one.pid)
    return dict(found)


def available_mb() -> float:
    """What the whole machine could still give, in MB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / MB
    raise OSError("no MemAvailable in /proc/meminfo")


def status_mb(pid: int, key: str) -> float:
    """`VmRSS` or `VmHWM` of a process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / MB
    return 0.0


def forget_peak(pid: int) -> None:
    """Have `VmHWM` begin again at what the process holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_cores(seconds: float) -> float:
    """Cores' worth of time that everything below this process uses, over `seconds` of sleep."""
    before = {one.pid: one.seconds for one in descendants()}
    began = time.monotonic()
    time.sleep(seconds)
    after = {one.pid: one.seconds for one in descendants()}
    used = sum(value - before.get(pid, 0.0) for pid, value in after.items())
    return used / (time.monotonic() - began)


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def mounts() -> int:
    """In this process's namespace."""
    return len(Path("/proc/self/mounts").read_text().splitlines())
