"""The proxy against clients that cheat: smuggling, rebinding, fronting, floods; over real sockets.

Names resolve to what a test says, and every address that may be dialled leads to the origin's
socket file: nothing here leaves the machine.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lis_kernel.sandbox import client_hello, http_head
from lis_kernel.sandbox.http_head import BadHead
from lis_kernel.sandbox.policy import parse
from lis_kernel.sandbox.proxy import MAX_KEPT, Bounds, Proxy

PUBLIC = "93.184.216.34"
QUICK = Bounds(head=1.5, connect=1.5, idle=2.0, connections=4)


class World:
    """One origin server, one proxy, and a resolver that tells what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "p.sock"
        # not a port: a client elsewhere on the machine whose kernel has gone may try it again there
        self.origin_path = folder / "o.sock"
        self.names: dict[str, list[list[str]]] = {}
        self.resolved: list[str] = []
        self.dialled: list[tuple[str, int]] = []
        self.heard: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        self.hangs = False
        self.bounds = QUICK

    async def origin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        self.heard.append(data)
        at = len(self.heard) - 1
        try:
            while True:
                piece = await asyncio.wait_for(reader.read(65536), 0.15)
                if not piece:
                    break
                data += piece
                self.heard[at] = data
        except TimeoutError:
            pass
        if self.hangs:
            await asyncio.sleep(30)
        writer.write(self.answer)
        writer.close()

    async def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        answers = self.names.get(host)
        if not answers:
            raise socket.gaierror(-2, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def dial(self, host: str, port: int):
        self.dialled.append((host, port))
        if host != PUBLIC and not host.startswith("127."):
            raise ConnectionRefusedError(f"not dialled in a test: {host}")
        return await asyncio.open_unix_connection(self.origin_path)

    async def start(self, policy: str) -> Proxy:
        self.server = await asyncio.start_unix_server(self.origin, self.origin_path)
        self.proxy = Proxy(parse(policy), bounds=self.bounds, resolve=self.resolve, dial=self.dial)
        await self.proxy.start(self.path)
        return self.proxy

    async def say(self, data: bytes, *more: bytes, close: bool = False) -> bytes:
        """What the proxy answers to these bytes, up to its end of the connection."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            for piece in (data, *more):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            if close:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()

    async def stop(self) -> None:
        await self.proxy.stop()
        self.server.close()


POLICY = "allow=good.example,*.wild.example,odd.example:8080,!near.example,!127.0.0.1:7000,8.8.8.8"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    world.names = {
        "good.example": [[PUBLIC]],
        "odd.example": [[PUBLIC]],
        "a.wild.example": [[PUBLIC]],
        "near.example": [["127.0.0.1"]],
    }
    await world.start(POLICY)
    yield world
    await world.stop()


def get(url: str = "http://good.example/", host: str = "good.example", more: str = "") -> bytes:
    return f"GET {url} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode("latin-1")


def connect(target: str, more: str = "") -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{more}\r\n".encode()


@cache
def hello(name: str | None) -> bytes:
    """A real ClientHello of this Python's TLS."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    wrapped = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        wrapped.do_handshake()
    return outgoing.read()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# -- what works ------------------------------------------------------------------------------


async def test_a_plain_request_is_written_anew(world: World) -> None:
    sent = get(
        "http://GOOD.example:80/a?b=c",
        "good.example",
        "Accept: x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: s\r\n"
        "TE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nKeep-Alive: 5\r\n",
    )
    answer = await world.say(sent)
    assert status(answer) == 200 and answer.endswith(b"\r\n\r\nhi")
    assert world.heard == [
        b"GET /a?b=c HTTP/1.1\r\nHost: good.example\r\nAccept: x\r\nConnection: close\r\n\r\n"
    ]
    assert [(a.host, a.port, a.allowed, a.reason) for a in world.proxy.drain()] == [
        ("good.example", 80, True, "")
    ]
    assert world.proxy.drain() == ()


async def test_bodies_pass_with_their_own_length_only(world: World) -> None:
    head = "POST http://good.example/ HTTP/1.1\r\nHost: good.example\r\n"
    await world.say(f"{head}Content-Length: 3\r\n\r\nabcGET /second".encode())
    assert world.heard[-1].endswith(b"Content-Length: 3\r\nConnection: close\r\n\r\nabc")
    await world.say(
        f"{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /second".encode()
    )
    assert world.heard[-1].endswith(b"chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert not any(b"second" in heard for heard in world.heard)


async def test_a_second_request_on_the_connection_is_not_served(world: World) -> None:
    answer = await world.say(get() + get("http://evil.example/", "evil.example"))
    assert answer.count(b"HTTP/1.1") == 1
    assert b"evil" not in world.heard[0] and len(world.heard) == 1


async def test_expect_is_answered_here(world: World) -> None:
    head = b"PUT http://good.example/ HTTP/1.1\r\nHost: good.example\r\nContent-Length: 2\r\n"
    answer = await world.say(head + b"Expect: 100-continue\r\n\r\n", b"ok")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"Expect" not in world.heard[0]


async def test_interim_answers_and_hop_by_hop_headers_of_the_server_are_dropped(
    world: World,
) -> None:
    world.answer = (
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nX: y\r\nContent-Length: 2\r\n\r\nhi"
    )
    answer = await world.say(get())
    assert answer == b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


async def test_a_tunnel(world: World) -> None:
    answer = await world.say(connect("odd.example:8080"), b"any words", close=True)
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n" + world.answer
    assert world.heard == [b"any words"]


async def test_a_tls_tunnel_in_pieces(world: World) -> None:
    data = hello("good.example")
    pieces = [data[:1], data[1:4], data[4:90], data[90:]]
    answer = await world.say(connect("good.example:443"), *pieces)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert world.heard == [data]


async def test_a_hello_without_a_name_passes(world: World) -> None:
    await world.say(connect("good.example:443"), hello(None))
    assert len(world.heard[0]) > 100


async def test_old_clients_send_no_host_with_connect(world: World) -> None:
    answer = await world.say(b"CONNECT odd.example:8080 HTTP/1.0\r\n\r\n", b"x", close=True)
    assert status(answer) == 200


async def test_the_mark(world: World) -> None:
    assert status(await world.say(get("http://near.example/", "near.example"))) == 200
    near = get("http://127.0.0.1:7000/", "127.0.0.1:7000")
    assert status(await world.say(near)) == 200
    assert world.resolved == ["near.example"]  # an address is not looked up


# -- who may be reached ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://evil.example/", "evil.example"),
        ("http://good.example:8080/", "good.example:8080"),
        ("http://wild.example/", "wild.example"),
        ("http://a.wild.example.evil.example/", "a.wild.example.evil.example"),
        ("http://good.example.evil.example/", "good.example.evil.example"),
        ("http://127.0.0.1/", "127.0.0.1"),
        ("http://127.0.0.1:7001/", "127.0.0.1:7001"),
        ("http://[::1]/", "[::1]"),
        ("http://[::ffff:8.8.8.8]/", "[::ffff:8.8.8.8]"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
        ("http://localhost/", "localhost"),
    ],
)
async def test_a_denied_host_gets_one_line_and_is_recorded(
    world: World, url: str, host: str
) -> None:
    answer = await world.say(get(url, host))
    assert status(answer) == 403
    line = answer.split(b"\r\n")[0]
    assert b"allow-list" in line or b"only on port" in line
    assert answer.split(b"\r\n\r\n")[1].startswith(b"lis_kernel: ")
    attempt = world.proxy.drain()[0]
    assert not attempt.allowed and attempt.reason
    assert world.dialled == [] and world.resolved == []


async def test_a_denied_tunnel(world: World) -> None:
    assert status(await world.say(connect("evil.example:443"))) == 403
    assert status(await world.say(connect("good.example:22"))) == 403
    assert [(a.host, a.port, a.allowed) for a in world.proxy.drain()] == [
        ("evil.example", 443, False),
        ("good.example", 22, False),
    ]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["::1"],
        ["fe80::1%eth0"],
        ["fd00:ec2::254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        [PUBLIC, "127.0.0.1"],
        ["not an address"],
    ],
)
async def test_an_allowed_name_at_an_address_that_is_not(
    world: World, addresses: list[str]
) -> None:
    world.names["good.example"] = [addresses]
    assert status(await world.say(get())) == 403
    assert status(await world.say(connect("good.example:443"))) == 403
    assert world.dialled == []
    assert all("resolves to" in a.reason for a in world.proxy.drain())


async def test_rebinding_between_check_and_connect(world: World) -> None:
    world.names["good.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert status(await world.say(get())) == 200
    assert world.resolved == ["good.example"] and world.dialled == [(PUBLIC, 80)]
    assert status(await world.say(get())) == 403  # asked anew, it now lies in private
    assert world.dialled == [(PUBLIC, 80)]


async def test_the_mark_of_a_name_is_none_for_the_metadata_service(world: World) -> None:
    for address in ("169.254.169.254", "fd00:ec2::254", "0.0.0.0", "224.0.0.1"):
        world.names["near.example"] = [[address]]
        assert status(await world.say(get("http://near.example/", "near.example"))) == 403
    assert world.dialled == []


async def test_what_is_allowed_and_fails_says_so(world: World) -> None:
    world.names["good.example"] = []
    assert status(await world.say(get())) == 502
    world.names["good.example"] = [["8.8.4.4", "1.1.1.1"]]  # dial refuses both
    assert status(await world.say(get())) == 502
    first, second = world.proxy.drain()
    assert first.allowed and "not known" in first.reason
    assert second.allowed and "1.1.1.1" in second.reason
    assert world.dialled == [("8.8.4.4", 80), ("1.1.1.1", 80)]


# -- requests with two meanings --------------------------------------------------------------

H = "Host: good.example\r\n"
SMUGGLED = {
    "origin form": f"GET / HTTP/1.1\r\n{H}\r\n",
    "asterisk": f"OPTIONS * HTTP/1.1\r\n{H}\r\n",
    "https": f"GET https://good.example/ HTTP/1.1\r\n{H}\r\n",
    "ftp": f"GET ftp://good.example/ HTTP/1.1\r\n{H}\r\n",
    "user info": f"GET http://good.example@evil.example/ HTTP/1.1\r\n{H}\r\n",
    "backslash": f"GET http://good.example\\@evil.example/ HTTP/1.1\r\n{H}\r\n",
    "encoded host": f"GET http://good%2eexample/ HTTP/1.1\r\n{H}\r\n",
    "other host header": "GET http://good.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "other host port": "GET http://good.example/ HTTP/1.1\r\nHost: good.example:81\r\n\r\n",
    "two host headers": f"GET http://good.example/ HTTP/1.1\r\n{H}{H}\r\n",
    "no host header": "GET http://good.example/ HTTP/1.1\r\n\r\n",
    "empty host header": "GET http://good.example/ HTTP/1.1\r\nHost:\r\n\r\n",
    "host list": "GET http://good.example/ HTTP/1.1\r\nHost: good.example, e.example\r\n\r\n",
    "folded header": f"GET http://good.example/ HTTP/1.1\r\n{H}X: a\r\n b\r\n\r\n",
    "folded first": f"GET http://good.example/ HTTP/1.1\r\n X: a\r\n{H}\r\n",
    "space before colon": f"GET http://good.example/ HTTP/1.1\r\n{H}Content-Length : 5\r\n\r\n",
    "no colon": f"GET http://good.example/ HTTP/1.1\r\n{H}nonsense\r\n\r\n",
    "empty name": f"GET http://good.example/ HTTP/1.1\r\n{H}: x\r\n\r\n",
    "bare lf": f"GET http://good.example/ HTTP/1.1\n{H}\r\n",
    "bare lf in header": f"GET http://good.example/ HTTP/1.1\r\n{H}X: a\nY: b\r\n\r\n",
    "bare cr": f"GET http://good.example/ HTTP/1.1\r\n{H}X: a\rY: b\r\n\r\n",
    "nul": f"GET http://good.example/ HTTP/1.1\r\n{H}X: a\0b\r\n\r\n",
    "leading line": f"\r\nGET http://good.example/ HTTP/1.1\r\n{H}\r\n",
    "two spaces": f"GET  http://good.example/ HTTP/1.1\r\n{H}\r\n",
    "tab": f"GET\thttp://good.example/ HTTP/1.1\r\n{H}\r\n",
    "three words": f"GET http://good.example/ x HTTP/1.1\r\n{H}\r\n",
    "http 2": f"GET http://good.example/ HTTP/2.0\r\n{H}\r\n",
    "http 0.9": "GET http://good.example/\r\n\r\n",
    "length twice": f"POST http://good.example/ HTTP/1.1\r\n{H}Content-Length: 1\r\n"
    "Content-Length: 2\r\n\r\nab",
    "same length twice": f"POST http://good.example/ HTTP/1.1\r\n{H}Content-Length: 1\r\n"
    "Content-Length: 1\r\n\r\na",
    "length list": f"POST http://good.example/ HTTP/1.1\r\n{H}Content-Length: 1, 1\r\n\r\na",
    "signed length": f"POST http://good.example/ HTTP/1.1\r\n{H}Content-Length: +1\r\n\r\na",
    "hex length": f"POST http://good.example/ HTTP/1.1\r\n{H}Content-Length: 0x1\r\n\r\na",
    "huge length": f"POST http://good.example/ HTTP/1.1\r\n{H}Content-Length: {10**15 * 9}\r\n\r\n",
    "length and coding": f"POST http://good.example/ HTTP/1.1\r\n{H}Content-Length: 4\r\n"
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding list": f"POST http://good.example/ HTTP/1.1\r\n{H}Transfer-Encoding: gzip, "
    "chunked\r\n\r\n0\r\n\r\n",
    "coding twice": f"POST http://good.example/ HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n"
    "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "odd coding": f"POST http://good.example/ HTTP/1.1\r\n{H}Transfer-Encoding: xchunked\r\n\r\n",
    "vertical tab": f"POST http://good.example/ HTTP/1.1\r\n{H}Transfer-Encoding:\x0bchunked"
    "\r\n\r\n",
    "coding in 1.0": f"POST http://good.example/ HTTP/1.0\r\n{H}Transfer-Encoding: chunked"
    "\r\n\r\n0\r\n\r\n",
    "other expectation": f"POST http://good.example/ HTTP/1.1\r\n{H}Expect: evil\r\n\r\n",
    "connect with body": f"CONNECT good.example:443 HTTP/1.1\r\n{H}Content-Length: 4\r\n\r\nabcd",
    "connect chunked": f"CONNECT good.example:443 HTTP/1.1\r\n{H}Transfer-Encoding: chunked"
    "\r\n\r\n",
    "connect no port": f"CONNECT good.example HTTP/1.1\r\n{H}\r\n",
    "connect url": f"CONNECT http://good.example:443/ HTTP/1.1\r\n{H}\r\n",
    "connect other host": "CONNECT good.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "connect other port": "CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:80\r\n\r\n",
    "connect bare v6": "CONNECT ::1:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
    "octal address": "GET http://0177.0.0.1/ HTTP/1.1\r\nHost: 0177.0.0.1\r\n\r\n",
    "short address": "GET http://127.1/ HTTP/1.1\r\nHost: 127.1\r\n\r\n",
    "number address": "GET http://2130706433/ HTTP/1.1\r\nHost: 2130706433\r\n\r\n",
    "hex address": "GET http://0x7f000001/ HTTP/1.1\r\nHost: 0x7f000001\r\n\r\n",
    "zone": "GET http://[fe80::1%25lo]/ HTTP/1.1\r\nHost: [fe80::1%25lo]\r\n\r\n",
    "not ascii": f"GET http://g\xf6\xf6d.example/ HTTP/1.1\r\n{H}\r\n",
    "many headers": f"GET http://good.example/ HTTP/1.1\r\n{H}" + "X: y\r\n" * 101 + "\r\n",
    "long header": f"GET http://good.example/ HTTP/1.1\r\n{H}X: {'y' * 9000}\r\n\r\n",
    "long head": f"GET http://good.example/ HTTP/1.1\r\n{H}" + f"X: {'y' * 8000}\r\n" * 6 + "\r\n",
    "long target": f"GET http://good.example/{'a' * 9000} HTTP/1.1\r\n{H}\r\n",
    "tls at once": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "socks": "\x05\x01\x00\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_two_meanings_are_none(world: World, name: str) -> None:
    answer = await world.say(SMUGGLED[name].encode("latin-1"))
    assert status(answer) == 400
    assert world.heard == [] and world.dialled == []
    (attempt,) = world.proxy.drain()
    assert not attempt.allowed and attempt.reason.startswith("a bad request")


@pytest.mark.parametrize(
    "body",
    [
        "g\r\nabc\r\n0\r\n\r\n",
        "3;x=y\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: trailer\r\n\r\n",
    ],
)
async def test_odd_chunks_end_the_request(world: World, body: str) -> None:
    world.answer = b""
    head = f"POST http://good.example/ HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n"
    answer = await world.say((head + body).encode())
    assert answer == b""
    assert not world.heard or b"0\r\n\r\n" not in world.heard[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\n\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    ],
)
async def test_an_unreadable_answer_is_a_bad_gateway(world: World, answer: bytes) -> None:
    world.answer = answer
    assert status(await world.say(get())) == 502


# -- tunnels that were meant for another -----------------------------------------------------


async def test_fronting(world: World) -> None:
    answer = await world.say(connect("good.example:443"), hello("evil.example"))
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert world.heard == [b""]  # connected, and not told a byte
    allowed, denied = world.proxy.drain()
    assert allowed.allowed and not denied.allowed
    assert denied.host == "evil.example" and "another server name" in denied.reason


async def test_fronting_on_any_port(world: World) -> None:
    await world.say(connect("odd.example:8080"), hello("good.example"))
    assert world.heard == [b""]


def tamper(name: str) -> bytes:
    data = hello("good.example")
    at = data.index(b"good.example")
    entry = data[at - 9 : at + 12]  # the whole extension: type, lengths, name
    assert entry[:2] == b"\0\0"
    return {
        "nul in name": data.replace(b"good.example", b"good\0example"),
        "name with dot": data.replace(b"good.example", b"good..exampl"),
        "cut length": data[:3] + b"\x00\x10" + data[5:],
        "long record": data[:3] + b"\xff\xff" + data[5:],
        "no client hello": data[:5] + b"\x02" + data[6:],
        "ssl 2": data[:1] + b"\x02" + data[2:],
        "long message": data[:6] + b"\xff\xff\xff" + data[9:],
        "inner length": data.replace(entry, entry[:4] + b"\xff\xff" + entry[6:]),
        "name type": data.replace(entry, entry[:6] + b"\x01" + entry[7:]),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "nul in name",
        "name with dot",
        "cut length",
        "long record",
        "no client hello",
        "ssl 2",
        "long message",
        "inner length",
        "name type",
    ],
)
async def test_a_hello_that_cannot_be_checked(world: World, name: str) -> None:
    await world.say(connect("good.example:443"), tamper(name), close=True)
    assert world.heard == [b""]
    assert [a.allowed for a in world.proxy.drain()] == [True, False]


async def test_port_443_is_for_tls(world: World) -> None:
    await world.say(connect("good.example:443"), get("/", "evil.example"))
    assert world.heard == [b""]
    assert not world.proxy.drain()[1].allowed


async def test_a_slow_hello(world: World) -> None:
    world.hangs = True
    answer = await world.say(connect("good.example:443"), hello("good.example")[:50])
    assert answer.endswith(b"established\r\n\r\n")
    assert world.heard == [b""]
    assert "too slow" in world.proxy.drain()[1].reason


# -- limits ----------------------------------------------------------------------------------


async def test_slowloris(world: World) -> None:
    answer = await asyncio.wait_for(world.say(b"GET http://good.example/ HTTP/1.1\r\n"), 10)
    assert status(answer) == 408
    assert [(a.host, a.allowed) for a in world.proxy.drain()] == [("?", False)]


async def test_silence_and_half_heads_end(world: World) -> None:
    assert await world.say(b"GET http://good.ex", close=True) == b""
    assert world.proxy.drain() == ()


async def test_more_connections_than_allowed(world: World) -> None:
    held = [await asyncio.open_unix_connection(str(world.path)) for _ in range(4)]
    await asyncio.sleep(0.05)
    assert status(await world.say(get())) == 503
    assert [a.reason for a in world.proxy.drain()] == ["too many connections at a time"]
    for _, writer in held:
        writer.close()
    await asyncio.sleep(0.1)
    assert status(await world.say(get())) == 200


async def test_an_idle_server_is_given_up(world: World) -> None:
    world.hangs = True
    assert await asyncio.wait_for(world.say(get()), 10) == b""


async def test_a_dial_that_hangs(world: World) -> None:
    async def never(host: str, port: int):
        await asyncio.sleep(30)

    world.proxy._dial = never
    assert status(await asyncio.wait_for(world.say(get()), 10)) == 504


async def test_a_client_that_reads_nothing_does_not_fill_memory(world: World) -> None:
    world.answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 30_000_000
    _, writer = await asyncio.open_unix_connection(str(world.path))
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(get())
    await asyncio.sleep(0.5)
    (task,) = world.proxy._tasks
    await asyncio.wait({task}, timeout=10)
    assert task.done()
    writer.close()


async def test_attempts_are_bounded_and_counted(world: World) -> None:
    for n in range(MAX_KEPT + 7):
        world.proxy._note(f"h{n}.example", 80, False, "x")
    kept = world.proxy.drain()
    assert len(kept) == MAX_KEPT + 1
    assert kept[-1].host == "*" and kept[-1].reason.startswith("7 more")


async def test_the_socket_is_for_its_owner_and_goes_with_the_proxy(world: World) -> None:
    assert world.path.stat().st_mode & 0o777 == 0o600
    reader, _ = await asyncio.open_unix_connection(str(world.path))
    await asyncio.sleep(0.02)
    await world.proxy.stop()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    with pytest.raises(OSError):
        await asyncio.open_unix_connection(str(world.path))


# -- the parsers alone -----------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_an_error(data: bytes) -> None:
    for text in (data, b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n" + data):
        try:
            head = http_head.parse(text + b"\r\n\r\n")
        except BadHead:
            continue
        again = head.rewritten()
        assert again.count(b"\r\n\r\n") == 1 and again.endswith(b"\r\n\r\n")
        assert again.lower().count(b"\r\nhost:") == 1
        assert b"\n" not in again.replace(b"\r\n", b"") and b"\r" not in again.replace(b"\r\n", b"")


@settings(deadline=None)
@given(st.data())
def test_any_hello_is_read_or_refused(data: st.DataObject) -> None:
    real = bytearray(hello("good.example"))
    for _ in range(data.draw(st.integers(0, 4))):
        real[data.draw(st.integers(0, len(real) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(real[: data.draw(st.integers(0, len(real)))])
    try:
        whole, name = client_hello.server_name(cut)
    except client_hello.BadHello:
        return
    assert whole or name is None
    assert name is None or name.isascii()


def test_a_hello_in_many_records() -> None:
    data = hello("good.example")
    body = data[5:]
    split = b"".join(
        data[:3] + len(body[i : i + 7]).to_bytes(2, "big") + body[i : i + 7]
        for i in range(0, len(body), 7)
    )
    assert client_hello.server_name(split) == (True, "good.example")
    assert client_hello.server_name(split[:-1]) == (False, None)
