"""The `zygote` backend: a fork of a process that has everything loaded, in namespaces of its own.

The default where it works: it starts several times faster than `bubblewrap` and takes less memory.
All sandboxes of a user and image live in one bubblewrap jail, which has no network, no host files
and no privileges; in it each has user, mount, pid, network, ipc and uts namespaces of its own, a
disk of its own in memory, and the same control group, rlimits, Landlock rules and filter as under
`bubblewrap`. What a fork cannot have, or a system does not allow, is started as `bubblewrap` does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

from lis_kernel.errors import SandboxError, SandboxLost, SandboxUnavailable
from lis_kernel.protocols import KernelProcess
from lis_kernel.sandbox import cgroup, disk, seccomp
from lis_kernel.sandbox.acting import acting_as
from lis_kernel.sandbox.berth import Berth, reach
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox, landlock_abi
from lis_kernel.sandbox.disk import BYTES_PER_INODE
from lis_kernel.sandbox.image import PREFIX
from lis_kernel.sandbox.init import READY_FD, InitKernel
from lis_kernel.sandbox.jail import BRANCHES, DISK
from lis_kernel.sandbox.keeper import Place, real_root
from lis_kernel.sandbox.launch import connection, forget, wait_ready, write_anew
from lis_kernel.sandbox.live import Ask, LiveBranch
from lis_kernel.sandbox.network import CA_INSIDE
from lis_kernel.sandbox.reaper import remove_tree
from lis_kernel.sandbox.state import StateDir, new_folder
from lis_kernel.types import Verdict

__all__ = ["ZygoteSandbox"]

RUN, LOG = "/run/lis", "kernel.log"
FONTS, FONTS_OF_IMAGE = "/home/user/.cache/matplotlib", f"{PREFIX}/share/matplotlib"
END_SECONDS = 5.0
OWN_BYTES = 256 << 10
"""Beside the limit: a disk that files fill to the last byte still takes the kernel's own."""
TRIES = 3
"""A warden may end, for want of work, just as it is asked."""
_told: set[str] = set()


class ZygoteSandbox(BubblewrapSandbox):
    """A warm start where that can be; in everything else a bubblewrap sandbox."""

    backend: ClassVar[str] = "zygote"
    _berth: Berth | None = None
    _cold: str | None = None
    """Why it was started as `bubblewrap` does; None if it was not."""
    _told_end = False
    _source: int | None = None
    """The disk whose files it begins with, while it starts."""

    @property
    def _place(self) -> Place | None:
        return self._berth or super()._place

    # -- life ------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        self._where = cgroup.layout()
        self._cold = self._not_for_forks()
        tries = 0
        while self._cold is None and self._berth is None:
            tries += 1
            try:
                await self._settle_in_a_fork()
            except SandboxUnavailable as error:
                self._cold = str(error)
                if self._cold not in _told:
                    _told.add(self._cold)
                    self.say(f"no zygote here, so sandboxes start cold: {self._cold}")
            except SandboxLost:
                if tries == TRIES:
                    raise
        if self._cold is not None:
            await super()._settle()

    def _not_for_forks(self) -> str | None:
        """What was asked for that the shared jail does not have; None if nothing."""
        if self.config.mounts:
            return "mounts"
        if self.config.rootfs is not None:
            return "rootfs"
        if self.network.kind == "open":
            return "network open"
        if self._kind == "systemd scope":
            return "a scope of systemd"
        if self.limits.disk_bytes > self._tmpfs_bytes and real_root() and disk.tools():
            return "a disk of more than half of the memory"
        return None

    async def _settle_in_a_fork(self) -> None:
        assert self._image is not None  # start came first
        warden = await asyncio.to_thread(reach, self._image, self.config.preload)
        berth = Berth(warden, self._tmpfs_bytes)
        try:
            self.folder = new_folder()
            berth.announce(self.folder)
            self._state = StateDir(self.folder)
            self._cgroup = cgroup.planned(self._where, self.folder.name)
            self._record()  # before there is anything to clean up
            if self._cgroup is not None and not self._cgroup.make(self.limits):
                self._cgroup, self._where = None, cgroup.Layout("none")
            await self.network.certify(self.state.root)
            await self._furnish_berth(berth)
        except BaseException:
            berth.close()
            self._forget_settled()
            berth.leave()
            raise
        self._berth = berth

    async def _furnish_berth(self, berth: Berth) -> None:
        self._begun = time.monotonic()
        ca = self.network.ca
        files = {CA_INSIDE: ca} if ca is not None else {}
        doors = self._cgroup.doors if self._cgroup is not None else []
        await berth.make(self._wanted(), files, doors, self._source)
        self.state.adopt(berth.files, berth.uid)

    def _forget_settled(self) -> None:
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None
        if self._state is not None:
            self._state.remove()
            self._state = None

    def _wanted(self) -> dict[str, Any]:
        """What `guest/zygote.py` is told of this sandbox."""
        assert self._image is not None
        abi = landlock_abi()
        branches = self.config.branch
        writable = [*DISK.values(), *([BRANCHES] if branches else [])]
        fonts = self._image.root.glob("share/matplotlib/*.json")
        return {
            **self.disk_wanted(),
            "branches": branches,
            "links": {f"{FONTS}/{path.name}": f"{FONTS_OF_IMAGE}/{path.name}" for path in fonts},
            "landlock": {"abi": abi, "writable": writable} if abi else None,
            "seccomp": seccomp.programs("branch" if branches else ""),
            "seconds": self.limits.sandbox_seconds,
        }

    def disk_wanted(self) -> dict[str, Any]:
        """What the guest is told of a disk."""
        size = self._tmpfs_bytes
        inodes = size // BYTES_PER_INODE + 256
        return {"disk_bytes": size + OWN_BYTES, "inodes": inodes, "places": DISK}

    async def launch_kernel(self) -> KernelProcess:
        """Start a kernel; the one before it, if any, is killed first."""
        if self._berth is None:
            return await super().launch_kernel()
        if self._process is not None:
            await self._end_kernel()
        self._see_time()
        self._process = await self._launch_in_fork(self._berth)
        return self._process

    async def _launch_in_fork(self, berth: Berth) -> InitKernel:
        if berth.lost.is_set():
            raise SandboxLost("the sandbox has ended")
        run = self.state.files / "run"
        if self._launches:
            berth.clear_out()
            forget(run)
            remove_tree(run / LOG)
        self._launches += 1
        info = connection(self.key)
        with acting_as(-1 if berth.uid is None else berth.uid):
            write_anew(run / "connection.json", {**info, "ip": f"{RUN}/k"})
        boot = replace(self.boot("/testbed", RUN), rlimits=self._rlimits())
        facts = {"connection_file": f"{RUN}/connection.json", "ready_fd": READY_FD}
        facts["branches"] = self.config.branch
        ready_read, ready_write = os.pipe()
        try:
            request = {"boot": {**asdict(boot), **facts}, "log": f"{RUN}/{LOG}"}
            exit_ = berth.spawn(request, (ready_write,))
        except SandboxLost:
            os.close(ready_read)
            raise
        finally:
            os.close(ready_write)
        info["ip"] = str(run / "k")
        kernel = InitKernel(berth, exit_, info, -1, run / LOG)
        await wait_ready(kernel, ready_read)
        return kernel

    async def reset(self) -> None:
        """As `stop` and `start`, but it keeps its name and its control group.

        Another fork takes its place: nothing of the old one is left to be cleaned, be it files,
        processes or shared memory.
        """
        old = self._berth
        if old is None or old.lost.is_set():
            await super().reset()
            return
        self._process, self._launches, self._told_end = None, 0, False
        old.end()
        try:
            self._berth = await self._succeed(old)
            await self.network.again(self._door, self._berth.uid)
        except SandboxLost:  # the zygote has ended; there will be another
            await super().reset()
        self._set_timer()

    async def _succeed(self, old: Berth) -> Berth:
        """A new fork in the place of one that was told to end."""
        berth = old.successor()
        try:
            try:
                await self._furnish_berth(berth)
            except SandboxError:
                # those that are ending still count, and may be as many as there can be
                await old.ended(END_SECONDS)
                berth.close()
                berth = old.successor()
                await self._furnish_berth(berth)
            await old.ended(END_SECONDS)
        except BaseException:
            berth.close()
            raise
        finally:
            old.close()
        return berth

    async def branch(self) -> ZygoteSandbox:
        return await self.branch_of(self._berth.fd if self._berth else None, self.state)

    async def branch_of(self, disk: int | None, state: StateDir) -> ZygoteSandbox:
        """A sandbox like this one with a copy of these files, of which a fork has a `disk`."""
        twin = self._twin()
        twin._source = disk
        try:
            await twin.start()
            if disk is None or twin._berth is None:
                await twin._copy_from(state)
        except BaseException:
            await twin.stop()
            raise
        finally:
            twin._source = None
        return twin

    async def branch_live(self, ask: Ask) -> LiveBranch:
        """A sandbox whose kernel is a fork of the one that runs in here; see `live.py`.

        Called by `KernelSession.branch`, between cells; `ask` has the kernel fork itself.

        Raises:
            SandboxUnavailable: this sandbox, or this system, has no live branches.
            SandboxError: the kernel did not fork, or the files could not be copied.
        """
        return await self.grow(self._berth.fd if self._berth else -1, ask)

    async def grow(self, disk: int, ask: Ask) -> LiveBranch:
        """As `branch_live`, for a kernel of this sandbox or of a live branch of its."""
        berth = self._berth
        if not self.config.branch:
            raise SandboxUnavailable("live branches must be asked for: SandboxConfig(branch=True)")
        if berth is None or self._image is None:
            raise SandboxUnavailable(f"a cold sandbox has no live branches: {self._cold}")
        warden = await asyncio.to_thread(reach, self._image, self.config.preload)
        twin = LiveBranch(self, berth, disk, warden, ask)
        try:
            await twin.start()
        except BaseException:
            await twin.stop()
            raise
        return twin

    def _kill(self) -> None:
        if self._berth is None:
            super()._kill()
        else:
            self._berth.end()

    async def stop(self) -> None:
        if self._berth is None:
            await super().stop()
            return
        self._berth.end()
        await asyncio.shield(self._stop_fork(self._berth))

    async def _stop_fork(self, berth: Berth) -> None:
        await berth.ended(END_SECONDS)
        await self.network.stop()
        await asyncio.to_thread(self.cleanup)

    def cleanup(self) -> None:
        berth, self._berth = self._berth, None
        if berth is not None:
            berth.close()
        super().cleanup()
        if berth is not None:
            berth.leave()

    def _rlimits(self) -> dict[str, int]:
        # one file may fill the disk, and is then told so by the disk
        return {**super()._rlimits(), "FSIZE": self._tmpfs_bytes + OWN_BYTES}

    # -- what is told ----------------------------------------------------------------------------

    def verdict(self) -> Verdict | None:
        found = super().verdict()
        if self._berth is None or not self._berth.lost.is_set() or self._told_end:
            return found
        self._told_end = True
        return found or "killed"

    def describe(self) -> Mapping[str, Any]:
        facts = {**super().describe()}
        facts["started"] = "zygote" if self._cold is None else f"cold: {self._cold}"
        if self.config.branch and self._cold is None:
            facts["seccomp"] = seccomp.digest("branch")
        return facts
