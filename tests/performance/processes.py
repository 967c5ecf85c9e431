"""What processes take: memory by PSS, processor time, descriptors, mounts.

Ours are the descendants of this process, whatever namespaces they are in, and of the zygotes'
wardens, which outlive who started them: `own_runtime` gives them a folder of our own, so that no
other program's are counted, and ends them. PSS (proportional set size) counts a page that k
processes share as 1/k in each, so sums over processes are right.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from lis_kernel.sandbox import cgroup

MB = 1e6
RUNTIME = "LIS_RUNTIME_DIR"
WARDEN = "lis_kernel.sandbox.warden"
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

    def is_warden_of(self, folder: str) -> bool:
        return WARDEN in self.words and f"{folder}/" in self.words

    @property
    def kind(self) -> str:
        """`kernel`, `jail`, `keeper`, `warden`, or `init`: a small Python beside a kernel."""
        program = os.path.basename(self.words.split(" ", 1)[0])
        if WARDEN in self.words:
            return "warden"
        if program == "bwrap":
            return "jail"
        if program in ("sh", "sleep"):
            return "keeper"
        return "kernel" if self.threads > 1 else "init"


@contextlib.contextmanager
def own_runtime() -> Iterator[None]:
    """A runtime folder of our own for the sandboxes; at the end their wardens are ended."""
    folder = tempfile.mkdtemp(prefix="lb-")  # short: it is a part of sockets' paths
    os.environ[RUNTIME] = folder
    os.environ.pop("LIS_ZYGOTE_DIR", None)
    try:
        yield
    finally:
        end_wardens()
        del os.environ[RUNTIME]
        shutil.rmtree(folder, ignore_errors=True)


def end_wardens() -> None:
    """End the zygotes of our runtime folder, and wait until they have cleaned up."""
    for one in descendants():
        if one.is_warden_of(os.environ[RUNTIME]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGTERM)
            _wait_for(one.pid)


def _wait_for(pid: int, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _read(pid) is not None:
        time.sleep(0.02)


def descendants(root: int | None = None) -> list[Process]:
    """All processes below `root`, or below this one."""
    known: dict[int, Process] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (one := _read(int(entry))) is not None:
            known[one.pid] = one
            children[one.parent].append(one.pid)
    queue = list(children[os.getpid() if root is None else root])
    if root is None:
        folder = os.environ.get(RUNTIME, "")
        queue += [pid for pid, one in known.items() if folder and one.is_warden_of(folder)]
    found: dict[int, Process] = {}
    while queue:
        pid = queue.pop()
        if pid not in found:
            found[pid] = known[pid]
            queue += children[pid]
    return list(found.values())


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
    """In this process's namespace, but for containers', which come and go with others' work."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sum(
        line.split()[2] not in ("overlay", "nsfs") and "docker" not in line for line in lines
    )


def loops() -> int:
    """Loop devices on files of our runtime folder."""
    folder = os.environ.get(RUNTIME)
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return sum(f"{folder}/" in path.read_text() for path in files) if folder else 0


def runtime_folders() -> int:
    """Sandboxes' folders in our runtime folder, if it is there."""
    folder = os.environ.get(RUNTIME)
    return sum(_is_name(name) for name in os.listdir(folder)) if folder else 0


def control_groups() -> int:
    """Sandboxes' groups below this process's own memory group: no other program makes any there."""
    folder = cgroup.layout().folders.get("memory")
    return len(list(folder.glob("lis-*"))) if folder else 0


def _is_name(name: str) -> bool:
    return len(name) == 8 and set(name) <= set("0123456789abcdef")
