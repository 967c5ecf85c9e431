"""Attempts at the network where the policy is `none`: by every kind of socket, and past sockets.

Each sends its own word to a listener of the host. On the canary's ground nothing goes off the
machine, and what would change its network is done in a namespace of the attempt's own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

from .driver import Facts, Refused, Skip, attempt
from .words import SECONDS, answer, place, tcp, udp, word

ALSO = ("netlink",)

# -- TCP and UDP -----------------------------------------------------------------------------------


@attempt
def tcp_to_the_hosts_loopback(facts: Facts) -> str:
    return tcp(place(facts, "tcp_loopback"), word(facts))


@attempt
def tcp_to_the_hosts_ipv6_loopback(facts: Facts) -> str:
    return tcp(place(facts, "tcp_loopback6"), word(facts))


@attempt
def tcp_to_the_hosts_own_address(facts: Facts) -> str:
    return tcp(place(facts, "tcp_outward"), word(facts))


@attempt
def tcp_to_the_hosts_own_ipv6_address(facts: Facts) -> str:
    return tcp(place(facts, "tcp_outward6"), word(facts))


@attempt
def tcp_to_a_link_local_address(facts: Facts) -> str:
    return tcp(place(facts, "tcp_link_local"), word(facts))


@attempt
def tcp_by_an_ipv4_address_in_ipv6(facts: Facts) -> str:
    address, port = place(facts, "tcp_loopback")
    return tcp((f"::ffff:{address}", port), word(facts))


@attempt
def tcp_to_the_zero_address(facts: Facts) -> str:
    _, port = place(facts, "tcp_loopback")
    return tcp(("0.0.0.0", port), word(facts))


@attempt
def tcp_with_data_in_the_first_packet(facts: Facts) -> str:
    """TCP fast open: sendto connects, and a filter on connect sees nothing."""
    with socket.socket() as sock:
        # not settimeout: it would return before the connection stands
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))
        sock.sendto(word(facts), socket.MSG_FASTOPEN, place(facts, "tcp_outward"))
        sock.settimeout(SECONDS)
        return answer(sock)


@attempt
def tcp_over_many_paths(facts: Facts) -> str:
    """MPTCP: the same port, another protocol number."""
    mptcp = 262
    try:
        return tcp(place(facts, "tcp_outward"), word(facts), mptcp)
    except OSError as error:
        if facts["canary"] and "not " in str(error):
            raise Skip(f"this kernel has no MPTCP: {error}") from error
        raise


@attempt
def udp_to_the_hosts_loopback(facts: Facts) -> str:
    return udp(place(facts, "udp_loopback"), word(facts))


@attempt
def udp_to_the_hosts_ipv6_loopback(facts: Facts) -> str:
    return udp(place(facts, "udp_loopback6"), word(facts))


@attempt
def udp_to_the_hosts_own_address(facts: Facts) -> str:
    return udp(place(facts, "udp_outward"), word(facts))


@attempt
def udp_to_the_hosts_own_ipv6_address(facts: Facts) -> str:
    return udp(place(facts, "udp_outward6"), word(facts))


@attempt
def udp_without_connecting(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.sendto(word(facts), place(facts, "udp_outward"))
        return answer(sock)


@attempt
def udp_to_everybody(facts: Facts) -> str:
    """Broadcast, on the loopback: it must not leave this machine from the canary."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS / 2)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(word(facts), place(facts, "broadcast"))
        return answer(sock)


@attempt
def udp_to_a_group(facts: Facts) -> str:
    """Multicast, with a time to live of 0: to this machine's members only."""
    address = place(facts, "udp_outward")[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        with contextlib.suppress(OSError):  # no such device: go by the route, if there is one
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sock.sendto(word(facts), place(facts, "multicast"))
        return answer(sock)


@attempt
def ask_a_name_server(facts: Facts) -> str:
    """A DNS question over UDP, the word being the name: the oldest way to carry data out."""
    name = word(facts)
    question = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0)
    question += bytes([len(name)]) + name + b"\x07invalid\0" + struct.pack("!2H", 1, 1)
    return udp(place(facts, "udp_outward"), question)


@attempt
def ask_a_name_server_by_tcp(facts: Facts) -> str:
    name = word(facts)
    question = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0)
    question += bytes([len(name)]) + name + b"\x07invalid\0" + struct.pack("!2H", 1, 1)
    return tcp(place(facts, "tcp_outward"), struct.pack("!H", len(question)) + question)


@attempt
def find_a_route_to_the_metadata_service(facts: Facts) -> str:
    """To connect a datagram socket asks for a route and sends nothing."""
    return _route(facts, socket.AF_INET, "169.254.169.254")


@attempt
def find_a_route_to_the_internet(facts: Facts) -> str:
    return _route(facts, socket.AF_INET, "198.51.100.1")


@attempt
def find_a_route_to_the_ipv6_internet(facts: Facts) -> str:
    return _route(facts, socket.AF_INET6, "2001:db8::1")


def _route(facts: Facts, family: int, address: str) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 80))
        except OSError as error:
            if facts["canary"]:
                raise Skip(f"this machine has no such route itself: {error}") from error
            raise
        return f"a route leads to {address}"


@attempt
def bind_to_the_hosts_device(facts: Facts) -> str:
    if not facts["devices"]:
        raise Skip("this machine has no device but its loopback")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        device = facts["devices"][0].encode()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device + b"\0")
    return f"bound to {device.decode()}"


# -- what is known of the host's network -----------------------------------------------------------


@attempt
def see_the_hosts_devices(facts: Facts) -> str:
    if not facts["devices"]:
        raise Skip("this machine has no device but its loopback")
    seen = {name for _, name in socket.if_nameindex()}
    with contextlib.suppress(OSError):
        seen |= set(os.listdir("/sys/class/net"))
    if found := sorted(seen & set(facts["devices"])):
        return f"sees {', '.join(found)}"
    raise Refused(f"sees {sorted(seen)}", "network namespace: its devices are its own")


@attempt
def see_the_hosts_connections(facts: Facts) -> str:
    """The host's listening port in the tables of any process."""
    port = f":{place(facts, 'tcp_loopback')[1]:04X} "
    looked = 0
    for pid in ("self", *filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            looked += 1
            if port in Path(f"/proc/{pid}/net/tcp").read_text():
                return f"/proc/{pid}/net/tcp shows the host's listener"
    raise Refused(f"not in {looked} tables", "network namespace: its connections are its own")


# -- raw sockets, odd families ---------------------------------------------------------------------


@attempt
def open_a_raw_socket(facts: Facts) -> str:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "a raw ICMP socket"


@attempt
def open_a_raw_ipv6_socket(facts: Facts) -> str:
    socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6).close()
    return "a raw ICMPv6 socket"


@attempt
def send_packets_of_my_own(facts: Facts) -> str:
    """A UDP packet with its IP header written by hand, by IPPROTO_RAW."""
    address, port = place(facts, "udp_loopback")
    text = word(facts)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        home = socket.inet_aton(address)
        packet = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(text), 1, 0, 64, 17, 0) + home + home
        packet += struct.pack("!HHHH", 9, port, 8 + len(text), 0) + text
        sock.sendto(packet, (address, 0))
    return "a packet of our own making was sent"


@attempt
def ping_the_host(facts: Facts) -> str:
    """ICMP by a datagram socket, which some systems let everybody have."""
    address = place(facts, "tcp_outward")[0]
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    except PermissionError as error:
        if facts["canary"]:
            raise Skip("this machine's ping_group_range lets nobody") from error
        raise
    with sock:
        sock.settimeout(SECONDS)
        body = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
        sock.sendto(body, (address, 0))
        sock.recv(100)
    return "the host answered"


@attempt
def listen_to_every_packet(facts: Facts) -> str:
    every = socket.htons(3)
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every).close()
    return "a packet socket"


@attempt
def map_packets_into_memory(facts: Facts) -> str:
    """AF_XDP: a network card's queues in a program's memory."""
    return _family(facts, 44, socket.SOCK_RAW, 0, "AF_XDP")


@attempt
def talk_to_the_hypervisor(facts: Facts) -> str:
    """AF_VSOCK reaches the machine below and its guests; no network namespace holds it back."""
    return _family(facts, 40, socket.SOCK_STREAM, 0, "AF_VSOCK")


@attempt
def use_the_kernels_ciphers(facts: Facts) -> str:
    """AF_ALG: a surface of the kernel that was the way out more than once."""
    return _family(facts, 38, socket.SOCK_SEQPACKET, 0, "AF_ALG")


@attempt
def open_an_sctp_socket(facts: Facts) -> str:
    return _family(facts, socket.AF_INET, socket.SOCK_STREAM, 132, "SCTP")


@attempt
def open_a_dccp_socket(facts: Facts) -> str:
    return _family(facts, socket.AF_INET, 6, 33, "DCCP")


def _family(facts: Facts, family: int, kind: int, protocol: int, name: str) -> str:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        if facts["canary"]:
            raise Skip(f"this kernel has no {name}") from error
        raise Refused(str(error), "seccomp filter, or not in the kernel") from error
    return f"an {name} socket"


ODD = {
    "AF_AX25": (3, 2), "AF_X25": (9, 5), "AF_RDS": (21, 5), "AF_PPPOX": (24, 1), "AF_LLC": (26, 1),
    "AF_CAN": (29, 3), "AF_TIPC": (30, 1), "AF_BLUETOOTH": (31, 3), "AF_PHONET": (35, 2),
    "AF_NFC": (39, 1), "AF_KCM": (41, 5), "AF_QIPCRTR": (42, 2), "AF_SMC": (43, 1),
}  # fmt: skip
"""Family → number and type: corners of the kernel that few people walk."""


@attempt
def open_little_used_families(facts: Facts) -> str:
    last = ""
    for name, (family, kind) in ODD.items():
        try:
            socket.socket(family, kind).close()
            return f"an {name} socket"
        except OSError as error:
            last = f"{name}: {error.strerror}"
    if facts["canary"]:
        raise Skip(f"this kernel has none of {len(ODD)}")
    raise Refused(f"none of {len(ODD)}, last {last}", "seccomp filter, or not in the kernel")
