"""What the host has that can be reached: sockets that write down every word that arrives.

The network attempts each send a word of their own; the host looks here whether it came, instead of
believing the guest. TCP on every kind of address, datagrams, unix sockets with and without a file,
and one that hands out an open file. One thread serves them all; nothing listens off this machine
but on its own addresses, on ports that the kernel chose.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["MULTICAST", "Listeners", "link_local", "outward", "word_of"]

MULTICAST = "239.255.76.73"
"""Of the block for private use; sent with a time to live of 0, so that it stays on the machine."""
BROADCAST = "127.255.255.255"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nheard\n"
"""To whoever speaks: an HTTP client understands it, and everybody else sees that it was heard."""
KEPT = 1 << 18
"""Bytes kept of one conversation."""


def word_of(key: str, name: str) -> str:
    """The word that attempt `name` sends; the inside half computes the same."""
    return "w" + hashlib.sha256(f"{key} {name}".encode()).hexdigest()[:24]


class Listeners:
    """The host's listening sockets, from the call to `close`.

    Args:
        folder: for the unix socket.
        secret: a file that is handed, open, to whoever connects to the unix sockets.
    """

    def __init__(self, folder: Path, secret: Path) -> None:
        self.key = secrets.token_hex(8)
        self.heard: dict[int, tuple[str, bytearray]] = {}
        """Number of the conversation → listener's name and what arrived."""
        self.places: dict[str, Any] = {}
        """Listener's name → where it is, as the facts for the inside half; absent if impossible."""
        self._secret = secret
        self._selector = selectors.DefaultSelector()
        self._over = False
        self._count = 0
        self._turns = 0
        self._make(folder)
        self._thread = threading.Thread(target=self._serve, name="lis-listeners", daemon=True)
        self._thread.start()

    def who_heard(self, name: str) -> str:
        """Which listener heard the word of attempt `name`, or nothing."""
        word = word_of(self.key, name).encode()
        for where, data in list(self.heard.values()):
            if word in data:
                return where
        return ""

    async def settle(self) -> None:
        """Until what was sent before has been read: a few turns of the thread."""
        await asyncio.to_thread(self._turn, 4)

    def _turn(self, times: int) -> None:
        until, deadline = self._turns + times, time.monotonic() + 5
        while self._turns < until and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> None:
        self._over = True
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    # -- the sockets -----------------------------------------------------------------------------

    def _make(self, folder: Path) -> None:
        out4, out6, local = outward(socket.AF_INET), outward(socket.AF_INET6), link_local()
        addresses = {
            "loopback": ("127.0.0.1", 0),
            "loopback6": ("::1", 0),
            "outward": out4 and (out4, 0),
            "outward6": out6 and (out6, 0),
            "link_local": local and (local[0], 0, 0, local[1]),
        }
        for name, address in addresses.items():
            for kind, prefix in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
                if address:
                    self._bind(f"{prefix}_{name}", kind, tuple(address))
        self._bind("front", socket.SOCK_STREAM, ("127.0.0.1", 0))
        self._bind("broadcast", socket.SOCK_DGRAM, (BROADCAST, 0))
        with contextlib.suppress(OSError):
            joined = self._bind("multicast", socket.SOCK_DGRAM, (MULTICAST, 0))
            if joined is not None and out4:
                group = socket.inet_aton(MULTICAST) + socket.inet_aton(out4)
                joined.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        self._unix("unix", str(folder / "host.sock"))
        self._unix("agent", str(folder / "agent.sock"))
        self._unix("abstract", f"\0lis-attack-{self.key}")

    def _bind(self, name: str, kind: int, address: tuple[Any, ...]) -> socket.socket | None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, kind)
        try:
            sock.bind(address)
            if kind == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        except OSError:
            sock.close()
            return None
        self.places[name] = [address[0], *sock.getsockname()[1:]]
        self._watch(name, sock)
        return sock

    def _unix(self, name: str, path: str) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        if not path.startswith("\0"):
            os.chmod(path, 0o666)
        self.places[name] = path
        self._watch(name, sock)

    def _watch(self, name: str, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.type == socket.SOCK_STREAM:
            sock.listen(64)
            self._selector.register(sock, selectors.EVENT_READ, ("listen", name))
        else:
            self._selector.register(sock, selectors.EVENT_READ, ("packets", name))

    # -- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.05):
                doing, name = key.data
                with contextlib.suppress(OSError):
                    getattr(self, f"_{doing}")(key.fileobj, name)
            self._turns += 1

    def _listen(self, sock: socket.socket, name: str) -> None:
        made, _ = sock.accept()
        made.setblocking(False)
        if sock.family == socket.AF_UNIX:
            with self._secret.open("rb") as file:
                socket.send_fds(made, [ANSWER], [file.fileno()])
        self._selector.register(made, selectors.EVENT_READ, ("talk", self._conversation(name)))

    def _conversation(self, name: str) -> int:
        self._count += 1
        self.heard[self._count] = (name, bytearray())
        return self._count

    def _talk(self, sock: socket.socket, number: int) -> None:
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            sock.close()
            return
        heard = self.heard[number][1]
        first = not heard
        if len(heard) < KEPT:
            heard += data
        if first:
            sock.send(ANSWER)  # last: whoever only came to speak is gone by now

    def _packets(self, sock: socket.socket, name: str) -> None:
        data, sender = sock.recvfrom(65536)
        self.heard[self._conversation(name)][1].extend(data)
        sock.sendto(ANSWER, sender)


def outward(family: int) -> str:
    """This machine's address towards others, or nothing. Asks for a route, sends no packet."""
    far = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect((far, 9))
        found = str(sock.getsockname()[0])
        if not found.startswith(("127.", "::1", "fe80:")):
            return found
    return (
        next((a for a, scope, _ in _addresses6() if scope == 0), "")
        if family == socket.AF_INET6
        else ""
    )


def link_local() -> tuple[str, int] | None:
    """An IPv6 address of one link of this machine, and the link's number."""
    found = [(a, number) for a, scope, number in _addresses6() if scope == 0x20]
    return min(found, key=lambda pair: pair[1], default=None)


def _addresses6() -> Iterator[tuple[str, int, int]]:
    """Address, scope and interface of each IPv6 address that is not loopback's."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            address, number, _, scope, _, name = line.split()
            if name != "lo":
                plain = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))
                yield plain, int(scope, 16), int(number, 16)
