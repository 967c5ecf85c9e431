"""The walls of the backends that start processes themselves: `bubblewrap`, and some for `local`.

A sandbox of theirs is a folder, a keeper, a control group and at most one kernel process. The
keeper removes everything even after `kill -9` of this process; containers have a daemon for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lis_kernel.errors import SandboxLost
from lis_kernel.protocols import KernelProcess
from lis_kernel.sandbox import cgroup, reaper
from lis_kernel.sandbox import limits as walls
from lis_kernel.sandbox.base import ProcessSandbox
from lis_kernel.sandbox.keeper import Keeper, Place
from lis_kernel.sandbox.launch import GuestProcess, KernelEnded
from lis_kernel.sandbox.reaper import LABEL
from lis_kernel.sandbox.state import StateDir, new_folder
from lis_kernel.types import Verdict

__all__ = ["WalledSandbox"]

ENTER = (
    'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 >"$1" || exit 70; shift; n=$((n-1)); done; '
    'exec "$@"'
)
"""Moves the shell into the control groups given, then becomes what follows them."""
WATCH_SECONDS = 1.0


class WalledSandbox(ProcessSandbox):
    """A sandbox with limits that this process puts up: control group, disk, uid, rlimits."""

    folder: Path
    """The state folder; known from `start` on."""
    isolated: ClassVar[bool] = True
    """Whether the backend has namespaces: a disk and a uid of its own need them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._keeper: Keeper | None = None
        self._cgroup: cgroup.Cgroup | None = None
        self._where = cgroup.Layout("none")
        self._launches = 0
        self._begun = time.monotonic()
        self._overfull = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def keeper(self) -> Keeper:
        if self._keeper is None:
            raise SandboxLost("the sandbox is not running")
        return self._keeper

    @property
    def _place(self) -> Place | None:
        """Where its files are; None before that is made, and after it has ended."""
        return self._keeper

    @property
    def _host_uid(self) -> int | None:
        return self._place.uid if self._place else None

    # -- what a backend says -------------------------------------------------------------------

    def _sources(self) -> dict[str, Path]:
        """Name → host path that the jail binds, see `Keeper.path`. Asked for once, at start."""
        return {}

    def _owned(self) -> set[str]:
        """Of the sources, those in which the sandbox shall have the rights of their owner."""
        return set()

    def _bound(self, keeper: Keeper) -> None:
        """See that the sources can be used. Called once they are bound."""

    def _prepare(self) -> None:
        """Fill the state folder. Called before the keeper binds the sources."""

    def _furnish(self) -> None:
        """Put first files on the sandbox's disk, by `state.put`."""

    async def _launch(self) -> GuestProcess:
        raise NotImplementedError

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the sandbox's places, walls and network. Backends check their needs first."""
        await super().start()
        self._set_timer()
        if self._place is not None and self._place.disk == "none":
            self._watch = asyncio.get_running_loop().create_task(self._watch_disk())

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.limits.sandbox_seconds is not None:
            left = self.limits.sandbox_seconds - (time.monotonic() - self._begun)
            self._timer = asyncio.get_running_loop().call_later(left, self._kill)

    async def _settle(self) -> None:
        self.folder = folder = new_folder()
        limits = self.limits
        self._where = where = cgroup.layout()
        self._keeper = keeper = Keeper(
            folder,
            limits.disk_bytes,
            self._tmpfs_bytes,
            self._sources(),
            owned=self._owned(),
            seconds=limits.sandbox_seconds,
            namespace=self.isolated,
        )
        self._state = StateDir(folder)
        self._cgroup = cgroup.planned(where, folder.name)
        self._record()  # before there is anything to clean up
        if self._cgroup is not None and not self._cgroup.make(limits):
            self._cgroup, self._where = None, cgroup.Layout("none")
        self._prepare()
        self._begun = time.monotonic()
        await keeper.start()
        self._bound(keeper)
        self.state.furnish(keeper.files, keeper.uid)
        self._furnish()

    async def launch_kernel(self) -> KernelProcess:
        """Start a kernel; the one before it, if any, is killed first."""
        if self._process is not None:
            await self._end_kernel()
            if self._cgroup is not None:
                await asyncio.to_thread(self._cgroup.kill)
        self._see_time()
        self._launches += 1
        try:
            process = await self._launch()
        except KernelEnded as error:
            if self._kind != "systemd scope" or self._launches > 1:
                raise
            self.say(f"the user's systemd gives no scope, so only rlimits hold: {error}")
            self._where = cgroup.Layout("none")
            process = await self._launch()
        self._process = process
        if self._kind == "systemd scope":
            self._cgroup = cgroup.of_process(process.pid)
            self._record()
        return process

    def _see_time(self) -> None:
        """Raises: SandboxLost: its time is over."""
        if self._over:
            seconds = f"{self.limits.sandbox_seconds:g} s"
            raise SandboxLost(f"the sandbox's time of {seconds} is over (limits.sandbox_seconds)")

    def _enter(self) -> list[str]:
        """Runs what follows inside the control group and the keeper's namespace."""
        if self._kind == "systemd scope":
            scope = cgroup.scope_command(f"{self.state.name}-{self._launches}", self.limits)
            return [*scope, *self.keeper.prefix]
        if self._cgroup is None:
            return self.keeper.prefix
        entries = [str(path) for path in self._cgroup.entries]
        return ["sh", "-c", ENTER, "sh", str(len(entries)), *entries, *self.keeper.prefix]

    def _environment(self) -> dict[str, str]:
        """For the processes around the jail; it is also how they are found again."""
        passed = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
        known = {name: os.environ[name] for name in passed if name in os.environ}
        if self._kind == "systemd scope" and (runtime := cgroup.user_runtime()) is not None:
            known["XDG_RUNTIME_DIR"] = str(runtime)
        return {**known, LABEL: self.state.name}

    # -- limits ----------------------------------------------------------------------------------

    @property
    def _kind(self) -> cgroup.Kind:
        return self._where.kind

    @property
    def _tmpfs_bytes(self) -> int:
        """Files in memory must leave room for programs, or a full disk would end every kernel."""
        counted = self._kind != "none"
        return min(self.limits.disk_bytes, self.limits.memory_bytes // 2 if counted else 1 << 62)

    @property
    def _controllers(self) -> set[str]:
        return set(self._where.folders)

    def _rlimits(self) -> dict[str, int]:
        return walls.rlimits(self.limits, self._controllers, alone=self.isolated)

    def verdict(self) -> Verdict | None:
        breached = self._cgroup.breaches() if self._cgroup is not None else set()
        if self._over:
            return "timeout"
        if "oom" in breached:
            return "oom"
        place, self._overfull, overfull = self._place, False, self._overfull
        if overfull or (place and place.files and walls.is_full(place.files)):
            return "disk_full"
        return "pids" if "pids" in breached else None

    @property
    def _over(self) -> bool:
        """Whether its time is over. The keeper's clock may have ended it while ours stood still."""
        seconds = self.limits.sandbox_seconds
        return seconds is not None and time.monotonic() >= self._begun + seconds

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        if self._cgroup is not None:
            self._cgroup.kill(0.5)

    async def _watch_disk(self) -> None:
        def full() -> None:
            self._overfull = True
            self._kill()

        name, groups = self.state.name, self._cgroup.paths if self._cgroup else []
        watch = walls.DiskWatch(
            self.state.root, self.limits, full, lambda: reaper.members(name, groups)
        )
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.to_thread(watch.measure)

    # -- facts, end ------------------------------------------------------------------------------

    def describe(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {**super().describe()}
        place = self._place
        if place is not None and self._state is not None:
            kind, rlimits = self._kind, self._rlimits()
            facts["limits"] = walls.held(self.limits, kind, self._controllers, rlimits, place)
            facts["host_uid"] = os.getuid() if place.uid is None else place.uid
        return facts

    def _facts(self) -> dict[str, Any]:
        return {
            **super()._facts(),
            "host_uid": self._host_uid,
            "cgroups": [str(path) for path in self._cgroup.paths] if self._cgroup else [],
        }

    def cleanup(self) -> None:
        timer, self._timer = self._timer, None
        watch, self._watch = self._watch, None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if timer is not None:
                timer.cancel()
            if watch is not None:
                watch.get_loop().call_soon_threadsafe(watch.cancel)
        process, self._process = self._process, None
        if process is not None:
            process.kill()
        if isinstance(process, GuestProcess):
            process.reap()
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None
        super().cleanup()
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
