"""The only way out of a sandbox with an allow-list: an HTTP proxy on a unix socket, on the host.

CONNECT and plain HTTP. It asks the policy by name, resolves on the host, refuses addresses that are
not public, connects to the very address that it checked, and holds a tunnel's TLS server name
against the host that was asked for. One request a connection; every try is kept for the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lis_kernel.sandbox import client_hello, http_head, relay
from lis_kernel.sandbox.acting import acting_as
from lis_kernel.sandbox.client_hello import BadHello
from lis_kernel.sandbox.http_head import CHUNKED, END, BadHead, Head
from lis_kernel.sandbox.policy import Policy, Rule, forbidden, is_address, normal_host
from lis_kernel.types import Attempt

__all__ = ["Bounds", "Proxy", "resolve"]

log = logging.getLogger(__name__)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Resolve = Callable[[str, int], Awaitable[list[str]]]
Dial = Callable[[str, int], Awaitable[Streams]]

MAX_KEPT = 1_000
"""Attempts that are kept between two drains; what is over is counted."""
MAX_TRIED = 4
"""Addresses of one host that are tried."""
LINGER_SECONDS = 1.0
LINGER_PIECES = 16
MAX_INTERIM = 10
"""1xx answers before the real one."""


@dataclass(frozen=True)
class Bounds:
    """Seconds, and connections at a time."""

    head: float = 10.0
    """For the whole head of a request, or a tunnel's ClientHello, to arrive."""
    connect: float = 15.0
    """To resolve and connect."""
    idle: float = 300.0
    """Without a byte in either direction."""
    connections: int = 64


class Refusal(Exception):
    """Ends a request with a status and one line that the model may read."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = "".join(c if " " <= c <= "~" else "?" for c in text)[:300]
        super().__init__(self.text)

    def answer(self) -> bytes:
        """The response. Some clients show only the reason phrase: the line stands there too."""
        body = f"lis_kernel: {self.text}\n"
        head = (
            f"HTTP/1.1 {self.status} {self.text}",
            "Content-Type: text/plain",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join([*head, "", body]).encode("ascii")


async def resolve(host: str, port: int) -> list[str]:
    """The host's addresses as this machine resolves them. Raises: OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Proxy:
    """Serves one sandbox, from its `start` to its `stop`, on the event loop of `start`.

    Args:
        resolve: gives a host's addresses, raises OSError.
        dial: connects to a numeric address, raises OSError.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        bounds: Bounds = Bounds(),
        resolve: Resolve = resolve,
        dial: Dial = asyncio.open_connection,
    ) -> None:
        self.policy = policy
        self.bounds = bounds
        self._resolve = resolve
        self._dial = dial
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._kept: deque[Attempt] = deque()
        self._dropped = 0

    async def start(self, path: Path, uid: int = -1) -> None:
        """Listen on a new unix socket at `path`, which belongs to `uid` if not to us.

        Raises:
            OSError
        """
        listening = socket.socket(socket.AF_UNIX)
        try:
            # in a folder of the sandbox's as the sandbox; in one of ours only we can
            theirs = uid >= 0 and path.parent.stat().st_uid == uid
            with acting_as(uid if theirs else -1):
                listening.bind(str(path))
            if uid >= 0 and not theirs:
                os.chown(path, uid, uid)
            path.chmod(0o600)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listening, limit=http_head.MAX_HEAD
            )
        except BaseException:
            listening.close()
            raise

    def close(self) -> None:
        """Listen no more and drop every connection; may be called twice, also without a loop."""
        server, self._server = self._server, None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if server is not None:
                server.close()
            for task in self._tasks:
                task.cancel()

    async def stop(self) -> None:
        """As `close`, and wait until everything has ended."""
        tasks = list(self._tasks)
        self.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drain(self) -> tuple[Attempt, ...]:
        """The attempts since the last call; the last of them stands for those not kept."""
        kept = list(self._kept)
        if self._dropped:
            text = f"{self._dropped} more attempts are not listed"
            kept.append(Attempt(host="*", port=0, allowed=False, reason=text))
        self._kept.clear()
        self._dropped = 0
        return tuple(kept)

    def _note(self, host: str, port: int, allowed: bool, reason: str = "") -> None:
        if len(self._kept) < MAX_KEPT:
            self._kept.append(Attempt(host=host, port=port, allowed=allowed, reason=reason))
        else:
            self._dropped += 1

    # -- one connection ----------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # a server's callback runs in one
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # the sandbox stops
        finally:
            writer.close()
            try:  # a client that does not read its answer still counts as a connection
                async with asyncio.timeout(self.bounds.head):
                    await writer.wait_closed()
            except (OSError, TimeoutError, asyncio.CancelledError):
                writer.transport.abort()
            self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, and its answer or a refusal."""
        try:
            if len(self._tasks) > self.bounds.connections:
                self._note("?", 0, False, "too many connections at a time")
                raise Refusal(503, "too many connections of this sandbox at a time")
            await self._request(reader, writer)
        except Refusal as refusal:
            writer.write(refusal.answer())
            if len(self._tasks) <= 2 * self.bounds.connections:
                await self._linger(reader, writer)
        except (OSError, TimeoutError, EOFError, BadHead, BadHello) as error:
            log.debug("a connection of the sandbox ended: %s", error)

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read what the client still sends for a moment: closing at once would take its answer."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await writer.drain()
                writer.write_eof()
                for _ in range(LINGER_PIECES):
                    if not await reader.read(relay.PIECE):
                        break

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self.bounds.head):
                head = http_head.parse(await reader.readuntil(END))
        except TimeoutError:
            self._note("?", 0, False, "the request's head took too long")
            raise Refusal(408, "the request's head took too long") from None
        except (asyncio.LimitOverrunError, BadHead) as error:
            self._note("?", 0, False, f"a bad request: {error}")
            raise Refusal(400, f"bad request: {error}") from None
        upstream = await self._open(head.host, head.port)
        try:
            if head.method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await relay.both(
                    self.bounds.idle,
                    lambda alive: self._tunnel_up(head, reader, upstream[1], alive),
                    lambda alive: relay.copy(upstream[0], writer, alive),
                )
            else:
                await relay.both(
                    self.bounds.idle,
                    lambda alive: self._request_up(head, reader, writer, upstream[1], alive),
                    lambda alive: self._response_down(upstream[0], writer, alive),
                )
        finally:
            upstream[1].transport.abort()

    # -- the way there -----------------------------------------------------------------------

    async def _open(self, host: str, port: int) -> Streams:
        """A connection to an allowed host at an allowed address. Raises: Refusal."""
        rule = self.policy.rule(host, port)
        if rule is None:
            raise self._denied(host, port, self.policy.refusal(host, port))
        try:
            async with asyncio.timeout(self.bounds.connect):
                addresses = await self._addresses(host, port, rule)
                streams = await self._first(addresses, port)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            text = str(error) or "no answer in time"
            self._note(host, port, True, text)
            status = 504 if isinstance(error, TimeoutError) else 502
            raise Refusal(status, f"{host}:{port} is allowed but failed: {text}") from None
        self._note(host, port, True)
        return streams

    def _denied(self, host: str, port: int, reason: str) -> Refusal:
        self._note(host, port, False, reason)
        return Refusal(403, f"Forbidden: {reason} ({self.policy})")

    async def _addresses(self, host: str, port: int, rule: Rule) -> list[str]:
        """Where the host is, every address checked: one bad address spoils the answer."""
        found = [host] if is_address(host) else await self._resolve(host, port)
        if not found:
            raise OSError("the name has no address")
        for address in found:
            if why := forbidden(address, rule):
                raise self._denied(host, port, f"{host} resolves to {address}, {why}")
        return found

    async def _first(self, addresses: list[str], port: int) -> Streams:
        error = OSError("the name has no address")
        for address in addresses[:MAX_TRIED]:
            try:
                return await self._dial(address, port)
            except OSError as failed:
                error = failed
        raise error

    # -- both directions ---------------------------------------------------------------------

    async def _tunnel_up(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        out: asyncio.StreamWriter,
        alive: relay.Alive,
    ) -> None:
        """What the client says through a tunnel, once it is clear whom it says it to."""
        first = await reader.read(relay.PIECE)
        if first and first[0] == client_hello.HANDSHAKE:
            try:
                async with asyncio.timeout(self.bounds.head):
                    whole, name = client_hello.server_name(first)
                    while not whole:
                        more = await reader.read(relay.PIECE)
                        if not more:
                            raise EOFError("the tunnel's client went away")
                        first += more
                        whole, name = client_hello.server_name(first)
            except (BadHello, TimeoutError) as error:
                reason = f"a TLS hello that cannot be checked: {str(error) or 'too slow'}"
                raise _Quiet(self._denied(head.host, head.port, reason)) from None
            if name is not None and not _same(name, head.host):
                shown = name.encode("unicode_escape").decode("ascii")[:255]
                reason = f"a tunnel to {head.host} was used for another server name"
                raise _Quiet(self._denied(shown, head.port, reason))
        elif first and head.port == 443:
            raise _Quiet(self._denied(head.host, head.port, "port 443 is for TLS only"))
        out.write(first)
        await out.drain()
        await relay.copy(reader, out, alive)

    async def _request_up(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        out: asyncio.StreamWriter,
        alive: relay.Alive,
    ) -> None:
        """The request in our own words, and exactly its body."""
        out.write(head.rewritten())
        if head.expects and head.length:
            client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.length != CHUNKED:
            await relay.copy_exactly(reader, out, head.length, alive)
            return
        while True:
            size = http_head.chunk_size((await reader.readuntil(b"\r\n"))[:-2])
            out.write(b"%x\r\n" % size)
            await relay.copy_exactly(reader, out, size, alive)
            if await reader.readexactly(2) != b"\r\n":  # also refuses trailers
                raise BadHead("a chunk does not end where it said")
            out.write(b"\r\n")
            await out.drain()
            if size == 0:
                return

    async def _response_down(
        self, source: asyncio.StreamReader, client: asyncio.StreamWriter, alive: relay.Alive
    ) -> None:
        try:
            for _ in range(MAX_INTERIM):
                status, head = http_head.parse_response(await source.readuntil(END))
                if status >= 200:
                    break
            else:
                raise BadHead("it never came to the point")
        except (EOFError, asyncio.LimitOverrunError, BadHead) as error:
            raise Refusal(502, f"the server's answer cannot be read: {error}") from None
        client.write(head)
        await relay.copy(source, client, alive)


class _Quiet(EOFError):
    """A refusal that can no longer be told: the tunnel stands, so it is only closed."""


def _same(name: str, host: str) -> bool:
    try:
        return normal_host(name) == host
    except ValueError:
        return False
