"""The family `network` against real sandboxes, and the host's half of it: who heard which word."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lis_kernel.attacks import attack
from lis_kernel.attacks.ground import Ground, Report
from lis_kernel.attacks.inside import words
from lis_kernel.attacks.listeners import Listeners, word_of
from lis_kernel.attacks.proxied import NAMES, NO_REFUSAL, judge, records
from lis_kernel.attacks.world import ALLOWED, NaiveProxy, World, policy
from lis_kernel.sandbox.policy import forbidden, parse
from lis_kernel.types import Attempt

MAY_BE_MISSING = {
    "make_a_dummy_device",
    "make_a_bridge",
    "make_a_pair_of_devices",
    "open_a_tunnel",
    "change_the_firewall",
    "change_the_encryption_of_packets",
    "ping_the_host",
    "use_the_kernels_ciphers",
    "open_an_sctp_socket",
    "open_a_dccp_socket",
    "open_little_used_families",
    "map_packets_into_memory",
    "talk_to_the_hypervisor",
    "tcp_over_many_paths",
    "tcp_to_a_link_local_address",
    "tcp_to_the_hosts_ipv6_loopback",
    "tcp_to_the_hosts_own_ipv6_address",
    "udp_to_the_hosts_ipv6_loopback",
    "udp_to_the_hosts_own_ipv6_address",
    "find_a_route_to_the_ipv6_internet",
    "find_a_route_to_the_internet",
    "find_a_route_to_the_metadata_service",
    "spell_the_loopback_in_ipv6",
}
"""Canaries that a kernel or a machine may be without."""
BACKENDS = [
    pytest.param(b, marks=getattr(pytest.mark, m))
    for b, m in (("bubblewrap", "bwrap"), ("docker", "docker"))
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
async def test_nothing_gets_through(backend: str) -> None:
    findings = await attack(backend, families=["network"])
    assert [f for f in findings if not f.good] == []
    assert {f.name for f in findings if not f.live} <= MAY_BE_MISSING
    unmade = {f.name: f.stopped_by for f in findings if f.result == "skipped"}
    if backend == "docker":  # as long as containers refuse an allow-list, with a sentence
        unmade = {n: why for n, why in unmade.items() if "allow-lists are not available" not in why}
    assert set(unmade) <= MAY_BE_MISSING
    names = [f.name for f in findings]
    assert len(set(names)) == len(names) >= 110
    assert set(NAMES) <= set(names) and len(NAMES) >= 55


# -- the listeners ---------------------------------------------------------------------------


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[Listeners]:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    made = Listeners(tmp_path, secret)
    yield made
    made.close()


def test_both_halves_make_the_same_word() -> None:
    facts = {"key": "k"}
    assert words.word_of(facts, "an_attempt") == word_of("k", "an_attempt").encode()
    assert word_of("k", "a") != word_of("k", "b") != word_of("l", "b")


async def test_a_word_is_heard_on_every_listener_and_only_there(listeners: Listeners) -> None:
    assert {"tcp_loopback", "udp_loopback", "front", "unix", "abstract"} <= set(listeners.places)
    facts = {"key": listeners.key, "places": listeners.places}
    for name, where in listeners.places.items():
        if name in ("multicast", "broadcast"):
            continue
        say = {"tcp": words.tcp, "fro": words.tcp, "udp": words.udp}.get(name[:3])
        text = words.word_of(facts, name)
        if say:
            await asyncio.to_thread(say, tuple(where), text)
        else:
            await asyncio.to_thread(words.tell, socket.socket(socket.AF_UNIX), where, text)
    await listeners.settle()
    for name in set(listeners.places) - {"multicast", "broadcast"}:
        assert listeners.who_heard(name) == name
    assert listeners.who_heard("nobody_said_this") == ""


async def test_a_word_is_heard_though_its_speaker_left_at_once(listeners: Listeners) -> None:
    with socket.create_connection(tuple(listeners.places["tcp_loopback"])) as sock:
        sock.send(word_of(listeners.key, "a").encode())
    await listeners.settle()
    assert listeners.who_heard("a") == "tcp_loopback"


# -- the world of names ----------------------------------------------------------------------


async def test_the_worlds_addresses_are_what_their_names_say(listeners: Listeners) -> None:
    world = World(listeners)
    rules = parse(policy(4711))
    for name in ("private", "shared", "link", "meta", "near", "disguise", "two"):
        addresses = await world.resolve(f"{name}.example", 80)
        rule = rules.rule(f"{name}.example", 80)
        assert rule and any(forbidden(address, rule) for address in addresses), name
    for name in ("good.example", "a.wild.example", "evil.example", "notwild.example"):
        assert not any(map(forbidden, await world.resolve(name, 80))), name
    first, second = [await world.resolve("rebind.example", 4711) for _ in range(2)]
    assert not forbidden(first[0]) and forbidden(second[0])
    for name in (
        "evil.example",
        "notwild.example",
        "evilgood.example",
        "good.example.evil.example",
    ):
        assert rules.rule(name, 80) is None


async def test_only_an_allowed_hosts_ports_lead_to_the_front(listeners: Listeners) -> None:
    world = World(listeners)
    good, evil = await world.resolve("good.example", 80), await world.resolve("evil.example", 80)
    for n, (address, port, where) in enumerate(
        [
            (good[0], 80, "front"),
            (good[0], 443, "front"),
            (good[0], 22, "tcp_loopback"),
            (evil[0], 80, "tcp_loopback"),
            ("10.9.8.7", 80, "tcp_loopback"),
            ("169.254.169.254", 80, "tcp_loopback"),
        ]
    ):
        _, writer = await world.dial(address, port)
        writer.write(word_of(listeners.key, str(n)).encode())
        writer.close()
        await writer.wait_closed()
        await listeners.settle()
        assert listeners.who_heard(str(n)) == where


async def test_the_naive_proxy_makes_the_usual_mistakes(
    listeners: Listeners, tmp_path: Path
) -> None:
    naive = NaiveProxy(World(listeners), tmp_path / "policy", ALLOWED)
    await naive.start(tmp_path / "n.sock")

    async def say(text: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "n.sock"))
        writer.write(text.encode())
        try:
            return await asyncio.wait_for(reader.read(4096), 20)
        finally:
            writer.close()

    try:
        assert b" 403 " in await say("GET http://evil.example/ HTTP/1.1\r\n\r\n")
        assert b"heard" in await say("GET http://evil.example/good.example HTTP/1.1\r\n\r\n")
        (tmp_path / "policy").write_text("evil.example")
        assert b"heard" in await say("GET http://evil.example/ HTTP/1.1\r\n\r\n")
    finally:
        naive.close()


# -- what the record must say ----------------------------------------------------------------


def entry(host: str, allowed: bool = False) -> Attempt:
    return Attempt(host=host, port=80, allowed=allowed)


def test_the_record_is_cut_at_the_marks() -> None:
    told = [
        *(entry("a.mark.evil.example"), entry("?"), entry("x.example", True)),
        *(entry("b.mark.evil.example"), entry("c.mark.evil.example"), entry("?")),
    ]
    assert records(told) == {
        "a": [entry("?"), entry("x.example", True)],
        "b": [],
        "c": [entry("?")],
    }


async def test_a_refusal_without_a_record_is_a_breach(listeners: Listeners) -> None:
    refused = Report("spell_the_loopback_short", "refused", "HTTP/1.1 403", wall="the proxy")
    world = World(listeners)

    def result(ground: Ground, report: Report, *told: Attempt) -> str:
        return judge(ground, listeners, world, report, {report.name: told}).result

    async with Ground("bubblewrap") as here, Ground("local", canary=True) as canary:
        assert result(here, refused, entry("?")) == "blocked"
        assert result(here, refused, entry("good.example", True)) == "breached"
        assert result(here, refused) == "breached"
        untold = refused._replace(name="upgrade_the_connection")
        assert untold.name in NO_REFUSAL and result(here, untold) == "blocked"
        assert result(here, refused._replace(name="leave_no_record"), entry("?")) == "breached"
        assert result(canary, refused) == "blocked"
        assert result(here, refused._replace(outcome="skipped")) == "skipped"
