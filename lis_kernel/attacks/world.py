"""Names and addresses as the attacked proxies see them, all leading to the host's own listeners.

A resolver that answers with public, private and changing addresses, and a dialler that never leaves
this machine: an allowed host's address is the listener `front`, every other one the victim. Beside
them the naive proxy of the canary, which makes the usual mistakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lis_kernel.attacks.listeners import Listeners
from lis_kernel.sandbox import proxy, relay
from lis_kernel.sandbox.proxy import Streams

__all__ = ["ALLOWED", "NaiveProxy", "World", "policy"]

GOOD, EVIL, THIRD = "93.184.215.14", "93.184.216.34", "93.184.217.1"
"""Public addresses; nothing is sent to them."""
PORTS = (80, 443)
NAMES = {
    "private.example": ["10.9.8.7"],
    "shared.example": ["100.64.9.9"],
    "link.example": ["169.254.9.9"],
    "meta.example": ["169.254.169.254"],
    "near.example": ["169.254.169.254"],
    "disguise.example": ["64:ff9b::7f00:1"],
    "two.example": ["10.9.8.7", GOOD],
}
ALLOWED = ("good.example", "wild.example", "odd.example", *NAMES, "rebind.example", "localhost")
"""What the naive proxy looks for in the first line."""


def policy(port: int) -> str:
    """The allow-list of the attacked sandbox; `port` is the victim's."""
    names = [f"!{name}" if name == "near.example" else name for name in NAMES]
    special = ["*.wild.example", "odd.example:8080", f"rebind.example:{port}", f"localhost:{port}"]
    return "allow=" + ",".join(["good.example", *special, *names])


class World:
    """The resolver and the dialler that a proxy is given."""

    def __init__(self, listeners: Listeners) -> None:
        self.asked: list[str] = []
        """Every name that was looked up."""
        self._front = listeners.places["front"]
        self._victim = listeners.places["tcp_loopback"]
        self._rebound = False

    async def resolve(self, host: str, port: int) -> list[str]:
        """As `proxy.resolve`; the names of `.example` are ours, others are really looked up."""
        self.asked.append(host)
        name = host.lower().rstrip(".")
        if name in NAMES:
            return NAMES[name]
        if name == "rebind.example":
            self._rebound = not self._rebound
            return [THIRD if self._rebound else "127.0.0.1"]
        if name in ("good.example", "odd.example") or name.endswith(".wild.example"):
            return [GOOD]
        if name.endswith(".example"):
            return [EVIL]
        return await proxy.resolve(host, port)

    async def dial(self, address: str, port: int) -> Streams:
        """A connection to one of the host's listeners. Raises: OSError."""
        ip = ipaddress.ip_address(address)
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        if mapped.is_loopback or mapped.is_unspecified:
            return await asyncio.open_connection(address, port)
        if address == THIRD:
            raise ConnectionRefusedError("this address leads nowhere")
        front = address == GOOD and port in PORTS
        return await asyncio.open_connection(*(self._front if front else self._victim)[:2])


class NaiveProxy:
    """What one writes on an afternoon: looks for an allowed name in the first line, then pipes.

    It looks names up before it asks whether they may be, believes the Host header, takes any
    spelling, waits for ever, keeps no record, and reads its list from a file that all can write.
    """

    def __init__(self, world: World, listed: Path, allowed: Sequence[str] = ALLOWED) -> None:
        self.world = world
        self.listed = listed
        self.allowed = allowed
        self._servers: list[asyncio.AbstractServer] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> int:
        """Listen on a unix socket at `path`, and on 127.0.0.1; the port there."""
        unix = await asyncio.start_unix_server(self._serve, path, limit=1 << 24)
        inet = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self._servers = [unix, inet]
        return int(inet.sockets[0].getsockname()[1])

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # a server's callback runs in one
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, ValueError, EOFError, asyncio.CancelledError):
                await self._request(reader, writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readline()
        head, named = first, ""
        while (line := await reader.readline()).strip():
            head += line
            if line.lower().startswith(b"host:"):
                named = line[5:].decode("latin-1").strip()
        head += line
        method, target = first.decode("latin-1").split()[:2]
        url = urlsplit(target if method != "CONNECT" else f"//{target}")
        if named and method != "CONNECT":
            url = urlsplit(f"//{named}")
        host, port = url.hostname or "", url.port or 80
        await self.world.resolve(host, port)
        words = first.decode("latin-1").lower()
        listed = self.listed.read_text().split() if self.listed.exists() else []
        if not any(name in words for name in (*self.allowed, *listed)):
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        upstream = await self.world.dial((await self.world.resolve(host, port))[0], port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            upstream[1].write(head)
        try:
            await relay.both(
                60,
                lambda alive: relay.copy(reader, upstream[1], alive),
                lambda alive: relay.copy(upstream[0], writer, alive),
            )
        finally:
            upstream[1].close()
