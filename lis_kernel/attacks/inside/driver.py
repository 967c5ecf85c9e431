"""Runs one family's attempts inside the sandbox, each in a child of its own, and reports.

One JSON line an attempt: `{"name", "nonce", "outcome", "evidence", "errno"}`. The outcome is `got`
(the attempt says that it got through; the host may know better), `refused`, `skipped` or `broken`
(it proved nothing: a fault of its own, or no end in time). The nonce shows that this run said it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

SECONDS = 8.0
"""An attempt that takes longer is broken."""

Facts = dict[str, Any]
ATTEMPTS: dict[str, Callable[[Facts], str]] = {}


class Refused(Exception):
    """The attempt ran and was stopped; the text is the evidence, `wall` what stopped it."""

    def __init__(self, evidence: str, wall: str = "") -> None:
        super().__init__(evidence)
        self.wall = wall


class Skip(Exception):
    """The attempt cannot be made here; the text says why."""


def attempt(function: Callable[[Facts], str]) -> Callable[[Facts], str]:
    """Register an attempt: it returns evidence that it got through, or raises OSError/Refused."""
    ATTEMPTS[function.__name__] = function
    return function


# -- system calls that Python has no name for ------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)


def syscall(numbers: tuple[int, int], *arguments: Any) -> int:
    """Call the kernel by number (x86_64, aarch64).

    Raises:
        Skip: the architecture has no such call (a negative number).
        OSError: as the kernel answers.
    """
    if numbers[MACHINE] < 0:
        raise Skip(f"{platform.machine()} has no such system call")
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = int(LIBC.syscall(ctypes.c_long(numbers[MACHINE]), *plain))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def allowed_but_wrong(numbers: tuple[int, int], *arguments: object) -> str:
    """Make a call whose arguments are wrong: any answer but a refusal shows the permission."""
    try:
        syscall(numbers, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        return f"permitted; then {error.strerror}"
    return "permitted"


def private_mounts() -> None:
    """Where nothing forbids it (the canary), keep what follows out of the host's mounts."""
    new_mounts, private = 0x20000, 0x40000 | 0x4000
    with contextlib.suppress(OSError):
        syscall((272, 97), new_mounts)
        LIBC.mount(b"none", b"/", None, ctypes.c_ulong(private), None)


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    syscall(
        (165, 40), source.encode(), target.encode(), kind.encode(), flags, data.encode() or None
    )


# -- the driver ------------------------------------------------------------------------------------


def main(family: str, facts: Facts) -> None:
    """Run every attempt of `family`, or those that `facts["only"]` names, and print the reports."""
    module = import_module(f"{__package__}.{family}")
    for part in getattr(module, "ALSO", ()):  # where a family has more than one file
        import_module(f"{__package__}.{part}")
    driver = sys.modules[f"{__package__}.driver"]  # not this one, which is __main__
    for name, function in driver.ATTEMPTS.items():
        if not facts.get("only") or name in facts["only"]:
            report = {"name": name, "nonce": facts["nonce"], **driver.in_child(function, facts)}
            print(json.dumps(report), flush=True)


def in_child(function: Callable[[Facts], str], facts: Facts) -> dict[str, Any]:
    """Run one attempt in a forked child, and end whatever it leaves in its process group."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(function, facts, read, write)
    os.close(write)
    said = _hear(read, SECONDS)
    os.close(read)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    try:
        report: dict[str, Any] = json.loads(said)
        return report
    except ValueError:
        pass
    if os.WIFSIGNALED(status) and (number := os.WTERMSIG(status)) != signal.SIGKILL:
        name = signal.Signals(number).name
        return {"outcome": "refused", "evidence": f"ended by {name}", "errno": name}
    return {"outcome": "broken", "evidence": f"no report within {SECONDS:g} s (status {status})"}


def _child(function: Callable[[Facts], str], facts: Facts, read: int, write: int) -> NoReturn:
    try:
        os.setpgid(0, 0)
        os.close(read)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.write(write, json.dumps(_outcome(function, facts)).encode())
    finally:
        os._exit(0)


def _outcome(function: Callable[[Facts], str], facts: Facts) -> dict[str, Any]:
    try:
        if evidence := function(facts):
            return {"outcome": "got", "evidence": evidence[:300]}
        return {"outcome": "broken", "evidence": "it neither got through nor was refused"}
    except Skip as reason:
        return {"outcome": "skipped", "evidence": str(reason)}
    except Refused as refused:
        return {"outcome": "refused", "evidence": str(refused)[:300], "wall": refused.wall}
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "OSError")
        return {"outcome": "refused", "evidence": str(error)[:300], "errno": name}
    except BaseException as error:
        return {"outcome": "broken", "evidence": f"{type(error).__name__}: {error}"[:300]}


def _hear(read: int, seconds: float) -> bytes:
    said, deadline = b"", time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([read], [], [], left)[0]:
            break
        piece = os.read(read, 65536)
        if not piece:
            break
        said += piece
        with contextlib.suppress(ValueError):  # whole, though a grandchild may hold the pipe
            json.loads(said)
            break
    return said


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        main(sys.argv[1], json.load(file))
