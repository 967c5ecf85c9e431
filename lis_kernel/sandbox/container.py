"""The host's side of a container: its PID 1 at the other end of a unix socket, and its kernels.

`guest/pid1.py` connects to the socket and hands over a descriptor of each writable folder. So the
host reads and writes files that live only in the container's memory, also as an ordinary user, and
no folder of the host has to be writable in the container. When this process ends, whatever ends
it, the socket closes and the container goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lis_kernel.errors import SandboxLost
from lis_kernel.sandbox.launch import last_words

__all__ = ["OWNER_FD", "READY_FD", "ContainerKernel", "PidOne", "clear"]

READY_FD, OWNER_FD = 3, 4
"""The numbers that `guest/pid1.py` gives the two descriptors of a kernel."""
KILL_SECONDS = 3.0
"""After this a kernel that was killed and does not end takes its container with it."""
MESSAGE_BYTES = 4096


class PidOne:
    """A container's PID 1. Listens on `path` when made; `connect` waits for the container.

    All but `close` are called on the event loop that called `connect`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        path.chmod(0o666)  # its folder is private to this user; the container's user is another
        self._listener.listen(1)
        self._socket: socket.socket | None = None
        self._exit: asyncio.Future[int] | None = None
        self.folders: dict[str, int] = {}
        """Open descriptors of the writable folders, by their path in the container."""
        self.pid = 0
        """Its process id as this process sees it; 0 if that cannot be told."""
        self.lost = asyncio.Event()
        """Set when the container has ended, or we let it go."""

    async def connect(self, alive: Callable[[], Awaitable[bool]]) -> None:
        """Wait for the first connection, the only one that there can be.

        `alive` is asked once a second whether the container still is.

        Raises:
            SandboxLost: the container ended, or what connected does not speak as our PID 1 does.
        """
        loop = asyncio.get_running_loop()
        accept = asyncio.create_task(loop.sock_accept(self._listener))
        lost = asyncio.create_task(self.lost.wait())
        try:
            while not accept.done():
                await asyncio.wait({accept, lost}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    raise SandboxLost("the sandbox was stopped while it started")
                if not accept.done() and not await alive():
                    raise SandboxLost("the container ended before its first process reported")
            connection, _ = accept.result()
        finally:
            lost.cancel()
            accept.cancel()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        connection.setblocking(False)
        self._socket = connection
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)
        data, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 8)
        names = json.loads(data)["folders"] if data else []
        self.folders = dict(zip(names, descriptors, strict=False))
        if not names or len(names) != len(descriptors):
            raise SandboxLost("the container's first process did not say what it should")
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        self.pid = struct.unpack("3i", credentials)[0]
        loop.add_reader(connection, self._read)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: str,
        descriptors: tuple[int, int],
    ) -> asyncio.Future[int]:
        """Start a kernel; the future is its exit status, -9 if the container ended with it."""
        self._exit = asyncio.get_running_loop().create_future()
        request = {"do": "spawn", "argv": list(argv), "env": dict(env), "log": log}
        try:
            if self._socket is None:
                raise OSError("not connected")
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(descriptors))
        except OSError as error:
            self._lose()
            raise SandboxLost(f"the container has ended: {error}") from error
        return self._exit

    def kill(self) -> None:
        """End all processes of the container but PID 1; gives up on the container if it must."""
        exit_ = self._exit
        if self._socket is None or exit_ is None or exit_.done():
            return
        with contextlib.suppress(OSError):
            self._socket.send(b'{"do": "kill"}')

        def still_there() -> None:
            if not exit_.done():
                self.close()

        exit_.get_loop().call_later(KILL_SECONDS, still_there)

    def clear_out(self) -> None:
        """End what a kernel that has ended left behind; it is gone before the next one is there."""
        if self._socket is not None and self._exit is not None and self._exit.done():
            with contextlib.suppress(OSError):
                self._socket.send(b'{"do": "kill"}')

    def close(self) -> None:
        """Let the container end, without waiting. From any thread, and any number of times."""
        with contextlib.suppress(OSError):
            self._listener.close()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # `_read` sees the end and closes it

    def forget_folders(self) -> None:
        """Close the descriptors of the folders, and with them what is left of the files."""
        while self.folders:
            os.close(self.folders.popitem()[1])

    def _read(self) -> None:
        assert self._socket is not None  # or it would not be readable
        try:
            data = self._socket.recv(MESSAGE_BYTES)
            message: Any = json.loads(data) if data else None
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message = None
        if message is None:
            self._lose()
        elif self._exit is not None and not self._exit.done():
            self._exit.set_result(int(message.get("exit", -1)))

    def _lose(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._exit is not None and not self._exit.done():
            self._exit.set_result(-9)
        self.lost.set()


class ContainerKernel:
    """A kernel in a container; fits `protocols.KernelProcess`."""

    def __init__(
        self,
        pid1: PidOne,
        exit_: asyncio.Future[int],
        info: dict[str, Any],
        owner: int,
        log: Path,
    ) -> None:
        self.connection_info = info
        self._pid1 = pid1
        self._exit = exit_
        self._owner = owner
        self._log = log

    @property
    def alive(self) -> bool:
        return not self._exit.done()

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        """Close the owner pipe, then SIGKILL everything in the container but its PID 1."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        if self.alive:
            self._pid1.kill()

    def log(self) -> str:
        """The last lines that the process itself wrote, for error messages."""
        return last_words(self._log)


def clear(folder: Path) -> None:
    """Empty a folder that the sandbox wrote to; nothing is followed out of it."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
