"""Where attempts are made: the host's half, with things to steal, and the sandboxes.

A `Ground` is one backend under attack, or the canary's: the same attempts where the wall is
missing, to show that they are live. It plants a secret, listens on the host's addresses, keeps a
victim process, and starts sandboxes that end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from lis_kernel import registry
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import SandboxError
from lis_kernel.kernel.session import KernelSession
from lis_kernel.protocols import Sandbox
from lis_kernel.types import CellResult

__all__ = ["TIGHT", "WIDE", "Box", "Ground", "Outcome", "Report", "judged", "together"]

T = TypeVar("T")
INSIDE = Path(__file__).with_name("inside")
TIGHT = Limits(
    cell_seconds=30,
    grace_seconds=1,
    memory_bytes=512 << 20,
    disk_bytes=64 << 20,
    pids=96,
    open_files=512,
)
"""Limits of the backend under attack: small, so that attempts at them are cheap."""
WIDE = Limits(
    cell_seconds=30,
    grace_seconds=1,
    memory_bytes=8 << 30,
    disk_bytes=8 << 30,
    pids=20_000,
    cpus=64,
    open_files=8192,
)
"""Limits of the canary."""


class Outcome(NamedTuple):
    """How one attempt ended on one ground.

    `result` is `breached`, `blocked`, `skipped` (cannot be made here) or `broken` (proved nothing).
    `evidence` is what was seen; `wall` is what stopped it.
    """

    result: Literal["breached", "blocked", "skipped", "broken"]
    evidence: str
    wall: str = ""


class Report(NamedTuple):
    """What an attempt said from inside; see `inside/driver.py`."""

    name: str
    outcome: str
    evidence: str
    errno: str = ""
    wall: str = ""


@dataclass
class Box:
    """A started sandbox with a session in its kernel."""

    sandbox: Sandbox
    session: KernelSession
    canary: bool = False
    said: list[str] = field(default_factory=list)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.sandbox.describe()

    async def cell(self, source: str, timeout: float | None = None) -> CellResult:
        """Run a cell, whatever comes of it."""
        return await self.session.execute(source, timeout)

    async def text(self, source: str, timeout: float | None = None) -> str:
        """What a cell prints. Raises: SandboxError: it failed."""
        result = await self.cell(source, timeout)
        if result.status != "ok":
            raise SandboxError(f"an attack's cell ended with `{result.status}`: {result.outputs}")
        return "".join(o["text"] for o in result.outputs if o.get("name") == "stdout")

    async def attempts(
        self, family: str, facts: Mapping[str, Any], timeout: float = 60
    ) -> dict[str, Report]:
        """Run `inside/FAMILY.py` in the sandbox; a report for each attempt that gave one."""
        nonce = secrets.token_hex(8)
        with tempfile.TemporaryDirectory(prefix="lis-attack-") as folder:
            file = Path(folder, "facts.json")
            given = {**facts, "nonce": nonce, "canary": self.canary}
            file.write_text(json.dumps(given))
            file.chmod(0o644)
            self.sandbox.put(file, f"/testbed/attack/{family}.json")
            for module in INSIDE.glob("*.py"):
                self.sandbox.put(module, f"/testbed/attack/inside/{module.name}")
        said = await self.text(RUN.format(family=family), timeout)
        reports = {}
        for line in said.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = json.loads(line)
                if told.pop("nonce") == nonce:
                    reports[told["name"]] = Report(**told)
        return reports


RUN = """
import subprocess as _s, sys as _y
_r = _s.run([_y.executable, "-m", "inside.driver", "{family}", "{family}.json"],
            cwd="attack", stdin=_s.DEVNULL, capture_output=True, text=True, close_fds=False)
print(_r.stdout, flush=True)
if _r.returncode:
    print("driver:", _r.returncode, _r.stderr[-2000:])
"""


class Ground:
    """One backend under attack (`canary` False), or the same attempts without its walls.

    Args:
        backend: the registry's name; the canary's is `local`.
        options: further fields of `SandboxConfig`, e.g. `runtime`.
    """

    def __init__(
        self, backend: str, *, canary: bool = False, options: Mapping[str, Any] | None = None
    ) -> None:
        self.backend = backend
        self.canary = canary
        self.limits = WIDE if canary else TIGHT
        self.options = dict(options or {})
        self.word = secrets.token_hex(16)
        """Lies in `secret`; an attempt that can say it has read the host's file."""
        self.folder: Path
        self.secret: Path
        self._stack = contextlib.AsyncExitStack()
        self._box: Box | None = None

    async def __aenter__(self) -> Ground:
        self.folder = Path(tempfile.mkdtemp(prefix="lis-attack-"))
        self.folder.chmod(0o755)
        self.secret = self.folder / "secret"
        self.secret.write_text(self.word)
        self.secret.chmod(0o644)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def shared(self) -> Box:
        """The sandbox that gentle attempts share; started at first use, ended with the ground."""
        if self._box is None:
            self._box = await self._stack.enter_async_context(self.box())
        return self._box

    @contextlib.asynccontextmanager
    async def box(
        self,
        limits: Limits | None = None,
        network: str = "none",
    ) -> AsyncIterator[Box]:
        """A sandbox of its own for attempts that may break it, stopped at the end."""
        limits = limits or self.limits
        config = SandboxConfig(
            backend=self.backend,
            network="none" if self.canary else network,
            **({} if self.canary else self.options),
        )
        kind = registry.load(registry.SANDBOXES, self.backend, "--backend")
        said: list[str] = []
        sandbox = kind(config, limits, say=said.append)
        session = KernelSession(sandbox, limits, "pass")
        try:
            await sandbox.start()
            await session.start()
            yield Box(sandbox, session, self.canary, said)
        finally:
            await session.close()
            await sandbox.stop()

    def victim(self, uid: int | None = None) -> subprocess.Popen[bytes]:
        """A process of the host: the ground's word in its memory and environment, the secret open.

        It runs as `uid` where we may choose, so that no difference of users protects it.
        """
        code = f"import time; word = {self.word!r}; time.sleep(120)"
        user: dict[str, Any] = {}
        if uid and os.getuid() == 0:
            user = {"user": uid, "group": uid, "extra_groups": []}
        with self.secret.open("rb") as secret:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [_plain_python() if user else sys.executable, "-I", "-c", code],
                env={"LIS_VICTIM": self.word},
                cwd="/",
                stdin=secret,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **user,
            )
        self.on_end(lambda: _end(process))
        return process

    def on_end(self, action: Callable[[], Any]) -> None:
        """Call `action` when the ground is left."""
        self._stack.callback(action)

    def judge(self, report: Report, breached: str | None = None) -> Outcome:
        """An attempt's outcome; `breached` is what the host itself saw of a breach, if anything."""
        if breached:
            return Outcome("breached", breached)
        if report.outcome == "got":
            return Outcome("breached", report.evidence)
        if report.outcome == "refused":
            if self.canary and report.errno == "ENOSYS":
                return Outcome("skipped", "this kernel has no such call")
            if self.canary and report.errno in ("EPERM", "EACCES") and os.getuid() != 0:
                return Outcome("skipped", "only root could show it")
            errno = f" ({report.errno})" if report.errno else ""
            wall = report.wall or WALLS.get(report.errno, report.evidence)
            return Outcome("blocked", report.evidence, f"{wall}{errno}")
        return Outcome("skipped" if report.outcome == "skipped" else "broken", report.evidence)


WALLS = {
    "ENOENT": "not in the sandbox's mount namespace",
    "ENOTDIR": "not in the sandbox's mount namespace",
    "EROFS": "read-only mount",
    "EPERM": "seccomp filter, no capability",
    "EACCES": "unprivileged uid",
    "ENOSYS": "seccomp filter",
    "EAFNOSUPPORT": "seccomp filter",
    "EPROTONOSUPPORT": "no such protocol in the kernel",
    "ESRCH": "pid namespace",
    "ENETUNREACH": "network namespace without a route",
    "EHOSTUNREACH": "network namespace without a route",
    "ECONNREFUSED": "network namespace: its loopback is its own",
    "EADDRNOTAVAIL": "network namespace without an address",
    "ENODEV": "network namespace without a device",
    "ENXIO": "no such device in the sandbox",
    "SIGSYS": "seccomp filter",
    "EAGAIN": "limit on processes",
    "ENOMEM": "limit on memory",
    "ENOSPC": "the sandbox's disk is full",
    "EMFILE": "limit on open files",
}
"""What an errno means of a wall, where the attempt does not say it better."""


def judged(breach: object, evidence: str, wall: str) -> Outcome:
    """`breach` true, or the text of what was seen of one."""
    if breach:
        return Outcome("breached", breach if isinstance(breach, str) else evidence)
    return Outcome("blocked", evidence, wall)


async def together(*works: Coroutine[Any, Any, T]) -> list[T]:
    """The results of `works`, done at once; the first that fails ends the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _plain_python() -> str:
    """A Python that other users may run too."""
    for name in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(name, os.X_OK):
            return name
    return sys.executable


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
