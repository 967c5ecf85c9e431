"""The message wire to a kernel, spoken by ourselves: ZMTP 3.0 over a unix socket.

Between `kernel/session.py` and the sockets that a sandbox's kernel listens on. libzmq bounds the
size of a frame but not of a message, and keeps up to a thousand messages that nobody asked for; so
a hostile kernel could fill our memory. Here a message is read when it is wanted, one that is too
big is read past and dropped, and the connection is only what it was when it was made.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Literal

__all__ = ["Channel", "WireError"]

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""Signature, version 3.0, no security, not a server, filler: 64 bytes."""
MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame: others follow it, its length has 8 bytes, it is not a message's."""
MAX_FRAMES = 1_000
"""Of one message, however small they are."""
COMMAND_BYTES = 65_536
PIECE = 1 << 16
"""Bytes that are read at once of what is dropped."""


class WireError(ConnectionError):
    """The other side does not speak ZMTP, or is gone."""


class Channel:
    """A connected DEALER or SUB socket; made by `open`.

    Args:
        limit: most bytes of one message, all frames together.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.limit = limit
        self.dropped = 0
        """Messages that were too big."""

    @classmethod
    async def open(cls, path: Path, kind: Literal["DEALER", "SUB"], limit: int) -> Channel:
        """Connect to the socket at `path`; a SUB subscribes to everything.

        Raises:
            WireError: there is no socket (a symlink is none), or what answers is no ZMTP peer.
        """
        # by its descriptor: what `path` names is not swapped between the look and the connection,
        # and a long path fits
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise WireError(f"{path}: {error.strerror}") from error
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise WireError(f"{path} is not a socket")
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}")
        except WireError:
            raise
        except OSError as error:
            raise WireError(f"{path}: {error}") from error
        finally:
            os.close(fd)
        channel = cls(reader, writer, limit)
        try:
            await channel._greet(kind.encode())
        except BaseException:
            channel.close()
            raise
        if kind == "SUB":
            channel.subscribe()
        return channel

    def subscribe(self, again: bool = False) -> None:
        """Ask for every message; `again` wakes a socket that overheard it."""
        if again:  # it tells its program of a change only
            self.send([b"\x00"])
        self.send([b"\x01"])

    async def _greet(self, kind: bytes) -> None:
        name = b"Socket-Type"
        ready = b"\x05READY" + bytes([len(name)]) + name + len(kind).to_bytes(4, "big") + kind
        self._writer.write(GREETING + bytes([COMMAND, len(ready)]) + ready)
        theirs = await self._exactly(64)
        if theirs[0] != 0xFF or theirs[9] != 0x7F or theirs[10] < 3 or theirs[12:16] != b"NULL":
            raise WireError("the kernel's socket does not speak ZMTP 3 without security")
        flags, size = await self._head()
        if not flags & COMMAND or size > COMMAND_BYTES:
            raise WireError("the kernel's socket does not greet")
        if not (await self._exactly(size)).startswith(b"\x05READY"):
            raise WireError("the kernel's socket refused the connection")

    async def receive(self) -> list[bytes]:
        """The next message's frames, waiting for it; too big ones are left out.

        Must not be cancelled but to close the channel: it may be in the middle of a message.

        Raises:
            WireError: the connection ended.
        """
        while True:
            frames: list[bytes] | None = []
            room, more = self.limit, True
            while more:
                flags, size = await self._head()
                if flags & COMMAND:
                    await self._skip(size)
                    continue
                more = bool(flags & MORE)
                if frames is None or size > room or len(frames) >= MAX_FRAMES:
                    frames = None
                    await self._skip(size)
                else:
                    room -= size
                    frames.append(await self._exactly(size))
            if frames is not None:
                return frames
            self.dropped += 1

    def send(self, frames: list[bytes]) -> None:
        """Send one message; what the other side does not take is kept until it does."""
        pieces: list[bytes] = []
        for n, frame in enumerate(frames):
            flags = MORE if n + 1 < len(frames) else 0
            if len(frame) < 256:
                head = bytes([flags, len(frame)])
            else:
                head = bytes([flags | LONG]) + len(frame).to_bytes(8, "big")
            pieces += head, frame
        self._writer.write(b"".join(pieces))  # at once: each write is a call of the system

    def close(self) -> None:
        """Close it now, whatever is still to be sent. May be called twice."""
        self._writer.transport.abort()

    async def _head(self) -> tuple[int, int]:
        flags = (await self._exactly(1))[0]
        return flags, int.from_bytes(await self._exactly(8 if flags & LONG else 1), "big")

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise WireError("the kernel closed the connection") from error

    async def _skip(self, size: int) -> None:
        while size > 0:
            piece = await self._exactly(min(size, PIECE))
            size -= len(piece)
