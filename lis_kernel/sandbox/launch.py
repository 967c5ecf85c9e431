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
import secrets
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lis_kernel.errors import SandboxError, StartTimeout
from lis_kernel.sandbox.state import StateDir

__all__ = ["GUEST", "GuestProcess", "launch"]

GUEST = Path(__file__).parent.parent / "guest"
START_SECONDS = 60.0


class GuestProcess:
    """A running guest kernel; fits `protocols.KernelProcess`."""

    def __init__(
        self, process: asyncio.subprocess.Process, info: dict[str, Any], owner: int, log: int
    ) -> None:
        self.connection_info = info
        self._process = process
        self._owner = owner
        self._log = log

    @property
    def pid(self) -> int:
        """Of the outermost process; it leads a process group of its own."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        """Close the owner pipe, then SIGKILL the whole process group."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def log(self) -> str:
        """The last lines that the process itself wrote, for error messages."""
        with contextlib.suppress(OSError):
            start = max(os.fstat(self._log).st_size - 2000, 0)
            return os.pread(self._log, 2000, start).decode("utf-8", "replace").strip()
        return ""

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._log)


async def launch(
    prefix: Sequence[str],
    state: StateDir,
    *,
    python: str,
    guest: str,
    run_inside: str,
    cwd: str,
    caps: Mapping[str, int],
    env: Mapping[str, str],
    walls: Mapping[str, Any] | None = None,
    pass_fds: Sequence[int] = (),
) -> GuestProcess:
    """Run `prefix + python guest/boot.py` and wait until its kernel answers.

    `run_inside` is where the sandbox sees the state dir's `run` folder; `walls` is what
    `guest/boot.py` puts up itself: `rlimits`, `landlock`.

    Raises:
        SandboxError: the process ended before it was ready; the message holds its last words.
        StartTimeout: it said nothing for a minute.
    """
    run = state.files / "run"
    for old in run.glob("k-*"):  # a restart: the dead kernel's sockets
        old.unlink()
    key = secrets.token_hex(16)
    info: dict[str, Any] = {
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
    ready_read, ready_write = os.pipe()
    owner_read, owner_write = os.pipe()
    boot = {
        "connection_file": f"{run_inside}/connection.json",
        "ready_fd": ready_write,
        "owner_fd": owner_read,
        "cwd": cwd,
        "caps": dict(caps),
        **(walls or {}),
    }
    log = -1
    try:
        state.write("connection.json", json.dumps({**info, "ip": f"{run_inside}/k"}))
        state.write("boot.json", json.dumps(boot))
        log = state.create("kernel.log")
        process = await asyncio.create_subprocess_exec(
            *prefix,
            python,
            f"{guest}/boot.py",
            f"{run_inside}/boot.json",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(env),
            pass_fds=(ready_write, owner_read, *pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        for fd in (ready_read, ready_write, owner_read, owner_write, log):
            with contextlib.suppress(OSError):
                os.close(fd)
        raise SandboxError(f"cannot start {prefix[0] if prefix else python}: {error}") from error
    os.close(ready_write)
    os.close(owner_read)
    guest_process = GuestProcess(process, {**info, "ip": str(run / "k")}, owner_write, log)
    try:
        async with asyncio.timeout(START_SECONDS):
            ready = await _read_byte(ready_read)
    except TimeoutError:
        guest_process.kill()
        raise StartTimeout(
            f"the kernel was not ready after {START_SECONDS:.0f} s. {guest_process.log()}"
        ) from None
    except BaseException:
        guest_process.kill()
        raise
    finally:
        os.close(ready_read)
    if not ready:
        guest_process.kill()
        status = await process.wait()
        raise SandboxError(f"the kernel ended with status {status}: {guest_process.log()}")
    return guest_process


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
