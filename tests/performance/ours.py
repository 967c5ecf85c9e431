"""Our side of every row: sandboxes, sessions and rollouts by the package's own doors.

What a row needs and this lis_kernel does not have (a backend, a live branch) is one
`NotHere`, so that the other rows still run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import workload
from harness import NotHere

from lis_kernel import registry
from lis_kernel.agent import Agent
from lis_kernel.config import Limits, ModelConfig, RunConfig, SandboxConfig
from lis_kernel.kernel.pool import Pool
from lis_kernel.kernel.session import KernelSession
from lis_kernel.kernel.setup import setup_source
from lis_kernel.models.scripted import ScriptedModel
from lis_kernel.types import CellResult, Task

SETUP = setup_source()
"""The cell that every rollout's kernel begins with; `%%bash` comes with it."""
ONE = "1+1"
REFILL_SECONDS = 60.0


@dataclass
class Settings:
    """How the rows are measured."""

    backend: str
    n: int | None = None
    """Rounds; None leaves it to the row."""
    quick: bool = False
    """Few of everything: shows that a row runs, not how fast it is."""
    docker: bool = True
    quiet_seconds: float = 20.0

    def rounds(self, usual: int) -> int:
        return self.n or (3 if self.quick else usual)


def default_backend() -> str:
    """The fastest that this lis_kernel has."""
    return "zygote" if "zygote" in registry.names(registry.SANDBOXES) else "bubblewrap"


def ms(began: float) -> float:
    """Milliseconds since `began`."""
    return (perf_counter() - began) * 1000


def make(backend: str, limits: Limits | None = None, **config: Any) -> Any:
    """A sandbox that is not started yet.

    Raises:
        NotHere: there is no such backend.
    """
    return _kind(backend)(SandboxConfig(backend=backend, **config), limits or Limits())


@cache
def _kind(backend: str) -> Any:
    """Once: to list the backends takes as long as half a start, and no run does it."""
    if backend not in registry.names(registry.SANDBOXES):
        raise NotHere(f"not here yet: the backend `{backend}`")
    return registry.load(registry.SANDBOXES, backend, "--backend")


async def start(
    backend: str, *, setup: str = ONE, limits: Limits | None = None, **config: Any
) -> KernelSession:
    """A session whose kernel has answered once; end it with `end`."""
    given = limits or Limits()
    session = KernelSession(make(backend, given, **config), given, setup)
    try:
        await session.sandbox.start()
        await session.start()
    except BaseException:
        await end(session)
        raise
    return session


async def end(session: KernelSession) -> None:
    await session.close()
    await session.sandbox.stop()


@contextlib.asynccontextmanager
async def opened(backend: str, *, setup: str = ONE, **config: Any) -> AsyncIterator[KernelSession]:
    session = await start(backend, setup=setup, **config)
    try:
        yield session
    finally:
        await end(session)


async def ok(session: KernelSession, source: str) -> CellResult:
    """Run a cell that must not fail."""
    result = await session.execute(source)
    if result.status != "ok":
        raise RuntimeError(f"{source[:80]!r} ended with `{result.status}`: {result.outputs}")
    return result


def text(result: CellResult) -> str:
    """What a cell printed and gave."""
    return "".join(
        str(one.get("text") or one.get("data", {}).get("text/plain", "")) for one in result.outputs
    )


def of_sandbox(session: KernelSession, name: str) -> Callable[..., Awaitable[Any]]:
    """The sandbox's method `name`.

    Raises:
        NotHere: the backend has none.
    """
    method = getattr(session.sandbox, name, None)
    if method is None:
        raise NotHere(f"not here yet: `{name}()` of the backend `{session.sandbox.backend}`")
    return method


def pool_of(backend: str, size: int) -> Pool:
    """A pool of an agent's sandboxes that is not open yet. Raises: NotHere: no such backend."""
    make(backend)
    return Pool(size, config=SandboxConfig(backend=backend))


async def full(pool: Pool, most: int) -> None:
    """Wait until `most` are ready: what the pool starts shall not be in another's time."""
    async with asyncio.timeout(REFILL_SECONDS):
        while pool.ready < most:
            await asyncio.sleep(0.005)


# -- rollouts --------------------------------------------------------------------------------------


async def rollout(
    backend: str,
    script: Sequence[dict[str, Any]],
    out: Path | None = None,
    pool: Pool | None = None,
) -> dict[str, float]:
    """One scripted rollout, its notebook closed; milliseconds of the whole, and of a tool call.

    Raises:
        RuntimeError: it did not go as the script wants.
    """
    config = RunConfig(
        model=ModelConfig(name="scripted:replies"), sandbox=SandboxConfig(backend=backend)
    )
    with contextlib.ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lis-bench-")))
        model = ScriptedModel.from_replies(script)
        began = perf_counter()
        done = await Agent(config, out=folder, model=model, pool=pool).arun(
            Task(prompt=workload.TASK)
        )
        total = ms(began)
        notebook = json.loads(Path(done.path).read_text("utf-8"))
    run = notebook["metadata"]["lis_kernel"]
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    facts = [cell["metadata"]["lis_kernel"] for cell in code]
    failed = [cell for cell in facts if cell["status"] != "ok" or cell.get("is_error")]
    if failed or run["turns"] != len(script) or (run["answer"] or "").strip() != workload.ANSWER:
        raise RuntimeError(f"not the scripted rollout: {run}, {failed}")
    calls = [cell["seconds"] for cell in facts if cell.get("tool", "submit") != "submit"]
    return {"total": total, "call": 1000 * sum(calls) / len(calls)}
