"""The network policy as text and as answers: one spelling a host, no address by a back door."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lis_kernel.errors import ConfigError
from lis_kernel.sandbox.policy import Rule, forbidden, normal_host, parse, split_port


def allowed(text: str, host: str, port: int = 443) -> bool:
    return parse(text).rule(normal_host(host), port) is not None


@pytest.mark.parametrize("text", ["none", " None ", "NONE"])
def test_none(text: str) -> None:
    assert str(parse(text)) == "none"
    assert parse(text).rule("example.org", 443) is None


def test_open() -> None:
    assert parse("open").kind == "open"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "off",
        "allow",
        "allow=",
        "allow= ",
        "allow=a.example,,b.example",
        "none,open",
        "allow=*",
        "allow=*.*.example",
        "allow=a.*.example",
        "allow=a*.example",
        "allow=!*.example",
        "allow=!!a.example",
        "allow=https://a.example/",
        "allow=a.example/path",
        "allow=user@a.example",
        "allow=a.example:0",
        "allow=a.example:65536",
        "allow=a.example:https",
        "allow=a.example:",
        "allow=a.example:80:81",
        "allow=a..example",
        "allow=-a.example",
        "allow=a b.example",
        "allow=a.example\r\nHost: b",
        "allow=" + "a" * 64 + ".example",
        "allow=" + ".".join(["abcdefgh"] * 40),
        "allow=1.2.3",
        "allow=0x7f.1",
        "allow=2130706433",
        "allow=1.2.3.256",
        "allow=01.2.3.4",
        "allow=*.1.2.3.4",
        "allow=[example.org]:443",
        "allow=[::1",
        "allow=fe80::1%eth0",
        "allow=10.0.0.1",
        "allow=127.0.0.1:8000",
        "allow=[::1]:8000",
        "allow=169.254.169.254",
        "allow=::ffff:8.8.8.8",
        "allow=straße.example",
        "allow=index:443",
    ],
)
def test_nonsense_is_refused_with_the_option_and_a_fix(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.field == "--network"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "host", "port", "expected"),
    [
        ("allow=example.org", "example.org", 443, True),
        ("allow=example.org", "example.org", 80, True),
        ("allow=example.org", "example.org", 22, False),
        ("allow=example.org:22", "example.org", 22, True),
        ("allow=example.org:22", "example.org", 443, False),
        ("allow=Example.ORG", "eXample.org.", 443, True),
        ("allow=example.org.", "example.org", 443, True),
        ("allow=example.org", "www.example.org", 443, False),
        ("allow=example.org", "example.org.evil.example", 443, False),
        ("allow=example.org", "notexample.org", 443, False),
        ("allow=*.example.org", "www.example.org", 443, True),
        ("allow=*.example.org", "a.b.example.org", 443, True),
        ("allow=*.example.org", "example.org", 443, False),
        ("allow=*.example.org,example.org", "example.org", 443, True),
        ("allow=*.example.org", "evilexample.org", 443, False),
        ("allow=*.example.org:8443", "www.example.org", 443, False),
        ("allow=bücher.example", "xn--bcher-kva.example", 443, True),
        ("allow=BÜCHER.example", "XN--BCHER-KVA.example", 443, True),
        ("allow=8.8.8.8", "8.8.8.8", 443, True),
        ("allow=8.8.8.8", "8.8.4.4", 443, False),
        ("allow=[2606:4700::1111]:443", "2606:4700:0:0::1111", 443, True),
        ("allow=2606:4700::1111", "2606:4700::1111", 80, True),
        ("allow=!localhost:8000", "localhost", 8000, True),
        ("allow=!10.1.2.3:5000", "10.1.2.3", 5000, True),
        ("allow= a.example , b.example ", "b.example", 443, True),
    ],
)
def test_matching(text: str, host: str, port: int, expected: bool) -> None:
    assert allowed(text, host, port) is expected


def test_the_marked_rule_of_two_counts() -> None:
    rule = parse("allow=*.example.org,!db.example.org").rule("db.example.org", 443)
    assert rule is not None and rule.private
    other = parse("allow=*.example.org,!db.example.org").rule("www.example.org", 443)
    assert other is not None and not other.private


def test_hosts_found_for_the_index_are_not_in_the_text() -> None:
    policy = parse("allow=index,a.example").with_found((Rule("files.example", (443,)),))
    assert str(policy) == "allow=a.example,index"
    assert policy.rule("files.example", 443) and not policy.rule("files.example", 80)


labels = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=10).filter(
    lambda s: not s.startswith("-") and not s.endswith("-") and not s.startswith("xn--")
)
hosts = st.builds(
    lambda parts, top: ".".join([*parts, top]),
    st.lists(labels, min_size=1, max_size=4),
    st.sampled_from(["org", "example", "test"]),
)
entries = st.builds(
    lambda mark, host, port: mark + host + (f":{port}" if port else ""),
    st.sampled_from(["", "!", "*."]),
    hosts,
    st.none() | st.integers(1, 65535),
)


@settings(deadline=None)
@given(st.lists(entries, min_size=1, max_size=6), st.booleans())
def test_a_policy_reads_back_from_its_text(listed: list[str], index: bool) -> None:
    policy = parse("allow=" + ",".join([*listed, *["index"] * index]))
    assert parse(str(policy)) == policy


@settings(deadline=None)
@given(hosts, st.integers(1, 65535))
def test_case_and_trailing_dot_do_not_matter(host: str, port: int) -> None:
    policy = parse(f"allow={host}:{port}")
    assert policy.rule(normal_host(host.upper() + "."), port)
    assert not policy.rule(normal_host("x" + host), port)
    assert not policy.rule(host, port % 65535 + 1)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_policy_or_a_config_error(text: str) -> None:
    for candidate in (text, f"allow={text}"):
        try:
            policy = parse(candidate)
        except ConfigError:
            continue
        assert parse(str(policy)) == policy


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_normal_host_is_a_fixed_point(text: str) -> None:
    try:
        host = normal_host(text)
    except ValueError:
        return
    assert normal_host(host) == host
    assert host.isascii() and not set(host) & set(" \r\n\t/@\\#?%")


@pytest.mark.parametrize("text", ["a:b", "a:", "[::1]x", "[]:1", "a:99999", "a:١"])
def test_odd_ports(text: str) -> None:
    with pytest.raises(ValueError):
        split_port(text)


# -- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "169.254.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "::ffff:0:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::1",
        "2001:0:4136:e378::1",
        "fec0::1",
        "100::1",
        "nonsense",
        "127.1",
    ],
)
def test_no_address_but_a_public_one(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert forbidden(address) is None


def test_the_mark_admits_private_addresses_but_no_metadata_service() -> None:
    marked = Rule("intranet.example", private=True)
    for address in ("10.0.0.1", "127.0.0.1", "::1", "169.254.1.1", "203.0.113.8"):
        assert forbidden(address, marked) is None
        assert forbidden(address, Rule("intranet.example"))
    for address in ("169.254.169.254", "fd00:ec2::254", "0.0.0.0", "224.0.0.1", "::"):
        assert forbidden(address, marked)
    assert forbidden("169.254.169.254", Rule("169.254.169.254", private=True)) is None


@settings(deadline=None)
@given(st.ip_addresses())
def test_nothing_that_python_calls_private_passes(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if forbidden(str(address)) is None:
        assert address.is_global and not address.is_multicast
