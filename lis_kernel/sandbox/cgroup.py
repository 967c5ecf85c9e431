"""Control groups: the walls around a sandbox's memory, processes and CPU time as a whole.

Used by `sandbox/walled.py`. Of what a machine may offer the first that holds is taken: cgroup v2
where a subtree is ours to write, v1's controllers, a scope of the user's systemd, else nothing
(then `guest/boot.py` sets rlimits, which bound single processes only). The groups are made below
or beside our own, so whatever bounds us bounds the sandbox too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lis_kernel.config import Limits
from lis_kernel.sandbox.reaper import remove_groups

__all__ = [
    "Cgroup",
    "Layout",
    "layout",
    "of_process",
    "planned",
    "scope_command",
    "user_runtime",
]

Kind = Literal["cgroup v2", "cgroup v1", "systemd scope", "none"]
CONTROLLERS = ("memory", "pids", "cpu")
PERIOD = 100_000
"""Microseconds over which the CPU quota is counted: the kernel's own default."""
USER_MANAGER = "user.slice/user-{uid}.slice/user@{uid}.service"
PREFIX = "lis-"
"""Our groups' names begin with it; the sandbox's id follows."""


@dataclass(frozen=True)
class Layout:
    """What holds here, and in which folder a sandbox's group is made, per controller."""

    kind: Kind
    folders: dict[str, Path] = field(default_factory=dict)


@dataclass
class Cgroup:
    """One sandbox's group: one folder under v2, one per controller under v1."""

    kind: Kind
    folders: dict[str, Path]
    _seen: dict[str, int] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path]:
        """Each folder once: v1 may keep several controllers in one."""
        return list(dict.fromkeys(self.folders.values()))

    @property
    def entries(self) -> list[Path]:
        """The files that a process writes `0` to, to enter."""
        return [path / "cgroup.procs" for path in self.paths]

    @property
    def doors(self) -> list[Path]:
        """The files to which a process without threads writes `0`, to enter.

        v1's `tasks` moves one thread, itself, without the lock for which a whole process waits
        milliseconds.
        """
        name = "tasks" if self.kind == "cgroup v1" else "cgroup.procs"
        return [path / name for path in self.paths]

    def make(self, limits: Limits) -> bool:
        """Make the folders and set the limits; False, and nothing is left, if that is refused."""
        write = _write_v2 if self.kind == "cgroup v2" else _write_v1
        try:
            for path in self.paths:
                path.mkdir()
            for controller, path in self.folders.items():
                write(controller, path, limits)
        except OSError:
            self.remove()
            return False
        return True

    def breaches(self) -> set[Literal["oom", "pids"]]:
        """Which limits were hit since the last call."""
        found: set[Literal["oom", "pids"]] = set()
        events = "memory.events" if self.kind != "cgroup v1" else "memory.oom_control"
        if self._rose("memory", events, "oom_kill"):
            found.add("oom")
        if self._rose("pids", "pids.events", "max"):
            found.add("pids")
        return found

    def _rose(self, controller: str, name: str, key: str) -> bool:
        folder = self.folders.get(controller)
        now = 0 if folder is None else counter(folder / name, key)
        before = self._seen.get(name, 0)
        self._seen[name] = max(now, before)
        return now > before

    def kill(self, patience: float = 2.0) -> bool:
        """SIGKILL every process in the group; True once it is empty. Blocks for `patience` s."""
        deadline = time.monotonic() + patience
        while pids := self.pids():
            for path in self.paths:
                with contextlib.suppress(OSError):
                    (path / "cgroup.kill").write_text("1")
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.003)
        return True

    def pids(self) -> set[int]:
        found: set[int] = set()
        for entry in self.entries:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in entry.read_text().split()}
        return found - {0}

    def remove(self) -> None:
        """Kill what is left and remove the folders; may be called twice."""
        self.kill()
        remove_groups(self.paths)


def counter(path: Path, key: str) -> int:
    """The value after `key` in a file of `key value` lines; 0 if there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.split()[0] == key:
                return int(line.split()[1])
    return 0


def planned(where: Layout, name: str) -> Cgroup | None:
    """The group of sandbox `name`, not made yet; None where groups cannot be made."""
    if where.kind not in ("cgroup v1", "cgroup v2"):
        return None
    return Cgroup(where.kind, {c: f / f"{PREFIX}{name}" for c, f in where.folders.items()})


def of_process(pid: int) -> Cgroup | None:
    """The scope that systemd made for the process `pid`."""
    proc = Path("/proc", str(pid))
    try:
        mount, path = _mounts(proc)[""], _own_groups(proc)[""]
    except (OSError, KeyError):
        return None
    folder = _folder(mount, path)
    if not folder.name.startswith(PREFIX):
        return None
    return Cgroup("systemd scope", dict.fromkeys(CONTROLLERS, folder))


def _write_v1(controller: str, path: Path, limits: Limits) -> None:
    if controller == "memory":
        (path / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
        with contextlib.suppress(OSError):  # only where the kernel counts swap
            (path / "memory.memsw.limit_in_bytes").write_text(str(limits.memory_bytes))
    elif controller == "pids":
        (path / "pids.max").write_text(str(limits.pids))
    else:
        (path / "cpu.cfs_period_us").write_text(str(PERIOD))
        (path / "cpu.cfs_quota_us").write_text(str(_quota(limits)))


def _write_v2(controller: str, path: Path, limits: Limits) -> None:
    if controller == "memory":
        (path / "memory.max").write_text(str(limits.memory_bytes))
        with contextlib.suppress(OSError):  # only where the kernel counts swap
            (path / "memory.swap.max").write_text("0")
    elif controller == "pids":
        (path / "pids.max").write_text(str(limits.pids))
    else:
        (path / "cpu.max").write_text(f"{_quota(limits)} {PERIOD}")


def _quota(limits: Limits) -> int:
    return max(1000, int(limits.cpus * PERIOD))  # the kernel takes no less than 1 ms


# -- what this machine offers ------------------------------------------------------------------


def layout(proc: Path = Path("/proc/self"), systemd: bool = True) -> Layout:
    """What holds for this process; looks again at each call, 0.2 ms."""
    try:
        mounts = _mounts(proc)
        own = _own_groups(proc)
    except OSError:
        return Layout("none")
    for found in (_layout_v2(mounts, own), _layout_v1(mounts, own)):
        if found is not None:
            return found
    if systemd and "" in mounts and user_runtime() is not None:
        manager = mounts[""][0] / USER_MANAGER.format(uid=os.getuid())
        with contextlib.suppress(OSError):
            handed = set((manager / "cgroup.controllers").read_text().split())
            if {"memory", "pids"} <= handed:  # of cpu, older systemds keep users out
                return Layout("systemd scope", {c: manager for c in CONTROLLERS if c in handed})
    return Layout("none")


def _mounts(proc: Path) -> dict[str, tuple[Path, str]]:
    """Controller (`""` for v2) → mount point, and which group of the hierarchy stands there."""
    found: dict[str, tuple[Path, str]] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ")[:3]
        root, point = left.split(" ")[3:5]
        if kind == "cgroup2":
            found[""] = (Path(point), root)
        elif kind == "cgroup":
            found.update({c: (Path(point), root) for c in options.split(",") if c in CONTROLLERS})
    return found


def _own_groups(proc: Path) -> dict[str, str]:
    """Controller (`""` for v2) → the path of our own group."""
    found: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _folder(mount: tuple[Path, str], path: str) -> Path:
    """The folder of group `path`; a container sees only what lies below its mount's root."""
    point, root = mount
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return point / path.lstrip("/")


def _layout_v1(mounts: dict[str, tuple[Path, str]], own: dict[str, str]) -> Layout | None:
    folders = {c: _folder(mounts[c], own[c]) for c in CONTROLLERS if c in mounts and c in own}
    folders = {c: folder for c, folder in folders.items() if os.access(folder, os.W_OK)}
    return Layout("cgroup v1", folders) if "memory" in folders and "pids" in folders else None


def _layout_v2(mounts: dict[str, tuple[Path, str]], own: dict[str, str]) -> Layout | None:
    """The nearest group above us that hands memory and pids down and that we may write.

    A group that holds processes cannot hand controllers down, so our own is hardly ever the one.
    To move a process, `cgroup.procs` of the group above both its old and its new one must be
    writable: of the one found here, as it stands above us.
    """
    if "" not in mounts or "" not in own:
        return None
    top = mounts[""][0]
    here = _folder(mounts[""], own[""])
    for folder in (here, *here.parents):
        if not folder.is_relative_to(top) or not os.access(folder / "cgroup.procs", os.W_OK):
            return None
        try:
            handed = set((folder / "cgroup.subtree_control").read_text().split())
            offered = set((folder / "cgroup.controllers").read_text().split())
        except OSError:
            return None
        if missing := (offered & set(CONTROLLERS)) - handed:
            with contextlib.suppress(OSError):  # EBUSY: it holds processes
                (folder / "cgroup.subtree_control").write_text(
                    " ".join(f"+{name}" for name in sorted(missing))
                )
                handed |= missing
        if {"memory", "pids"} <= handed and os.access(folder, os.W_OK):
            return Layout("cgroup v2", {c: folder for c in CONTROLLERS if c in handed})
    return None


def user_runtime() -> Path | None:
    """The runtime folder of the user's systemd, if one runs; `su` for one sets no variable."""
    if shutil.which("systemd-run") is None:
        return None
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.getuid()}"):
        with contextlib.suppress(OSError):
            if folder and Path(folder, "systemd", "private").is_socket():
                return Path(folder)
    return None


HOLD = """
(
    for file in /proc/self/fd/*; do
        number=${file##*/}
        if [ "$number" -gt 2 ]; then eval "exec $number>&-"; fi
    done
    exec sleep infinity
) </dev/null >/dev/null 2>&1 &
exec "$@"
"""
"""Leaves a process in the scope: an empty one is gone at once, and its counters with it. It keeps
none of the pipes open by which a kernel's end is seen."""


def scope_command(name: str, limits: Limits) -> list[str]:
    """Runs what follows in a scope of the user's systemd: for shells whose group is not ours."""
    return [
        "systemd-run",
        "--user",
        "--scope",
        "--quiet",
        "--collect",
        f"--unit={PREFIX}{name}",
        f"--property=MemoryMax={limits.memory_bytes}",
        "--property=MemorySwapMax=0",
        "--property=Delegate=yes",  # or newer ones end all of it at the first OOM
        f"--property=TasksMax={limits.pids + 1}",
        f"--property=CPUQuota={max(1, round(limits.cpus * 100))}%",
        *("--", "bash", "-c", HOLD, "bash"),
    ]
