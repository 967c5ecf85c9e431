"""Attempts to take more than the sandbox's share: of processes, memory, disk, descriptors, time.

Each takes up to a bounded amount, in a child of its own which the kernel ends first when memory
runs out, and says how much it got; `enough` is more than the tight limits allow.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import time
from collections.abc import Callable

from .driver import LIBC, Facts, Refused, Skip, attempt

MB = 1 << 20
LEAVE = 60.0
KEPT: list[object] = []
"""What a child took and must not give back before it ends."""
SECONDS = 6.5
"""What is not there by then is not counted."""


def take(
    what: str, enough: int, function: Callable[[Callable[[], None]], None], wall: str = ""
) -> str:
    """Run `function` in a child; it is given what to call for each unit that it got."""
    read, write = os.pipe2(os.O_NONBLOCK)
    pid = os.fork()
    if pid == 0:
        os._exit(_taker(function, write))
    deadline = time.monotonic() + SECONDS
    ended, status = 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)
    try:
        got = len(os.read(read, 1 << 16))
    except BlockingIOError:
        got = 0
    os.close(read)
    os.close(write)
    code = os.waitstatus_to_exitcode(status)
    why = signal.Signals(-code).name if code < 0 else errno.errorcode.get(code, "")
    if got >= enough:
        return f"{got} {what}"
    if not why:
        raise RuntimeError(f"only {got} {what}, and nothing stopped it")
    raise Refused(f"stopped after {got} {what} by {why}", f"{wall or WALLS.get(why, why)} ({why})")


WALLS = {
    "SIGKILL": "limit on memory",
    "ENOMEM": "limit on memory",
    "EAGAIN": "limit on processes",
    "ENOSPC": "limit of the disk",
    "EFBIG": "limit of one file",
    "EMFILE": "limit on open files",
    "ENOBUFS": "limit on memory",
}


def _taker(function: Callable[[Callable[[], None]], None], write: int) -> int:
    try:
        end_me_first()
        function(lambda: _count(write))
    except OSError as error:
        return error.errno or 255
    except MemoryError:
        return errno.ENOMEM
    return 0


def _count(write: int) -> None:
    os.write(write, b".")


def end_me_first() -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def hold(children: int, function: Callable[[], int], one: Callable[[], None]) -> None:
    """Run `function` in many children that keep what they get, and count it while they live.

    Raises: OSError: EAGAIN or ENOMEM, where a child could not be started or was killed.
    """
    read, write = os.pipe()
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, b"%d %d\n" % (os.getpid(), function()))
            except (OSError, MemoryError):
                os.write(write, b"%d 0\n" % os.getpid())
            time.sleep(LEAVE)
            os._exit(0)
        pids.append(pid)
    os.set_blocking(read, False)
    said, alive = b"", set(pids)
    deadline = time.monotonic() + SECONDS - 1
    while time.monotonic() < deadline and said.count(b"\n") < len(pids):
        try:
            said += os.read(read, 1 << 16)
        except BlockingIOError:
            time.sleep(0.01)
        for pid in list(alive):
            if os.waitpid(pid, os.WNOHANG)[0]:
                alive.discard(pid)
        if len(alive) < len(pids):
            break
    got = dict(line.split() for line in said.splitlines() if line.count(b" ") == 1)
    for pid in pids:
        if pid in alive and os.waitpid(pid, os.WNOHANG)[0] == 0:
            for _ in range(int(got.get(b"%d" % pid, 0))):
                one()
        else:
            alive.discard(pid)
    if len(alive) < len(pids):
        raise OSError(errno.ENOMEM, "a child was killed")


# -- processes -------------------------------------------------------------------------------------


@attempt
def start_many_processes(facts: Facts) -> str:
    def function(one: Callable[[], None]) -> None:
        for _ in range(300):
            if os.fork() == 0:
                time.sleep(LEAVE)
                os._exit(0)
            one()

    return take("processes", 200, function)


@attempt
def fork_like_a_bomb(facts: Facts) -> str:
    """Each child forks as its parent does: 2^8 of them."""

    def function(one: Callable[[], None]) -> None:
        first, failed = os.getpid(), mmap.mmap(-1, 1)
        for _ in range(8):
            try:
                if os.fork() == 0:
                    one()
            except OSError as error:
                failed[0] = error.errno or 255
        time.sleep(0.3 if os.getpid() == first else LEAVE)
        os._exit(failed[0])

    return take("processes", 200, function)


@attempt
def start_ten_thousand_threads(facts: Facts) -> str:
    def function(one: Callable[[], None]) -> None:
        attributes = ctypes.create_string_buffer(128)
        LIBC.pthread_attr_init(attributes)
        LIBC.pthread_attr_setstacksize(attributes, ctypes.c_size_t(65536))
        thread = ctypes.c_ulong()
        for _ in range(10_000):
            number = LIBC.pthread_create(ctypes.byref(thread), attributes, LIBC.pause, None)
            if number:
                raise OSError(number, "pthread_create")
            one()

    return take("threads", 1000, function)


@attempt
def leave_zombies(facts: Facts) -> str:
    """Children that have ended and are never asked for."""

    def function(one: Callable[[], None]) -> None:
        for _ in range(300):
            if os.fork() == 0:
                os._exit(0)
            one()

    return take("zombies", 200, function)


# -- memory ----------------------------------------------------------------------------------------


@attempt
def touch_memory(facts: Facts) -> str:
    def function(one: Callable[[], None]) -> None:
        pieces = []
        for _ in range(700):
            pieces.append(b"x" * MB)
            one()

    return take("MB", 600, function)


@attempt
def touch_memory_in_many_processes(facts: Facts) -> str:
    def touch() -> int:
        KEPT.append([b"x" * MB for _ in range(70)])
        return 70

    def function(one: Callable[[], None]) -> None:
        hold(10, touch, one)

    return take("MB", 600, function)


@attempt
def fill_files_without_a_name(facts: Facts) -> str:
    """memfd_create: memory that is no process's own."""

    def function(one: Callable[[], None]) -> None:
        for _ in range(14):
            fd = os.memfd_create("lis-attack")
            for _ in range(50):
                os.write(fd, b"x" * MB)
                one()

    return take("MB", 600, function)


@attempt
def fill_shared_segments(facts: Facts) -> str:
    """System V segments live on without a process, but not these: they are marked at once."""

    def function(one: Callable[[], None]) -> None:
        LIBC.shmat.restype = ctypes.c_void_p
        for _ in range(7):
            segment = LIBC.shmget(0, ctypes.c_size_t(100 * MB), 0o600)
            if segment < 0:
                raise OSError(ctypes.get_errno(), "shmget")
            address = LIBC.shmat(segment, None, 0)
            LIBC.shmctl(segment, 0, None)
            for n in range(100):
                ctypes.memset(address + n * MB, 1, MB)
                one()

    return take("MB", 600, function)


@attempt
def share_anonymous_memory(facts: Facts) -> str:
    """Shared mappings, which no process's own limit on data counts."""

    def function(one: Callable[[], None]) -> None:
        pieces = []
        for _ in range(700):
            pieces.append(mmap.mmap(-1, MB))
            pieces[-1].write(b"x" * MB)
            one()

    return take("MB", 600, function)


@attempt
def fill_socket_buffers(facts: Facts) -> str:
    """Memory of the kernel's: what was sent and nobody reads."""

    def fill() -> int:
        pairs, sent, piece = [], 0, bytes(32 << 10)
        for _ in range(220):
            pair = socket.socketpair()
            pairs.append(pair)
            for end in pair:
                end.setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                try:
                    while sent < 55 * MB:
                        sent += end.send(piece)
                except BlockingIOError:
                    pass
        KEPT.append(pairs)
        return sent // MB

    return take("MB", 600, lambda one: hold(12, fill, one))


@attempt
def lock_memory(facts: Facts) -> str:
    """Pages that can never be swapped out."""

    def function(one: Callable[[], None]) -> None:
        for _ in range(64):
            place = mmap.mmap(-1, MB)
            KEPT.append(place)
            address = ctypes.addressof(ctypes.c_char.from_buffer(place))
            if LIBC.mlock(ctypes.c_void_p(address), ctypes.c_size_t(MB)):
                raise OSError(ctypes.get_errno(), "mlock")
            one()

    try:
        return take("MB", 32, function, "limit on locked memory")
    except Refused as refused:
        raise _only_with(facts, LOCK, refused) from None


def _only_with(facts: Facts, capability: int, refused: Exception) -> Exception:
    """The canary cannot show what even root may not, in a container for example."""
    with open("/proc/self/status") as file:
        held = next(int(x.split()[1], 16) for x in file if x.startswith("CapEff"))
    if facts["canary"] and not held >> capability & 1:
        return Skip("only root with all capabilities could show it")
    return refused


LOCK, NICE, RESOURCE = 14, 23, 24
"""Numbers of CAP_IPC_LOCK, CAP_SYS_NICE and CAP_SYS_RESOURCE."""


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
        raise _only_with(facts, RESOURCE, refused) from None
    return f"{hard + 1} open files where {hard} were allowed"


@attempt
def run_in_real_time(facts: Facts) -> str:
    """Before everybody else, for as long as it likes."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        refused = Refused(str(error), "no capability for real-time scheduling")
        raise _only_with(facts, NICE, refused) from None
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
