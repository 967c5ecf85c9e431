"""Real sandboxes for the tests beside it: each ended, however the test went."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox

BACKENDS = [
    pytest.param("zygote", marks=pytest.mark.bwrap),
    pytest.param("bubblewrap", marks=pytest.mark.bwrap),
    pytest.param("docker", marks=pytest.mark.docker),
]
"""Those with walls; podman's are docker's by another engine."""
COLD = BACKENDS[1:]
"""Those whose every sandbox is started by this process; see test_zygote.py for the other."""
PODMAN = pytest.param("podman", marks=pytest.mark.podman)

Box = Callable[..., contextlib.AbstractAsyncContextManager[KernelSession]]


@contextlib.asynccontextmanager
async def open_box(setup: str = "pass", **limits: Any) -> AsyncIterator[KernelSession]:
    """A session in a bubblewrap sandbox with these limits."""
    given = Limits(**{"cell_seconds": 30, "grace_seconds": 1, **limits})
    sandbox = BubblewrapSandbox(SandboxConfig(), given)
    session = KernelSession(sandbox, given, setup)
    try:
        await sandbox.start()
        await session.start()
        yield session
    finally:
        await session.close()
        await sandbox.stop()


def shown(result: Any) -> str:
    """All text of a cell's outputs."""
    return "".join(str(o.get("text", o.get("evalue", ""))) for o in result.outputs).strip()
