"""Attempts to take more than the sandbox's share: of processes and of memory.

Each takes up to a bounded amount and says how much it got, see `taking.py`; what is enough is more
than the tight limits allow. Disk, descriptors and time are in `filling.py`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import time
from collections.abc import Callable

from .driver import LIBC, Facts, Refused, attempt
from .taking import KEPT, LEAVE, LOCK, MB, hold, only_with, take

ALSO = ("filling",)

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
        raise only_with(facts, LOCK, refused) from None
