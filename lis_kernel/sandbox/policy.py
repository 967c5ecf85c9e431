"""Which hosts a sandbox may reach: `SandboxConfig.network` as a value that can be asked.

`none`, `open`, or `allow=` and a list of `host`, `host:port`, `*.domain`, `!host` and `index`.
Names are compared in one form only (lower case, ASCII, no trailing dot; addresses as `ipaddress`
writes them), so that a host has no second spelling. Read by `network.py`, asked by `proxy.py`.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Literal

from lis_kernel.errors import ConfigError

__all__ = ["PORTS", "Policy", "Rule", "forbidden", "normal_host", "parse", "split_port"]

FIELD = "--network"
PORTS = (80, 443)
"""Allowed where a rule names no port."""
LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that makes C libraries read the whole name as an IPv4 address."""


@dataclass(frozen=True)
class Rule:
    """One allowed host, or with `wildcard` every name below it."""

    host: str
    ports: tuple[int, ...] = PORTS
    wildcard: bool = False
    private: bool = False
    """It may resolve to an address that is not on the public internet."""

    def covers(self, host: str) -> bool:
        """Whether `host`, in normal form, is meant; the ports are another question."""
        return host.endswith("." + self.host) if self.wildcard else host == self.host

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        ports = [""] if self.ports == PORTS else [f":{port}" for port in self.ports]
        mark = "!" * self.private + "*." * self.wildcard
        return ",".join(f"{mark}{host}{port}" for port in ports)


@dataclass(frozen=True)
class Policy:
    """A parsed policy. `index` asks for pip's hosts, which are added as `found` at start.

    As text it is what the user wrote, without the hosts that were found.
    """

    kind: Literal["none", "open", "allow"]
    rules: tuple[Rule, ...] = ()
    index: bool = False
    found: tuple[Rule, ...] = ()

    def rule(self, host: str, port: int) -> Rule | None:
        """The rule that lets `host`, in normal form, be reached; a marked one if there are two."""
        rules = self.rules + self.found
        fitting = [rule for rule in rules if port in rule.ports and rule.covers(host)]
        return max(fitting, key=lambda rule: rule.private, default=None)

    def refusal(self, host: str, port: int) -> str:
        """Why `rule` found none, for the model to read."""
        rules = self.rules + self.found
        ports = sorted({p for rule in rules if rule.covers(host) for p in rule.ports})
        if ports:
            return f"{host} may be reached only on port {', '.join(map(str, ports))}"
        return f"{host} is not on the sandbox's allow-list"

    def with_found(self, rules: tuple[Rule, ...]) -> Policy:
        """This policy with the rules that `index` stands for."""
        return replace(self, found=rules)

    def __str__(self) -> str:
        if self.kind != "allow":
            return self.kind
        return "allow=" + ",".join([*map(str, self.rules), *["index"] * self.index])


def parse(text: str) -> Policy:
    """The policy that a user wrote.

    Raises:
        ConfigError: on `--network`, with what to write instead.
    """
    word = text.strip()
    if word.lower() in ("none", "open"):
        return Policy("none" if word.lower() == "none" else "open")
    name, equals, listed = word.partition("=")
    if name.strip().lower() != "allow" or not equals:
        raise _wrong(f"unknown policy {text!r}.")
    rules: dict[Rule, None] = {}
    index = False
    for item in listed.split(","):
        entry = item.strip()
        if not entry:
            raise _wrong("an empty entry in the list.")
        if entry.lower() == "index":
            index = True
        else:
            rules[_rule(entry)] = None
    return Policy("allow", tuple(rules), index)


def _wrong(problem: str, fix: str = "") -> ConfigError:
    return ConfigError(
        FIELD, problem, fix or "Write none, open, or allow=HOST[:PORT],*.DOMAIN,!PRIVATE_HOST,index"
    )


def _rule(entry: str) -> Rule:
    private = entry.startswith("!")
    rest = entry[private:].strip()
    if "/" in rest or "@" in rest:
        raise _wrong(f"{entry!r} is not a host.", "Write its host and port only, without a URL.")
    try:
        host, port = split_port(rest)
    except ValueError as error:
        raise _wrong(f"{entry!r}: {error}.") from None
    if host.lower() == "index":
        raise _wrong(f"{entry!r}: `index` takes no mark and no port.", "Write index alone.")
    wildcard = host.startswith("*.")
    if wildcard:
        host = host[2:]
    if "*" in host or "!" in host:
        raise _wrong(f"{entry!r}: a wildcard may only stand first, as in *.example.org.")
    if wildcard and private:
        raise _wrong(f"{entry!r}: private hosts are marked one by one.", "Write !HOST for each.")
    try:
        name = normal_host(_ascii(host))
    except ValueError as error:
        raise _wrong(f"{entry!r}: {error}.") from None
    if is_address(name):
        if wildcard:
            raise _wrong(f"{entry!r}: an address has no names below it.")
        if not private and (why := forbidden(name)):
            raise _wrong(f"{name} is {why}.", f"If that is meant, write !{rest}")
    return Rule(name, PORTS if port is None else (port,), wildcard, private)


def split_port(authority: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address in two.

    Raises:
        ValueError: with a few words.
    """
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        if not bracket or ":" not in host or (tail and not tail.startswith(":")):
            raise ValueError("brackets are for IPv6 addresses")
        port = tail[1:] if tail else None
    elif authority.count(":") > 1:
        host, port = authority, None
    else:
        host, colon, after = authority.partition(":")
        port = after if colon else None
    if port is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ValueError(f"{port!r} is not a port")
    return host, int(port)


def _ascii(host: str) -> str:
    """A name of any script in the form that is looked up (`xn--…`)."""
    if host.isascii():
        return host
    plain = unicodedata.normalize("NFC", host.lower())
    try:
        encoded = plain.encode("idna")
        same = encoded.decode("idna") == plain
    except UnicodeError as error:
        raise ValueError(f"not a host name: {error}") from None
    if not same:  # e.g. ß: the old and the new IDNA mean different hosts
        raise ValueError("ambiguous between versions of IDNA; write it in its xn-- form")
    return encoded.decode("ascii")


def normal_host(host: str) -> str:
    """The one spelling of an ASCII host name or IP address.

    Raises:
        ValueError: with a few words; also for what some C library would read as an address.
    """
    if ":" in host:
        if "%" in host:
            raise ValueError("an address with a zone")
        return str(ipaddress.IPv6Address(host))
    name = host.removesuffix(".").lower()
    labels = name.split(".")
    if NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise ValueError("an odd spelling of an address") from None
    if len(name) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    return name


def is_address(host: str) -> bool:
    """Whether a host in normal form is an IP address."""
    return ":" in host or host.rpartition(".")[2].isdigit()


# -- addresses -------------------------------------------------------------------------------

METADATA = frozenset(
    map(ipaddress.ip_address, ("169.254.169.254", "100.100.100.200", "168.63.129.16"))
) | {ipaddress.ip_address("fd00:ec2::254")}
"""Where clouds hand out a machine's credentials."""
UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is handed out to public hosts."""
SHARED = ipaddress.ip_network("100.64.0.0/10")
DISGUISES = tuple(
    map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"))
) + tuple(map(ipaddress.ip_network, ("::ffff:0:0:0/96", "2001::/32", "2002::/16")))
"""IPv6 forms that carry an IPv4 address: compatible, mapped, NAT64, translated, Teredo, 6to4."""


def forbidden(address: str, rule: Rule | None = None) -> str | None:
    """Why `address` may not be connected to, in a few words, or None.

    A marked rule admits what is not public. Even then a cloud's metadata service must have been
    named by its address, and nobody connects to everybody or nobody.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "not an address"
    if ip.is_multicast or ip.is_unspecified or str(ip) == "255.255.255.255":
        return "no single host's address"
    marked = rule is not None and rule.private
    if ip in METADATA:
        named = marked and rule is not None and rule.host == str(ip)
        return None if named else "a cloud's metadata service"
    if marked:
        return None
    v6 = isinstance(ip, ipaddress.IPv6Address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
        return "an address with a zone"
    if v6 and not ip.is_loopback and any(ip in net for net in DISGUISES):
        return "an IPv4 address in disguise"
    kinds = {
        "a loopback address": ip.is_loopback,
        "a link-local address": ip.is_link_local,
        "a shared (CGNAT) address": ip in SHARED,
        "a private address": ip.is_private,
        "a reserved address": ip.is_reserved or not ip.is_global or (v6 and ip not in UNICAST),
    }
    return next((kind for kind, holds in kinds.items() if holds), None)
