"""The host's end of the socket to a sandbox's PID 1, and the kernels that it starts.

`guest/pid1.py` is the other end: in a container, or in a fork of the zygote. When this process
ends, whatever ends it, the socket closes and the sandbox goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lis_kernel.errors import SandboxLost
from lis_kernel.sandbox.launch import last_words

__all__ = ["OWNER_FD", "READY_FD", "Init", "InitKernel"]

READY_FD, OWNER_FD = 3, 4
"""The numbers that `guest/pid1.py` gives the descriptors of a kernel."""
KILL_SECONDS = 3.0
"""After this a kernel that was killed and does not end takes its sandbox with it."""
MESSAGE_BYTES = 4096


class Init:
    """A sandbox's PID 1. All but `close` are called on the event loop that called `attach`."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._exit: asyncio.Future[int] | None = None
        self.pid = 0
        """Its process id as this process sees it; 0 if that cannot be told."""
        self.lost = asyncio.Event()
        """Set when the sandbox has ended, or we let it go."""

    def attach(self, connection: socket.socket) -> None:
        """Listen to it from now on."""
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection, self._read)

    def spawn(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> asyncio.Future[int]:
        """Start a kernel; the future is its exit status, -9 if the sandbox ended with it.

        Raises:
            SandboxLost: the sandbox has ended.
        """
        self._exit = asyncio.get_running_loop().create_future()
        data = json.dumps({"do": "spawn", **request}).encode()
        try:
            if self._socket is None:
                raise OSError("not connected")
            socket.send_fds(self._socket, [data], list(descriptors))
        except OSError as error:
            self._lose()
            raise SandboxLost(f"the sandbox has ended: {error}") from error
        return self._exit

    def kill(self) -> None:
        """End all processes of the sandbox but PID 1; gives up on the sandbox if it must."""
        exit_ = self._exit
        if self._socket is None or exit_ is None or exit_.done():
            return
        with contextlib.suppress(OSError):
            self._socket.send(b'{"do": "kill"}')

        def still_there() -> None:
            if not exit_.done():
                self.close()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            exit_.get_loop().call_later(KILL_SECONDS, still_there)

    def clear_out(self) -> None:
        """End what a kernel that has ended left behind; it is gone before the next one is there."""
        if self._socket is not None and self._exit is not None and self._exit.done():
            with contextlib.suppress(OSError):
                self._socket.send(b'{"do": "kill"}')

    def close(self) -> None:
        """Let the sandbox end, without waiting. From any thread, and any number of times."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # `_read` sees the end and closes it

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


class InitKernel:
    """A kernel that a PID 1 started; fits `protocols.KernelProcess`."""

    def __init__(
        self,
        init: Init,
        exit_: asyncio.Future[int],
        info: dict[str, Any],
        owner: int,
        log: Path,
    ) -> None:
        self.connection_info = info
        self._init = init
        self._exit = exit_
        self._owner = owner
        self._log = log

    @property
    def alive(self) -> bool:
        return not self._exit.done()

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        """Close the owner pipe, then SIGKILL everything in the sandbox but its PID 1."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        if self.alive:
            self._init.kill()

    def log(self) -> str:
        """The last lines that the process itself wrote, for error messages."""
        return last_words(self._log)
