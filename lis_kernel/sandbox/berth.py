"""The owner's side of a sandbox that the zygote forked: how it is asked for, its disk, its PID 1.

`reach` finds this user's warden for an image (`warden.py`), or starts it; `Berth` asks it for one
sandbox. The warden and the zygote only pass the socket on: what the sandbox shall be is said over
it to the fork itself, and its process id is the one that the kernel of this host vouches for.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lis_kernel
from lis_kernel.errors import SandboxError, SandboxLost, SandboxUnavailable
from lis_kernel.sandbox import image
from lis_kernel.sandbox.init import Init
from lis_kernel.sandbox.keeper import Disk
from lis_kernel.sandbox.launch import GUEST, PASSED_ON
from lis_kernel.sandbox.state import private_folder, runtime_dir
from lis_kernel.sandbox.warden import READY_SECONDS, SOCKET

__all__ = ["Berth", "reach", "zygotes"]

FOLDER = "zygotes"
"""In the runtime folder: a folder for each kind of zygote, with its warden's socket.
`LIS_ZYGOTE_DIR` takes another place for these folders."""
REFUSED = "refused"
"""A file there, for a while: why there can be none on this system."""
REFUSED_SECONDS = 600.0
START_SECONDS = 60.0
MESSAGE_BYTES = 65536
SLOTS = 16
"""As many as `guest/nest.py` makes places for."""
BRANCHED = ("testbed", "tmp", "home")
"""The folders of the disk that a branch has a copy of."""
PASSED = ("PATH", "HOME", "LANG", "LIS_DATA_DIR", "LIS_ZYGOTE_SECONDS")


def reach(built: image.Image, packages: Sequence[str]) -> socket.socket:
    """A connection to the warden of this image and these preloaded packages; starts it if need be.

    Blocks for as long as a start takes, about half a second.

    Raises:
        SandboxUnavailable: zygotes do not work on this system; says why.
    """
    folder = zygotes() / _kind(built, tuple(packages))
    if (connection := _connect(folder)) is not None:
        return connection
    for path in (folder.parent, folder):
        private_folder(path)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of us starts it, the others find it
        if (connection := _connect(folder)) is not None:
            return connection
        refused = folder / REFUSED
        with contextlib.suppress(OSError):
            if time.time() - refused.stat().st_mtime < REFUSED_SECONDS:
                raise SandboxUnavailable(refused.read_text("utf-8"))
        try:
            _start(folder, packages)
        except SandboxUnavailable as error:
            refused.write_text(str(error), "utf-8")
            raise
    if (connection := _connect(folder)) is None:
        raise SandboxUnavailable("the zygote ended as soon as it had started")
    return connection


def zygotes() -> Path:
    """The folder of this user's zygotes; need not be there."""
    return Path(os.environ.get("LIS_ZYGOTE_DIR") or runtime_dir() / FOLDER)


def _connect(folder: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(folder / SOCKET))
    except OSError:
        connection.close()
        return None
    return connection


def _start(folder: Path, packages: Sequence[str]) -> None:
    keep = {name: value for name, value in os.environ.items() if name.startswith("XDG_")}
    keep |= {name: os.environ[name] for name in (*PASSED, *PASSED_ON) if name in os.environ}
    keep["PYTHONPATH"] = str(Path(lis_kernel.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "lis_kernel.sandbox.warden", str(folder), *packages],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=keep,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        ready, _, _ = select.select([said], [], [], READY_SECONDS)
        word = os.read(said.fileno(), 4096).decode("utf-8", "replace") if ready else ""
    if word != "ready":
        process.kill()
        process.wait()
        raise SandboxUnavailable(word or "the zygote did not start")
    # it outlives us, and is not waited for: as its parent we would keep it as a zombie
    _left.append(process)


_left: list[subprocess.Popen[bytes]] = []


@cache
def _kind(built: image.Image, packages: tuple[str, ...]) -> str:
    """Changes with whatever a zygote is made of."""
    code = [path.read_bytes() for path in sorted(GUEST.glob("*.py"))]
    made_of = [built.digest, str(built.root), sys.executable, str(GUEST), *packages]
    return hashlib.sha256("\n".join(made_of).encode() + b"".join(code)).hexdigest()[:12]


class Berth(Init):
    """One sandbox of the zygote's; fits `keeper.Place`.

    Args:
        warden: from `reach`; it is closed with this.
        uid: the host's uid of the zygote's processes, where that is not ours.
    """

    def __init__(self, warden: socket.socket, disk_bytes: int) -> None:
        super().__init__()
        self._warden = warden
        self.uid: int | None = None
        self.files: Path | None = None
        self.disk: Disk = "tmpfs"
        self.disk_bytes = disk_bytes
        self.fd = -1
        """Of the disk."""
        self._pidfd = -1
        self._namespaces: list[int] = []
        self._name = b""
        self.slots = set(range(SLOTS))
        """The numbers of the live branches that it can still have."""

    def successor(self) -> Berth:
        """For a sandbox in this one's place: known to the same warden by the same name."""
        new = Berth(self._warden, self.disk_bytes)
        new._name = self._name
        return new

    def announce(self, folder: Path) -> None:
        """From now on the warden removes what we leave of the sandbox `folder`.

        Raises:
            SandboxLost: the warden has ended.
        """
        self._name = os.fsencode(folder.absolute())
        try:
            self._warden.send(self._name)
        except OSError as error:
            raise SandboxLost(f"the zygote has ended: {error}") from error

    async def make(
        self,
        wanted: Mapping[str, Any],
        files: Mapping[str, Path],
        doors: Sequence[Path],
        source: int | None = None,
    ) -> None:
        """Have it forked and built, once it is announced; with the files of the disk `source`.

        `files` maps a path inside to the file of the host whose content shall stand there; `doors`
        are the control groups' files, see `Cgroup.doors`: the fork enters them before anything.

        Raises:
            SandboxLost: the warden or the zygote has ended.
            SandboxUnavailable: the fork may not enter the control groups.
            SandboxError: a namespace or a mount was refused.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.setblocking(False)
        self._socket = ours  # `close` ends the wait too
        try:
            with theirs, contextlib.ExitStack() as stack:
                opened = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in doors]
                opened += [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in files.values()]
                for fd in opened:
                    stack.callback(os.close, fd)
                data = {**wanted, "groups": len(doors), "files": list(files)}
                if source is not None:
                    data["copied"], opened = BRANCHED, [*opened, source]
                socket.send_fds(ours, [json.dumps(data).encode()], opened)
                socket.send_fds(self._warden, [self._name], [theirs.fileno()])
            async with asyncio.timeout(START_SECONDS):
                self.pid, uid, descriptors = await self._hear(ours)
        except TimeoutError as error:
            raise SandboxError("the zygote did not answer") from error
        except OSError as error:
            raise SandboxLost(f"the zygote has ended: {error}") from error
        self.fd, *self._namespaces = descriptors
        self._pidfd = os.pidfd_open(self.pid)
        self.uid = uid if uid != os.getuid() else None
        # by our pid, not by `self`: other programs of this user may connect to the sockets
        self.files = Path(f"/proc/{os.getpid()}/fd/{self.fd}")
        self.attach(ours)

    async def view(
        self,
        number: int,
        make: Mapping[str, Any] | None = None,
        doors: Sequence[Path] = (),
        source: int = -1,
    ) -> int:
        """Have a live branch's view made, as a copy of the disk `source`; an open disk.

        Without `make` it is removed, and there is none: -1.

        Raises:
            SandboxLost: the sandbox, the warden or the zygote has ended.
            SandboxError: it cannot be made.
        """
        if not self._namespaces:
            raise SandboxLost("the sandbox has ended")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with ours, theirs, contextlib.ExitStack() as stack:
                ours.setblocking(False)
                opened = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in doors]
                for fd in opened:
                    stack.callback(os.close, fd)
                wanted: dict[str, Any] = {"number": number}
                sent = [*opened, *self._namespaces]
                if make is not None:
                    wanted |= {"make": make, "copied": BRANCHED}
                    sent.append(source)
                # first: by that the zygote tells it from a sandbox's request
                data = json.dumps({"view": wanted, "groups": len(doors)}).encode()
                socket.send_fds(ours, [data], sent)
                socket.send_fds(self._warden, [self._name], [theirs.fileno()])
                theirs.close()
                async with asyncio.timeout(START_SECONDS):
                    _, _, descriptors = await self._hear(ours)
        except TimeoutError as error:
            raise SandboxError("the zygote did not answer") from error
        except OSError as error:
            raise SandboxLost(f"the zygote has ended: {error}") from error
        return descriptors[0] if make is not None else -1

    @staticmethod
    async def _hear(connection: socket.socket) -> tuple[int, int, list[int]]:
        """Of a message that all went well: pid and uid of its sender, and descriptors in it."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)
        room = socket.CMSG_SPACE(struct.calcsize("3i")) + socket.CMSG_SPACE(3 * 4)
        data, ancillary, _, _ = connection.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        pid, uid, descriptors = 0, -1, array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid, uid, _ = struct.unpack("3i", content)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content)
        if not data:
            raise OSError("it closed the connection")
        said: Mapping[str, Any] = json.loads(data)
        if "error" in said:
            raise SandboxError(f"the zygote cannot make a sandbox: {said['error']}")
        if "refused" in said:
            raise SandboxUnavailable(said["refused"])
        return pid, uid, list(descriptors)

    def end(self) -> None:
        """Kill PID 1 and with it all of the sandbox, without waiting. May be called twice."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def ended(self, seconds: float) -> None:
        """Wait until PID 1 is gone, and thus everything."""
        if self._pidfd < 0:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._pidfd, gone.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await gone.wait()
        finally:
            loop.remove_reader(self._pidfd)

    def close(self) -> None:
        """Kill it and forget its disk: what was in there is gone. May be called twice."""
        self.end()
        super().close()
        for fd in (self.fd, self._pidfd, *self._namespaces):
            if fd >= 0:
                os.close(fd)
        self.fd, self._pidfd, self._namespaces = -1, -1, []
        self.files = None

    def leave(self) -> None:
        """Tell the warden that nothing is left to remove."""
        self._warden.close()
