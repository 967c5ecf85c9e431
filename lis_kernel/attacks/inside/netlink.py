"""Attempts to rebuild the network, and to reach it by a file, a unix socket or another namespace.

Requests by netlink are written by hand. Where nothing forbids it (the canary) they are made in a
network namespace of the attempt's own, so that they show the power and harm nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from functools import partial

from .driver import Facts, Refused, Skip, attempt, syscall
from .paths import connect_to_any
from .words import SECONDS, first, place, tcp, tell, word

NEW_NETWORK = 0x40000000
ROUTE, NETFILTER, XFRM = 0, 12, 6
REQUEST, ACKNOWLEDGE, CREATE, EXCLUSIVE = 0x1, 0x4, 0x400, 0x200
NEW_LINK, NEW_ADDRESS, NEW_ROUTE, NEW_RULE = 16, 20, 24, 32
UP = 1


def private_network(facts: Facts) -> None:
    """In the canary, keep what follows out of the host's network."""
    if facts["canary"]:
        syscall((272, 97), NEW_NETWORK)


def netlink(protocol: int, kind: int, flags: int, body: bytes) -> str:
    """One request; evidence that it was carried out. Raises: OSError: as the kernel answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(SECONDS)
        sock.bind((0, 0))
        flags |= REQUEST | ACKNOWLEDGE
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        said = sock.recv(4096)
    number = -struct.unpack_from("=i", said, 16)[0]
    if number:
        raise OSError(number, os.strerror(number))
    return "the kernel did it"


def attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


LOOPBACK = 1


def link(index: int, flags: int, change: int) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


@attempt
def bring_a_device_up(facts: Facts) -> str:
    private_network(facts)
    return netlink(ROUTE, NEW_LINK, 0, link(LOOPBACK, UP, UP))


@attempt
def bring_a_device_down_by_ioctl(facts: Facts) -> str:
    private_network(facts)
    set_flags = 0x8914
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, set_flags, struct.pack("16sH14x", b"lo", 0))
    return "SIOCSIFFLAGS"


@attempt
def add_an_address(facts: Facts) -> str:
    """The metadata service's own, say."""
    private_network(facts)
    address = socket.inet_aton("169.254.169.254")
    body = struct.pack("=BBBBi", socket.AF_INET, 32, 0, 0, LOOPBACK)
    body += attribute(2, address) + attribute(1, address)
    return netlink(ROUTE, NEW_ADDRESS, CREATE | EXCLUSIVE, body)


@attempt
def add_a_route(facts: Facts) -> str:
    private_network(facts)
    with contextlib.suppress(OSError):  # a route needs its device up
        netlink(ROUTE, NEW_LINK, 0, link(LOOPBACK, UP, UP))
    main_table, static, host, unicast = 254, 4, 253, 1
    body = struct.pack("=8BI", socket.AF_INET, 32, 0, 0, main_table, static, host, unicast, 0)
    body += attribute(1, socket.inet_aton("198.51.100.1"))
    body += attribute(4, struct.pack("=i", LOOPBACK))
    return netlink(ROUTE, NEW_ROUTE, CREATE, body)


@attempt
def make_a_pair_of_devices(facts: Facts) -> str:
    """A veth pair: one end here, the other to be moved to the host's namespace."""
    return _device(facts, b"veth")


@attempt
def make_a_bridge(facts: Facts) -> str:
    return _device(facts, b"bridge")


@attempt
def make_a_dummy_device(facts: Facts) -> str:
    return _device(facts, b"dummy")


def _device(facts: Facts, kind: bytes) -> str:
    private_network(facts)
    body = link(0, 0, 0) + attribute(3, b"lisattack\0") + attribute(18, attribute(1, kind))
    try:
        return netlink(ROUTE, NEW_LINK, CREATE | EXCLUSIVE, body)
    except OSError as error:
        if facts["canary"] and error.errno == errno.EOPNOTSUPP:
            raise Skip(f"this kernel has no {kind.decode()} devices") from error
        raise


@attempt
def change_the_firewall(facts: Facts) -> str:
    """nf_tables: the permission is asked before the request, a nonsense one, is looked at."""
    private_network(facts)
    nft_new_table = 10 << 8
    return _permitted(facts, NETFILTER, nft_new_table, struct.pack("=BBH", 2, 0, 0))


@attempt
def change_the_encryption_of_packets(facts: Facts) -> str:
    private_network(facts)
    new_policy = 0x13
    return _permitted(facts, XFRM, new_policy, bytes(8))


def _permitted(facts: Facts, protocol: int, kind: int, body: bytes) -> str:
    try:
        return netlink(protocol, kind, CREATE, body)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT and facts["canary"]:
            raise Skip("this kernel has no such netlink") from error
        if error.errno in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT):
            raise
        return f"permitted; then {error.strerror}"


@attempt
def open_a_tunnel(facts: Facts) -> str:
    """/dev/net/tun, or one made by mknod; then an interface of our own."""
    private_network(facts)
    tun, no_header, set_interface = 1, 0x1000, 0x400454CA
    path, made = "/dev/net/tun", f"tun-{os.getpid()}"
    if not os.path.exists(path):
        os.mknod(made, stat.S_IFCHR | 0o600, os.makedev(10, 200))
        path = made
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError as error:
        if facts["canary"]:
            raise Skip(f"this machine has no tunnels: {error.strerror}") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(made)
    fcntl.ioctl(fd, set_interface, struct.pack("16sH14x", b"lisattack", tun | no_header))
    return "a tunnel of our own"


@attempt
def enter_the_hosts_network(facts: Facts) -> str:
    """setns to the network of a process of the host, or of init; then to the host's loopback."""
    for pid in (facts["victim"], facts["init"]):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            syscall((308, 268), fd, NEW_NETWORK)
    return tcp(place(facts, "tcp_loopback"), word(facts))


@attempt
def enter_the_hosts_network_by_pidfd(facts: Facts) -> str:
    fd = syscall((434, 434), facts["init"], 0)
    syscall((308, 268), fd, NEW_NETWORK)
    return tcp(place(facts, "tcp_loopback"), word(facts))


# -- unix sockets ----------------------------------------------------------------------------------


@attempt
def talk_to_a_unix_socket(facts: Facts) -> str:
    return tell(socket.socket(socket.AF_UNIX), place(facts, "unix"), word(facts))


@attempt
def talk_to_an_abstract_socket(facts: Facts) -> str:
    """A name without a file: no mount namespace holds it back."""
    return abstract(place(facts, "abstract"), word(facts))


def abstract(name: str, text: bytes) -> str:
    try:
        return tell(socket.socket(socket.AF_UNIX), name, text)
    except ConnectionRefusedError as error:
        raise Refused(str(error), "network namespace: abstract names are its own") from error


@attempt
def see_abstract_sockets(facts: Facts) -> str:
    name = place(facts, "abstract").replace("\0", "@")
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        if name in file.read():
            return "/proc/net/unix lists the host's"
    raise Refused("not listed", "network namespace: abstract names are its own")


@attempt
def take_a_descriptor_from_the_host(facts: Facts) -> str:
    """SCM_RIGHTS: the host's service hands an open file to whoever connects."""
    last = ""
    for name in ("unix", "abstract"):
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(SECONDS)
                sock.connect(place(facts, name))
                _, fds, _, _ = socket.recv_fds(sock, 4096, 4)
                return os.read(fds[0], 1000).decode()
        except OSError as error:
            last = f"{name}: {error.strerror}"
    raise Refused(last, "mount and network namespace: neither socket is there")


@attempt
def talk_to_the_ssh_agent(facts: Facts) -> str:
    """Where the host's agent is, and where the environment says that it is."""
    text = word(facts)
    places = [place(facts, "agent"), os.environ.get("SSH_AUTH_SOCK", "")]
    return first(
        [partial(tell, socket.socket(socket.AF_UNIX), path, text) for path in places if path],
        "mount namespace: no socket, and no variable",
    )


KNOWN = (
    "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
    "/run/podman/podman.sock", "/run/dbus/system_bus_socket", "/run/systemd/private",
    "/run/systemd/journal/socket", "/run/systemd/journal/dev-log", "/dev/log", "/run/snapd.socket",
    "/run/user/0/bus", "/run/user/1000/bus", "/tmp/.X11-unix/X0", "\0/tmp/.X11-unix/X0",
    "/run/user/1000/wayland-0", "/run/user/1000/gnupg/S.gpg-agent", "/run/nscd/socket",
    "/run/udev/control", "/run/lvm/lvmpolld.socket", "/run/acpid.socket", "/run/cups/cups.sock",
)  # fmt: skip


@attempt
def talk_to_known_services(facts: Facts) -> str:
    """Docker's daemon, the system's bus, the journal, the display …; connects and says nothing."""
    for path in (*KNOWN, facts["places"]["agent"]):  # the last is sure to be on the host
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
                sock.settimeout(SECONDS)
                sock.connect(path)
                return f"connected to {path}"
    raise Refused(f"none of {len(KNOWN)} is there", "mount namespace: no socket of the host")


@attempt
def search_for_sockets(facts: Facts) -> str:
    """Every unix socket in the file system, but for the kernel's own."""
    return connect_to_any(
        facts["socket_roots"], facts["own_run"], "mount namespace: no socket of the host"
    )
