"""How the attempts through the proxy talk to it: raw bytes, and what its answer means.

On the canary's ground there are two proxies in its place: `naive`, which makes the usual mistakes,
and `listing`, which is ours with what is asked for on its list. In the sandbox both are the one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import time
from collections.abc import Callable

from .driver import Facts, Refused, attempt

SECONDS = 1.2
"""For an answer."""


def proxied(function: Callable[[Facts], str]) -> Callable[[Facts], str]:
    """An attempt through the proxy. A refused request with its name goes before it, as a mark in
    the host's record of who asked for what."""

    @functools.wraps(function)
    def marked(facts: Facts) -> str:
        name = f"{function.__name__}.mark.evil.example"
        for _ in range(20):
            if ask(facts, get(f"http://{name}/", name)).split(b" ")[1:2] not in ([], [b"503"]):
                break
            time.sleep(0.1)  # the attempt before still holds its connections
        return function(facts)

    return attempt(marked)


def connection(facts: Facts, by: str = "naive") -> socket.socket:
    where = facts["proxies"][by]
    sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    sock.settimeout(SECONDS)
    sock.connect(where if isinstance(where, str) else tuple(where))
    return sock


def own_socket(facts: Facts) -> str:
    """The path of the proxy's socket. Raises: LookupError."""
    return str(next(path for path in facts["proxy_sockets"] if os.path.exists(path)))


def hear(sock: socket.socket, until: bytes = b"") -> bytes:
    """What comes until the end, silence, or `until`."""
    said = b""
    with contextlib.suppress(OSError):
        while piece := sock.recv(65536):
            said += piece
            if until and until in said:
                break
    return said


def ask(facts: Facts, *pieces: bytes, by: str = "naive") -> bytes:
    """The proxy's answer to these bytes, sent one after the other."""
    with connection(facts, by) as sock:
        with contextlib.suppress(OSError):  # it may have hung up; its answer counts
            for piece in pieces:
                sock.sendall(piece)
                if len(pieces) > 1:
                    time.sleep(0.05)
        return hear(sock, b"heard")


def get(url: str, host: str, more: str = "") -> bytes:
    return f"GET {url} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode("latin-1")


def verdict(said: bytes) -> str:
    """Evidence that the request was served. Raises: Refused, with the proxy's own reason."""
    line = said.split(b"\r\n")[0].decode("latin-1")
    if line.startswith("HTTP/1.1 2"):
        return f"answered `{line}`"
    raise Refused(line or "no answer", f"the proxy: {line.partition(' ')[2][:160] or 'hung up'}")


def ignored(said: bytes, wall: str) -> str:
    """For what follows a request that may be served: only the host knows whether it arrived."""
    line = said.split(b"\r\n")[0].decode("latin-1")
    raise Refused(f"`{line}` for the first request, nothing for what followed", wall)


def fetch(facts: Facts, url: str, host: str = "", by: str = "naive") -> str:
    """A plain request; the Host header says the same as the URL unless it is given."""
    return verdict(ask(facts, get(url, host or url.split("/")[2]), by=by))


def tunnel(facts: Facts, target: str, payload: bytes, by: str = "naive") -> str:
    """CONNECT, then `payload`. Raises: Refused."""
    with connection(facts, by) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        said = hear(sock, b"\r\n\r\n")
        verdict(said)
        sock.sendall(payload)
        if b"heard" in hear(sock, b"heard"):
            return "the tunnel's other end answered"
    raise Refused("the tunnel was closed", "the proxy reads a tunnel's first words")


def hello(name: str) -> bytes:
    """A TLS ClientHello that asks for `name`."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    wrapped = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        wrapped.do_handshake()
    return outgoing.read()
