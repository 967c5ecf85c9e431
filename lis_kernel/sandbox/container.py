"""The host's side of a container: its PID 1 at the other end of a unix socket.

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
from collections.abc import Awaitable, Callable
from pathlib import Path

from lis_kernel.errors import SandboxLost
from lis_kernel.sandbox.init import MESSAGE_BYTES, Init

__all__ = ["PidOne", "clear"]


class PidOne(Init):
    """A container's PID 1. Listens on `path` when made; `connect` waits for the container."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        path.chmod(0o666)  # its folder is private to this user; the container's user is another
        self._listener.listen(1)
        self.folders: dict[str, int] = {}
        """Open descriptors of the writable folders, by their path in the container."""

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
        self._socket = connection  # `close` ends the wait too
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
        self.attach(connection)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.close()
        super().close()

    def forget_folders(self) -> None:
        """Close the descriptors of the folders, and with them what is left of the files."""
        while self.folders:
            os.close(self.folders.popitem()[1])


def clear(folder: Path) -> None:
    """Empty a folder that the sandbox wrote to; nothing is followed out of it."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
