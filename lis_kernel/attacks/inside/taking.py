"""How an attempt takes more and more of something, and how far it came.

What is taken is taken in a child of its own, which the kernel ends first when memory runs out.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable

from .driver import Facts, Refused, Skip

LOCK, NICE, RESOURCE = 14, 23, 24
"""Numbers of CAP_IPC_LOCK, CAP_SYS_NICE and CAP_SYS_RESOURCE."""
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


def only_with(facts: Facts, capability: int, refused: Exception) -> Exception:
    """The canary cannot show what even root may not, in a container for example."""
    with open("/proc/self/status") as file:
        held = next(int(x.split()[1], 16) for x in file if x.startswith("CapEff"))
    if facts["canary"] and not held >> capability & 1:
        return Skip("only root with all capabilities could show it")
    return refused
