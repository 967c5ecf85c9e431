"""Attempts to take more than the sandbox's share of disk, descriptors and time."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import Callable

from .driver import Facts, Refused, Skip, attempt
from .taking import KEPT, MB, NICE, RESOURCE, only_with, take

# -- disk ------------------------------------------------------------------------------------------


def fill(folder: str) -> str:
    def function(one: Callable[[], None]) -> None:
        with open(f"{folder}/lis-attack-fill", "wb", buffering=0) as file:
            for _ in range(100):
                if file.write(b"x" * MB) < MB:
                    file.write(b"x" * MB)
                one()

    return take("MB", 80, function)


@attempt
def fill_the_testbed(facts: Facts) -> str:
    return fill(facts["places"]["testbed"])


@attempt
def fill_tmp(facts: Facts) -> str:
    return fill(facts["places"]["tmp"])


@attempt
def fill_home(facts: Facts) -> str:
    return fill(facts["places"]["home"])


@attempt
def fill_shared_memory(facts: Facts) -> str:
    return fill(facts["places"]["shm"])


@attempt
def fill_the_folder_of_the_sockets(facts: Facts) -> str:
    return fill(facts["places"]["run"])


@attempt
def reserve_the_disk(facts: Facts) -> str:
    """fallocate takes blocks and writes nothing; what it leaves is taken in small pieces."""

    def function(one: Callable[[], None]) -> None:
        for n in range(10):
            path = f"{facts['places']['testbed']}/lis-attack-{n}"
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            KEPT.append(fd)
            for part in range(10):
                try:
                    os.posix_fallocate(fd, part * MB, MB)
                except OSError:
                    for piece in range(256):
                        os.posix_fallocate(fd, part * MB + piece * 4096, 4096)
                    raise
                one()

    return take("MB", 80, function)


@attempt
def fill_sparse_files(facts: Facts) -> str:
    """Files that were made large when that cost nothing, filled from behind."""

    def function(one: Callable[[], None]) -> None:
        for n in range(2):
            path = f"{facts['places']['testbed']}/lis-attack-{n}"
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            os.truncate(fd, 60 * MB)
            for part in range(50, 0, -1):
                if os.pwrite(fd, b"x" * MB, part * MB) < MB:
                    raise OSError(errno.ENOSPC, "no room")
                one()

    return take("MB", 80, function)


@attempt
def make_many_files(facts: Facts) -> str:
    def function(one: Callable[[], None]) -> None:
        folder = f"{facts['places']['tmp']}/lis-attack-many"
        os.mkdir(folder)
        fd = os.open(folder, os.O_RDONLY)
        for n in range(6_000):
            os.mknod(str(n), dir_fd=fd)
            one()

    return take("files", 5_000, function)


# -- descriptors, limits, time ---------------------------------------------------------------------


@attempt
def open_many_files(facts: Facts) -> str:
    def function(one: Callable[[], None]) -> None:
        for _ in range(2000):
            os.open("/dev/null", os.O_RDONLY)
            one()

    return take("descriptors", 1000, function)


@attempt
def open_many_terminals(facts: Facts) -> str:
    """All of a machine's terminals are of one pool."""

    def function(one: Callable[[], None]) -> None:
        for _ in range(400):
            os.openpty()
            one()

    return take("terminals", 300, function)


@attempt
def raise_the_limits(facts: Facts) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
    except (ValueError, OSError) as error:
        refused = Refused(f"{error}", "hard limits, and no capability to raise them")
        raise only_with(facts, RESOURCE, refused) from None
    return f"{hard + 1} open files where {hard} were allowed"


@attempt
def run_in_real_time(facts: Facts) -> str:
    """Before everybody else, for as long as it likes."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        refused = Refused(str(error), "no capability for real-time scheduling")
        raise only_with(facts, NICE, refused) from None
    return "SCHED_FIFO"


@attempt
def leave_a_core_dump(facts: Facts) -> str:
    """A file of the process's size, or work for the host's crash handler, which is root."""
    if facts["canary"]:
        raise Skip("shown by a process of the host's own")
    os.chdir(facts["places"]["tmp"])
    before = set(os.listdir("."))
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    new = set(os.listdir(".")) - before
    for name in new:
        if "core" in name:
            os.unlink(name)
    if os.WCOREDUMP(status):
        return f"the crash left a core: {sorted(new)}"
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    if limit != (1, 1):
        return f"no core, but a handler of the host's would be given one: limits {limit}"
    raise Refused("the crash left no core", "a core limit of 1 byte, which stops handlers too")


@attempt
def burn_the_processor(facts: Facts) -> str:
    """Many processes at once for a second; the sandbox of this one has a fifth of a processor."""
    started, pids = time.monotonic(), []
    for _ in range(16):
        pid = os.fork()
        if pid == 0:
            while time.monotonic() < started + 1:
                pass
            os._exit(0)
        pids.append(pid)
    used = 0.0
    for pid in pids:
        usage = os.wait4(pid, 0)[2]
        used += usage.ru_utime + usage.ru_stime
    wall = time.monotonic() - started
    if used > 0.4 * wall:
        return f"{used:.2f} s of processor in {wall:.2f} s"
    raise Refused(f"{used:.2f} s of processor in {wall:.2f} s", "quota of processor time")
