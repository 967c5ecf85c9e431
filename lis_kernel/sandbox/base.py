"""What every backend has in common: a state folder, a network, at most one kernel, and an end.

Teardown in three layers: `stop` (async, patient), `cleanup` (synchronous, idempotent, at
interpreter exit), and the owner pipe and lock, which the kernel and the next start see even after
`kill -9` of this process. What the backends without a daemon add is in `walled.py`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import SandboxLost
from lis_kernel.protocols import KernelProcess, Progress
from lis_kernel.sandbox import fitting
from lis_kernel.sandbox.card import card
from lis_kernel.sandbox.launch import Boot
from lis_kernel.sandbox.network import Network
from lis_kernel.sandbox.state import StateDir
from lis_kernel.types import Attempt, Verdict

__all__ = ["ProcessSandbox"]

_alive: weakref.WeakSet[ProcessSandbox] = weakref.WeakSet()


class ProcessSandbox:
    """Base of every backend here: a state folder and at most one kernel process.

    Args:
        caps: the guest's output caps, see `guest/output.py`.
        key: signs the messages of every kernel of this sandbox, so that clients outlive a restart;
            None makes one.
        setup: whether kernels begin with `%%bash` and `str_replace_editor` in place.
        say: told, in one line, about anything slow or noteworthy at start.
        progress: told how far something slow is: parts done, parts in all, what they are.

    Raises:
        ConfigError: a setting is wrong, or is not one of this backend.
    """

    backend: ClassVar[str]

    def __init__(
        self,
        config: SandboxConfig,
        limits: Limits,
        *,
        caps: Mapping[str, int] | None = None,
        key: str | None = None,
        setup: bool = False,
        say: Callable[[str], None] = lambda _: None,
        progress: Progress = lambda *_: None,
    ) -> None:
        fitting.check(config, self.backend)
        self.config = config
        self.limits = limits
        self.caps = {
            "output_bytes": limits.output_bytes,
            "spill_bytes": limits.spill_bytes,
            **(caps or {}),
        }
        self.key = key or secrets.token_hex(16)
        self.setup = setup
        self.say = say
        self.progress = progress
        self.network = Network(config.network, say)
        self.held: Mapping[str, str] = {}
        """Cells that a kernel launched from now on does not run at first, see `Boot`."""
        self._created = time.time()
        self._state: StateDir | None = None
        self._process: KernelProcess | None = None

    @property
    def state(self) -> StateDir:
        if self._state is None:
            raise SandboxLost("the sandbox is not running")
        return self._state

    async def start(self) -> None:
        """Make the sandbox's places, start the network. Backends check their needs first."""
        _alive.add(self)
        await self._settle()
        self._record()
        await self.network.start(self._public, self._door, self._host_uid)

    async def _settle(self) -> None:
        """Make the state folder, and whatever else must be there before the network."""
        self._state = StateDir()

    @property
    def _public(self) -> Path:
        """The folder for files that the sandbox may read, and nobody in it may write."""
        return self.state.root

    @property
    def _door(self) -> Path:
        """The folder for the proxy's socket; `boot` is told where the sandbox sees it."""
        return self.state.files / "run"

    @property
    def _host_uid(self) -> int | None:
        """The host's uid of the sandbox's processes, where that is not ours."""
        return None

    async def reset(self) -> None:
        """End everything in it; it is again as after `start`, and its time begins anew."""
        await self.stop()
        await self.start()

    async def branch(self) -> ProcessSandbox:
        """A new sandbox like this one, started, with a copy of /testbed, /tmp and the home folder.

        Of what is in them only sockets are left out. What still runs in here is not held back
        while they are copied.

        Raises:
            SandboxError: the copy failed, as when folders are more than 200 deep.
        """
        twin = self._twin()
        try:
            await twin.start()
            await twin._copy_from(self.state)
        except BaseException:
            await twin.stop()
            raise
        return twin

    def _twin(self) -> Self:
        return type(self)(self.config, self.limits, caps=self.caps, setup=self.setup, say=self.say)

    async def _copy_from(self, origin: StateDir) -> None:
        await origin.copy_to(self.state)

    async def launch_kernel(self) -> KernelProcess:
        """Start a kernel; the one before it, if any, is killed first."""
        await self._end_kernel()
        self._process = await self._launch()
        return self._process

    async def _end_kernel(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    def boot(self, cwd: str, door: str) -> Boot:
        """How the guest's kernel shall be, in a sandbox with walls of its own.

        `door` is where the sandbox sees `_door`.
        """
        network = self.network.guest(door)
        return Boot(
            cwd,
            self.caps,
            self.key,
            self.setup,
            network=network,
            packages=True,
            no_system=self._no_system_packages(),
            held=self.held,
        )

    def _no_system_packages(self) -> str | None:
        """Why `apt-get install` cannot work in here, and what to do instead; None where it can."""
        wheels = " takes wheels from /testbed/input" if self.network.kind == "none" else " NAME"
        return (
            "the system is read-only and you are not root. Use what is there; for Python "
            f"packages, pip install{wheels}."
        )

    async def _launch(self) -> KernelProcess:
        raise NotImplementedError

    def put(self, source: Path, target: str) -> None:
        self.state.put(source, target)

    def read(self, path: str, limit: int, since: int = 0) -> bytes | None:
        return self.state.read(path, limit, since)

    def listing(self, path: str, most: int, since: int = 0) -> list[tuple[str, int]]:
        return self.state.listing(path, most, since)

    def collect(
        self, path: str, target: Path, limit: int, since: int = 0
    ) -> tuple[list[str], list[str]]:
        return self.state.collect(path, target, limit, since)

    def verdict(self) -> Verdict | None:
        return None

    def attempts(self) -> tuple[Attempt, ...]:
        return self.network.attempts()

    def describe(self) -> Mapping[str, Any]:
        return {"backend": self.backend, "network": str(self.network)}

    def _repr_html_(self) -> str:
        runs = self._state is not None
        state = "running" if runs else "not running"
        created = self._created if runs else None
        return card(self.describe(), state=state, alive=runs, created=created)

    def _record(self) -> None:
        """Write the record that `lis ps`, `lis clean` and the reaper read."""
        self.state.record(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            "id": self.state.name,
            "backend": self.backend,
            "owner": os.getpid(),
            "created": self._created,
            "ttl": self.limits.sandbox_seconds,
        }

    async def stop(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await process.wait()
        await self.network.stop()
        await asyncio.to_thread(self.cleanup)

    def cleanup(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
        self.network.close()
        if self._state is not None:
            self._state.remove()
            self._state = None
        _alive.discard(self)


@atexit.register
def _cleanup_all() -> None:
    for sandbox in list(_alive):
        sandbox.cleanup()
