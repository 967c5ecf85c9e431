"""A live branch: a second sandbox, whose kernel is a fork of a running one, with names and files.

Experimental; only under the zygote, with `SandboxConfig(branch=True)`. `KernelSession.branch` asks
for one between cells. A fork of the zygote makes a second view of the file system in the origin's
namespaces, with a disk of its own that begins as a copy; the kernel forks itself into that
(`guest/branch.py`), and into a control group of its own, over a socket in the view.

It has its own files, sockets, key and control group, and shares the rest with its origin: process
ids, network, proxy, shared memory, uid. So origin and branch are not walled off from each other,
only from everything else; and a branch ends with its origin's kernel, and cannot be restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lis_kernel.errors import SandboxError, SandboxLost, SandboxUnavailable
from lis_kernel.protocols import KernelProcess
from lis_kernel.sandbox import cgroup
from lis_kernel.sandbox.acting import acting_as
from lis_kernel.sandbox.jail import BRANCHES
from lis_kernel.sandbox.keeper import Disk, Place
from lis_kernel.sandbox.launch import connection, last_words, write_anew
from lis_kernel.sandbox.network import Network
from lis_kernel.sandbox.state import StateDir, new_folder
from lis_kernel.sandbox.walled import WalledSandbox

if TYPE_CHECKING:
    from lis_kernel.sandbox.berth import Berth
    from lis_kernel.sandbox.zygote import ZygoteSandbox

__all__ = ["Ask", "LiveBranch"]

Ask = Callable[[str], object]
"""Has the origin's kernel fork itself into the view that it is told."""
RUN, LOG, DOOR = "/run/lis", "kernel.log", "branch"
FORK_SECONDS = 20.0
END_SECONDS = 5.0
SO_PEERPIDFD = 77


class View:
    """Its files; fits `keeper.Place`."""

    disk: Disk = "tmpfs"

    def __init__(self, fd: int, uid: int | None, disk_bytes: int) -> None:
        self.fd = fd
        self.uid = uid
        self.disk_bytes = disk_bytes
        self.files: Path | None = Path(f"/proc/{os.getpid()}/fd/{fd}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.files = -1, None


class BranchKernel:
    """A kernel that another has forked; fits `protocols.KernelProcess`."""

    def __init__(self, pidfd: int, group: cgroup.Cgroup, info: dict[str, Any]) -> None:
        self.connection_info = info
        self._group = group
        self._pidfd = pidfd
        self._killed = False
        loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = loop.create_future()
        loop.add_reader(pidfd, self._end)

    @property
    def alive(self) -> bool:
        return not self._exit.done()

    async def wait(self) -> int:
        """1 for an end of its own: the status of a process that is not our child is not told."""
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        if self._pidfd >= 0:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._group.kill(0)

    def _end(self) -> None:
        self._exit.get_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._exit.set_result(-signal.SIGKILL if self._killed else 1)
        self._group.kill(0)  # what it left behind ends with it, as in every backend


class LiveBranch(WalledSandbox):
    """Made and started by `ZygoteSandbox.branch_live`.

    Args:
        root: the sandbox whose namespaces it is in, a branch's branch as well.
        berth: that sandbox's.
        source: an open descriptor of the disk that it begins with a copy of.
        warden: a connection of its own, closed with it.
    """

    backend: ClassVar[str] = "zygote"

    def __init__(
        self, root: ZygoteSandbox, berth: Berth, source: int, warden: socket.socket, ask: Ask
    ) -> None:
        super().__init__(root.config, root.limits, caps=root.caps, setup=root.setup, say=root.say)
        self.network = Network("none")  # its way out is the root's, and recorded there
        self._root = root
        self._berth = berth
        self._source = source
        self._warden = warden
        self._ask = ask
        self._view: View | None = None
        self._number: int | None = None
        self._forked: BranchKernel | None = None

    @property
    def _place(self) -> Place | None:
        return self._view

    async def _settle(self) -> None:
        self._begun = self._root._begun
        self._where = cgroup.layout()
        self.folder = new_folder()
        self._warden.send(self.folder.name.encode())  # removes what we leave
        self._state = StateDir(self.folder)
        self._cgroup = cgroup.planned(self._where, self.folder.name)
        self._record()  # before there is anything to clean up
        if self._cgroup is None or not self._cgroup.make(self.limits):
            raise SandboxUnavailable("a live branch needs a control group, and there is none here")
        if not self._berth.slots:
            raise SandboxUnavailable("a sandbox has 16 live branches at a time, and no more")
        self._number = self._berth.slots.pop()
        make = self._root.disk_wanted()
        fd = await self._berth.view(self._number, make, self._cgroup.doors, self._source)
        self._view = View(fd, self._berth.uid, self._berth.disk_bytes)
        self.state.adopt(self._view.files, self._view.uid)
        self._forked = await self._fork_kernel(self._cgroup)

    async def _fork_kernel(self, group: cgroup.Cgroup) -> BranchKernel:
        run, uid = self.state.files / "run", self._berth.uid
        info = connection(self.key)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.setblocking(False)
            with acting_as(-1 if uid is None else uid):
                write_anew(run / "connection.json", {**info, "ip": f"{RUN}/k"})
                listening.bind(str(run / DOOR))
            listening.listen(1)
            self._ask(f"{BRANCHES}/{self._number}")
            try:
                async with asyncio.timeout(FORK_SECONDS):
                    theirs, _ = await loop.sock_accept(listening)
                    with theirs:
                        # of whoever connected, and no other process can take its place
                        pidfd = theirs.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
                        self._process = kernel = BranchKernel(
                            pidfd, group, {**info, "ip": str(run / "k")}
                        )
                        self._let_in(theirs, group)
                        if await loop.sock_recv(theirs, 64) != b"ready":
                            raise SandboxError(
                                f"the kernel's branch has ended: {last_words(run / LOG)}"
                            )
            except TimeoutError:
                raise SandboxError("the kernel did not branch") from None
            except OSError as error:
                raise SandboxUnavailable(f"no live branches here: {error}") from error
            return kernel

    @staticmethod
    def _let_in(connection: socket.socket, group: cgroup.Cgroup) -> None:
        boot = {"connection_file": f"{RUN}/connection.json", "log": f"{RUN}/{LOG}"}
        doors = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in group.doors]
        try:
            socket.send_fds(connection, [json.dumps(boot).encode()], doors)
        finally:
            for fd in doors:
                os.close(fd)

    async def launch_kernel(self) -> KernelProcess:
        """The kernel, once.

        Raises:
            SandboxLost: it was there, and has ended.
        """
        kernel, self._forked = self._forked, None
        if kernel is None:
            raise SandboxLost("a live branch ends with its kernel")
        return kernel

    async def reset(self) -> None:
        """Raises: SandboxError: it cannot be; there is no kernel but the one that was forked."""
        raise SandboxError("a live branch cannot be reset")

    async def branch(self) -> ZygoteSandbox:
        """As every sandbox's: with files, without a kernel, and with walls of its own."""
        return await self._root.branch_of(self._disk_fd, self.state)

    async def branch_live(self, ask: Ask) -> LiveBranch:
        """See `ZygoteSandbox.branch_live`."""
        return await self._root.grow(self._disk_fd, ask)

    @property
    def _disk_fd(self) -> int:
        if self._view is None:
            raise SandboxLost("the sandbox is not running")
        return self._view.fd

    async def stop(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
        if self._number is not None:
            number, self._number = self._number, None
            with contextlib.suppress(SandboxError):
                await self._berth.view(number)
                self._berth.slots.add(number)
        await super().stop()

    def cleanup(self) -> None:
        super().cleanup()
        if self._view is not None:
            self._view.close()
            self._view = None
        self._warden.close()

    def describe(self) -> Mapping[str, Any]:
        network = str(self._root.network)
        return {**super().describe(), "network": network, "started": "live branch"}
