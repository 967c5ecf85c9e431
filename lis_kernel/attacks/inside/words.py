"""What the network attempts share: a word of their own to send, and short conversations.

The host listens for the word, so nothing here decides whether an attempt got through.
"""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Callable
from typing import Any

from .driver import Facts, Refused, Skip

SECONDS = 1.0
"""For an answer. Everything is on this machine."""


def word(facts: Facts) -> bytes:
    """The word of the attempt that calls; see `listeners.word_of`."""
    name = sys._getframe(1).f_code.co_name
    return word_of(facts, name)


def word_of(facts: Facts, name: str) -> bytes:
    digest = hashlib.sha256(f"{facts['key']} {name}".encode()).hexdigest()[:24]
    return b"w" + digest.encode()


def place(facts: Facts, name: str) -> Any:
    """Where the host's listener `name` is. Raises: Skip: this machine cannot have it."""
    where = facts["places"].get(name)
    if where is None:
        raise Skip(f"this machine has no address for {name}")
    return tuple(where) if isinstance(where, list) else where


def tell(sock: socket.socket, where: Any, text: bytes) -> str:
    """Connect, send, wait for the listener's answer."""
    with sock:
        sock.settimeout(SECONDS)
        sock.connect(where)
        sock.send(text)
        return answer(sock)


def answer(sock: socket.socket) -> str:
    """Evidence that the listener answered. Raises: Refused: it was silent."""
    try:
        said = sock.recv(4096)
    except TimeoutError:
        said = b""
    if b"heard" in said or b"200" in said:
        return "sent, and answered"
    raise Refused(f"no answer but {said[:40]!r}", "nobody of the host listens in this namespace")


def tcp(where: tuple[Any, ...], text: bytes, kind: int = 0) -> str:
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    return tell(socket.socket(family, socket.SOCK_STREAM, kind), where, text)


def udp(where: tuple[Any, ...], text: bytes) -> str:
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    return tell(socket.socket(family, socket.SOCK_DGRAM), where, text)


def first(tries: list[Callable[[], str]], wall: str) -> str:
    """What the first of `tries` that succeeds says. Raises: Refused: none does."""
    last = "nothing to try"
    for one in tries:
        try:
            return one()
        except OSError as error:
            last = str(error)
    raise Refused(f"{len(tries)} tries, last: {last}", wall)
