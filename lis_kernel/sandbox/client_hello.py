"""The server name in a TLS ClientHello: whom a tunnel's client really wants to talk to.

Pure, used by `proxy.py` before it passes on a tunnel's first byte: a front that serves many sites
must not be reached under an allowed name and asked for another. What a client says inside the
encrypted stream cannot be seen without breaking it, and is not.
"""

from __future__ import annotations

__all__ = ["HANDSHAKE", "MAX_HELLO", "BadHello", "server_name"]

HANDSHAKE = 0x16
"""First byte of a TLS handshake record."""
MAX_HELLO = 65_536
CLIENT_HELLO = 1
SERVER_NAME = 0
"""The extension's number."""
HEADER = 5
MAX_RECORD = 16_384


class BadHello(ValueError):
    """Not a ClientHello that has one meaning only."""


class _Cut(Exception):
    """More bytes are needed."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) < size:
            raise BadHello("a field is longer than its message")
        self.at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """A field whose length comes first, in `size` bytes."""
        return self.take(self.number(size))

    @property
    def left(self) -> int:
        return len(self.data) - self.at


def server_name(data: bytes) -> tuple[bool, str | None]:
    """Whether the hello at the start of `data` is whole, and then the name in it, if any.

    Raises:
        BadHello: this is something else, or has two names, or is too long.
    """
    try:
        hello = _message(data)
    except _Cut:
        if len(data) > MAX_HELLO:
            raise BadHello("it is too long") from None
        return False, None
    return True, _name(hello)


def _message(data: bytes) -> bytes:
    """The body of the first handshake message, put together from its records."""
    message, at = b"", 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        head = data[at : at + HEADER]
        if head and (head[0] != HANDSHAKE or (len(head) > 1 and head[1] != 3)):
            raise BadHello("it is not a TLS handshake")
        if len(head) < HEADER:
            raise _Cut
        size = int.from_bytes(head[3:5], "big")
        if not 0 < size <= MAX_RECORD:
            raise BadHello("a record of no valid length")
        record = data[at + HEADER : at + HEADER + size]
        if not record:
            raise _Cut
        message += record
        if message[0] != CLIENT_HELLO:
            raise BadHello("it is not a ClientHello")
        if len(message) >= 4 and int.from_bytes(message[1:4], "big") > MAX_HELLO:
            raise BadHello("it is too long")
        if len(record) < size:
            raise _Cut
        at += HEADER + size
    return message[4 : 4 + int.from_bytes(message[1:4], "big")]


def _name(hello: bytes) -> str | None:
    body = _Reader(hello)
    body.take(2 + 32)  # version, random
    body.vector(1)  # session id
    body.vector(2)  # cipher suites
    body.vector(1)  # compression methods
    if not body.left:
        return None
    extensions, name = _Reader(body.vector(2)), None
    while extensions.left:
        kind, content = extensions.number(2), _Reader(extensions.vector(2))
        if kind != SERVER_NAME:
            continue
        names = _Reader(content.vector(2))
        if name is not None or names.number(1) != 0:
            raise BadHello("it has more than one server name")
        raw = names.vector(2)
        if names.left or content.left or not raw or not raw.isascii():
            raise BadHello("it has more than one server name, or one of no use")
        name = raw.decode("ascii")
    return name
