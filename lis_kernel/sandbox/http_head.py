"""The head of an HTTP/1 message, read strictly: what two parsers could read in two ways is refused.

Pure functions on bytes, used by `proxy.py`. No line folding, no bare CR or LF, one Host, one kind
of length; bounds on every part. Requests are written anew, never passed on as they came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lis_kernel.sandbox.policy import normal_host, split_port

__all__ = ["CHUNKED", "END", "MAX_HEAD", "BadHead", "Head", "chunk_size", "parse", "parse_response"]

END = b"\r\n\r\n"
MAX_HEAD = 32_768
MAX_LINE = 8_192
MAX_HEADERS = 100
CHUNKED = -1
"""The length of a body that comes in chunks."""
MAX_LENGTH = 1 << 50

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
REQUEST = re.compile(rf"({TOKEN}{{1,32}}) ([!-~]+) HTTP/(1\.[01])")
STATUS = re.compile(r"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
FIELD = re.compile(rf"({TOKEN}{{1,256}}):[\t ]*([\t -~\x80-\xff]*)")
ABSOLUTE = re.compile(r"http://([A-Za-z0-9._:\[\]-]+)([/?][!-~]*)?", re.IGNORECASE)

HOP_BY_HOP = {
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class BadHead(ValueError):
    """The head is wrong or could be read in two ways; the text says how."""


@dataclass(frozen=True)
class Head:
    """A request: `host` and `port` are its target, `path` is empty for CONNECT."""

    method: str
    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...]
    length: int
    """Of the body, in bytes, or CHUNKED."""
    expects: bool
    """The client waits for `100 Continue` before it sends the body."""

    def rewritten(self) -> bytes:
        """The head for the origin server: its own Host and length, no hop-by-hop header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            f"Host: {host}" + ("" if self.port == 80 else f":{self.port}"),
            *(f"{name}: {value}" for name, value in end_to_end(self.headers)),
        ]
        if self.length == CHUNKED:
            lines.append("Transfer-Encoding: chunked")
        elif self.length or self.method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {self.length}")
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def end_to_end(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The headers that pass a proxy; Host and the length are for the caller to set."""
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }
    dropped = HOP_BY_HOP | named | {"host", "content-length"}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def parse(data: bytes) -> Head:
    """The request whose head is `data`, its last four bytes being END.

    Raises:
        BadHead: it is not a proxy request that has one meaning only.
    """
    first, headers = _lines(data)
    match = REQUEST.fullmatch(first)
    if match is None:
        raise BadHead("the request line is malformed")
    method, target, version = match.groups()
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    connect = method == "CONNECT"
    host, port, path = _connect_target(target) if connect else _absolute_target(target)
    _check_host(fields.get("host", []), host, port, version, connect)
    length = _length(fields, version)
    if connect and (length or "content-length" in fields):
        raise BadHead("CONNECT has no body")
    expects = [value.lower() for value in fields.get("expect", [])]
    if expects not in ([], ["100-continue"]):
        raise BadHead("an expectation other than 100-continue")
    return Head(method, host, port, path, headers, length, bool(expects) and version == "1.1")


def parse_response(data: bytes) -> tuple[int, bytes]:
    """The status, and the head as it goes to the client: for one response on this connection.

    Raises:
        BadHead
    """
    first, headers = _lines(data)
    match = STATUS.fullmatch(first)
    if match is None:
        raise BadHead("the status line is malformed")
    kept = end_to_end(headers)
    kept += [(n, v) for n, v in headers if n.lower() in ("content-length", "transfer-encoding")]
    lines = [f"HTTP/1.1 {match[1]} {match[2] or ''}", *(f"{name}: {value}" for name, value in kept)]
    return int(match[1]), "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def _lines(data: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    """First line and header fields."""
    if len(data) > MAX_HEAD or not data.endswith(END):
        raise BadHead("the head is too long or cut off")
    first, *rest = data[: -len(END)].decode("latin-1").split("\r\n")
    if len(rest) > MAX_HEADERS:
        raise BadHead(f"more than {MAX_HEADERS} headers")
    headers = []
    for line in rest:
        match = FIELD.fullmatch(line)  # also refuses folded lines and stray CR, LF and NUL
        if match is None or len(line) > MAX_LINE:
            raise BadHead("a header line is malformed or too long")
        headers.append((match[1], match[2].rstrip("\t ")))
    if len(first) > MAX_LINE:
        raise BadHead("the first line is too long")
    return first, tuple(headers)


def _authority(text: str) -> tuple[str, int | None]:
    try:
        host, port = split_port(text)
        if ":" in host and not text.startswith("["):
            raise ValueError("an IPv6 address needs brackets")
        return normal_host(host), port
    except ValueError as error:
        raise BadHead(f"the host is malformed: {error}") from None


def _connect_target(target: str) -> tuple[str, int, str]:
    host, port = _authority(target)
    if port is None:
        raise BadHead("CONNECT needs host:port")
    return host, port, ""


def _absolute_target(target: str) -> tuple[str, int, str]:
    match = ABSOLUTE.fullmatch(target)
    if match is None:
        raise BadHead("this is a proxy: the target must be http://host[:port]/path")
    host, port = _authority(match[1])
    path = (match[2] or "/").partition("#")[0]
    return host, port or 80, path if path.startswith("/") else f"/{path}"


def _check_host(given: list[str], host: str, port: int, version: str, connect: bool) -> None:
    """One Host header at most, and it names the target."""
    if len(given) > 1 or (not given and version == "1.1"):
        raise BadHead("there must be one Host header")
    for text in given:
        named, on = _authority(text)
        # some clients leave out the port in a CONNECT's Host
        if named != host or (on or (port if connect else 80)) != port:
            raise BadHead("the Host header names another host than the target")


def _length(fields: dict[str, list[str]], version: str) -> int:
    lengths, codings = fields.get("content-length", []), fields.get("transfer-encoding", [])
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != "chunked" or version == "1.0":
            raise BadHead("a Transfer-Encoding other than `chunked` alone")
        return CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,16}", lengths[0], re.ASCII):
        raise BadHead("there must be one Content-Length, a number")
    if int(lengths[0]) > MAX_LENGTH:
        raise BadHead("the body is too long")
    return int(lengths[0])


def chunk_size(line: bytes) -> int:
    """The size that a chunk's first line, without its CRLF, says. Extensions are refused.

    Raises:
        BadHead
    """
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,12}", line):
        raise BadHead("a chunk's size is malformed")
    return int(line, 16)
