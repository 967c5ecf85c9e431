"""Starts the guest kernel as a child process and waits for its ready byte.

Shared by the backends that start a process: they differ only in the command in front of
`python boot.py`. Readiness is a byte on a pipe, written once the kernel's sockets answer;
`wait_for_ready` of jupyter_client would cost 0.2 s of silence more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lis_kernel.errors import SandboxError, StartTimeout
from lis_kernel.sandbox.reaper import remove_tree
from lis_kernel.sandbox.state import StateDir

__all__ = [
    "GUEST",
    "GUEST_INSIDE",
    "Boot",
    "GuestProcess",
    "KernelEnded",
    "connection",
    "environment",
    "forget",
    "last_words",
    "launch",
    "prepare",
    "wait_ready",
    "write_anew",
]

GUEST = Path(__file__).parent.parent / "guest"
GUEST_INSIDE = "/opt/lis-guest/guest"
"""Where sandboxes with a file system of their own see `GUEST`."""
START_SECONDS = 60.0
REAP_SECONDS = 3.0
INNER_SECONDS = 5.0
"""Most that the end of a jail's processes may take after its outermost one's."""
PASSED_ON = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Host variables without which numerical libraries compute wrongly on some machines."""


class KernelEnded(SandboxError):
    """The kernel's process ended before it was ready."""


def environment() -> dict[str, str]:
    """The whole environment in a sandbox: nothing else of the host's gets in."""
    values = {
        "PATH": "/opt/lis/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/user",
        "USER": "user",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",  # sets print in the same order when the trajectory is replayed
        "PYTHONDONTWRITEBYTECODE": "1",
        "LIS_SANDBOX": "1",
    }
    return values | {name: os.environ[name] for name in PASSED_ON if name in os.environ}


class GuestProcess:
    """A running guest kernel; fits `protocols.KernelProcess`."""

    def __init__(
        self, process: subprocess.Popen[bytes], info: dict[str, Any], owner: int, log: Path
    ) -> None:
        self.connection_info = info
        self._process = process
        self._owner = owner
        self._log = log
        self._inner: list[int] = []

    def watch_inner(self) -> None:
        """Have `wait` wait for the jail's own init as well: it ends last of all inside."""
        with contextlib.suppress(OSError):  # a kernel that does not tell, or one that has ended
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            self._inner += [os.pidfd_open(int(pid)) for pid in children.split()]

    @property
    def pid(self) -> int:
        """Of the outermost process; it leads a process group of its own."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def wait(self) -> int:
        await self._ended()
        status = self._process.wait()
        deadline = time.monotonic() + INNER_SECONDS
        while self._inner and time.monotonic() < deadline:
            poll = select.poll()
            poll.register(self._inner[0], select.POLLIN)
            if poll.poll(0):  # its process has ended
                os.close(self._inner.pop(0))
            else:
                await asyncio.sleep(0.001)
        return status

    async def _ended(self) -> None:
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:  # it was reaped
            return
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(fd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def kill(self) -> None:
        """Close the owner pipe, then SIGKILL the whole process group."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        if self.alive:
            _kill_group(self._process.pid)

    def reap(self) -> None:
        """Wait for what was killed: until then its control group is busy. Blocks for a moment."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_SECONDS)

    def log(self) -> str:
        """The last lines that the process itself wrote, for error messages."""
        return last_words(self._log)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def last_words(log: Path) -> str:
    """The end of a log that lies where the sandbox can write: no symlink is followed."""
    with contextlib.suppress(OSError):
        fd = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                file.seek(max(0, os.fstat(fd).st_size - 2000))
                return file.read(2000).decode("utf-8", "replace").strip()
    return ""


@dataclass(frozen=True)
class Boot:
    """What the guest is told of how its kernel shall be.

    `cwd` is its first directory, `caps` are its output caps, `key` signs its messages. `setup`
    brings in the shell and the editor, for notebooks without a setup cell; `network` is what
    `Network.guest` says; `packages` asks for an environment that `pip install` can write, where
    `no_system` says why apt-get cannot be used and what to do instead, if that is so.
    `rlimits`, `landlock` and `seccomp` are the walls that the guest puts up itself. `held` names
    cells that it does not run the first time, see `guest/held.py`.
    """

    cwd: str
    caps: Mapping[str, int]
    key: str
    setup: bool = False
    network: Mapping[str, Any] | None = None
    packages: bool = False
    no_system: str | None = None
    rlimits: Mapping[str, int] = field(default_factory=dict)
    landlock: Mapping[str, Any] | None = None
    seccomp: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)


async def launch(
    prefix: Sequence[str],
    state: StateDir,
    *,
    python: str,
    guest: str,
    run_inside: str,
    boot: Boot,
    env: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    program: str = "boot.py",
    seconds: float = START_SECONDS,
) -> GuestProcess:
    """Run `prefix + python guest/boot.py` and wait until its kernel answers.

    `run_inside` is where the sandbox sees the `run` folder of its files; `program` is the file of
    `guest` that is run in place of boot.py, and `seconds` is what it may take.

    Raises:
        SandboxError: the process ended before it was ready; the message holds its last words.
        StartTimeout: it said nothing in time.
    """
    run = state.files / "run"
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        ready_read, ready_write = os.pipe()
        owner_read, owner_write = os.pipe()
        for fd, stack in (
            (ready_read, ours),
            (owner_write, ours),
            (ready_write, theirs),
            (owner_read, theirs),
        ):
            stack.callback(os.close, fd)
        try:
            info = prepare(run, run_inside, boot, ready_fd=ready_write, owner_fd=owner_read)
            log = state.create("kernel.log")
            theirs.callback(os.close, log)
            process = _spawn(
                [*prefix, python, f"{guest}/{program}", f"{run_inside}/boot.json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env),
                pass_fds=(ready_write, owner_read, *pass_fds),
                start_new_session=True,
            )
        except OSError as error:
            what = prefix[0] if prefix else python
            raise SandboxError(f"cannot start {what}: {error}") from error
        ours.pop_all()  # `wait_ready` and the process close them
    facts = {**info, "ip": str(run / "k")}
    guest_process = GuestProcess(process, facts, owner_write, run / "kernel.log")
    await wait_ready(guest_process, ready_read, seconds)
    guest_process.watch_inner()
    return guest_process


def _spawn(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program; not asyncio's way, which a cancel can leave waiting for ever."""
    return subprocess.Popen(argv, **options)


def prepare(
    run: Path, run_inside: str, boot: Boot, *, ready_fd: int, owner_fd: int
) -> dict[str, Any]:
    """Write what `guest/boot.py` reads into `run`; the connection's facts, but for the host's `ip`.

    The descriptors have these numbers in the kernel's process.
    """
    forget(run)
    info = connection(boot.key)
    write_anew(run / "connection.json", {**info, "ip": f"{run_inside}/k"})
    descriptors = {"ready_fd": ready_fd, "owner_fd": owner_fd}
    file = {"connection_file": f"{run_inside}/connection.json"}
    write_anew(run / "boot.json", {**asdict(boot), **descriptors, **file})
    return info


def forget(run: Path) -> None:
    """Before a restart: remove the dead kernel's sockets, or what a cell made there."""
    for old in run.glob("k-*"):
        remove_tree(old)


def connection(key: str) -> dict[str, Any]:
    """A connection file's content, but for `ip`."""
    return {
        "transport": "ipc",
        "shell_port": 1,
        "iopub_port": 2,
        "stdin_port": 3,
        "control_port": 4,
        "hb_port": 5,
        "key": key,
        "signature_scheme": "hmac-sha256",
        "kernel_name": "lis",
    }


def write_anew(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file anew: the sandbox may have put a symlink in its place."""
    remove_tree(path)
    with path.open("x") as file:
        json.dump(content, file)
    path.chmod(0o644)


class Starting(Protocol):
    """A kernel's process that is not ready yet."""

    def kill(self) -> None: ...
    async def wait(self) -> int: ...
    def log(self) -> str: ...


async def wait_ready(process: Starting, ready_fd: int, seconds: float = START_SECONDS) -> None:
    """Wait for the ready byte and close `ready_fd`; a process that is not ready is killed.

    Raises:
        KernelEnded: it ended first; the message holds its last words.
        StartTimeout: it said nothing for a minute.
    """
    try:
        async with asyncio.timeout(seconds):
            ready = await _read_byte(ready_fd)
    except TimeoutError:
        process.kill()
        raise StartTimeout(
            f"the kernel was not ready after {seconds:.0f} s. {process.log()}"
        ) from None
    except BaseException:
        process.kill()
        raise
    finally:
        os.close(ready_fd)
    if not ready:
        process.kill()
        status = await process.wait()
        raise KernelEnded(f"the kernel ended with status {status}: {process.log()}")


async def _read_byte(fd: int) -> bytes:
    """One byte of a pipe, or nothing at its end, without blocking the loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def readable() -> None:
        if not done.done():
            done.set_result(os.read(fd, 1))

    loop.add_reader(fd, readable)
    try:
        return await done
    finally:
        loop.remove_reader(fd)
