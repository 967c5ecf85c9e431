"""Attempts at what forks the sandboxes of the zygote: the warden's socket, the zygote itself.

They are told the real ones' paths and process ids, and a bait's beside them: where no zygote runs,
and in the canary, the bait stands for it. Registered by `neighbours.py`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from .driver import Facts, Refused, attempt, syscall
from .words import first

PLACES = "mount namespace: the warden's socket is not in the jail"
PROCESSES = "pid namespace: the zygote is not in it"
NAMES = (b"zygote.py", b"lis_kernel.sandbox.warden")


def told(facts: Facts) -> Iterator[int]:
    """The process ids that are what they are said to be, as seen here."""
    for pid in facts["forkers"]["pids"]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if any(name in file.read() for name in NAMES):
                yield int(pid)


def one_of(facts: Facts) -> int:
    """Raises: Refused: none of them is to be seen."""
    for pid in told(facts):
        return pid
    raise Refused(f"none of {len(facts['forkers']['pids'])} process ids is a zygote's", PROCESSES)


@attempt
def ask_the_warden_for_a_sandbox(facts: Facts) -> str:
    """As an owner does: a name, and a socket for the fork to listen to."""

    def ask(path: str) -> str:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(path)
            socket.send_fds(sock, [b"0000cafe"], [theirs.fileno()])
        return f"{path} was asked"

    paths = facts["forkers"]["sockets"]
    return first([lambda p=p: ask(p) for p in paths], PLACES)  # type: ignore[misc]


@attempt
def speak_to_the_zygote_through_a_descriptor(facts: Facts) -> str:
    """Any packet socket that this process or its parents were left with, and the bait's."""
    looked = 0
    for pid in ("self", str(os.getppid()), "1", *map(str, told(facts))):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                looked += 1
                with contextlib.suppress(OSError):
                    taken = int(fd) if pid == "self" else _taken(int(pid), int(fd))
                    with socket.socket(fileno=os.dup(taken)) as sock:
                        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET:
                            return f"descriptor {fd} of process {pid} is a packet socket"
    raise Refused(f"{looked} descriptors, none of them", "no fork keeps the zygote's socket")


def _taken(pid: int, fd: int) -> int:
    """A copy of another process's descriptor."""
    handle = syscall((434, 434), pid, 0)
    try:
        return syscall((438, 438), handle, fd, 0)
    finally:
        os.close(handle)


@attempt
def search_for_the_zygote(facts: Facts) -> str:
    pids = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
            if any(word.endswith(NAMES) for word in words):
                return f"process {pid} is one"
    raise Refused(f"{len(pids)} processes, none of them", PROCESSES)


@attempt
def read_the_zygotes_memory(facts: Facts) -> str:
    with open(f"/proc/{one_of(facts)}/mem", "rb"):
        return "opened /proc/PID/mem"


@attempt
def trace_the_zygote(facts: Facts) -> str:
    seize = 0x4206
    syscall((101, 117), seize, one_of(facts), 0, 0)
    return "ptrace attached"


@attempt
def stop_the_zygote(facts: Facts) -> str:
    os.kill(one_of(facts), 0)
    return "a signal would reach it"
