"""A real kernel in a real sandbox, shared by a file's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import lis_kernel
from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.kernel.session import KernelSession
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox

GUEST = Path(lis_kernel.__file__).parent / "guest"
SETUP = "\n\n".join((GUEST / name).read_text() for name in ("workspace.py", "shell.py"))


@pytest.fixture
async def session():
    """A session whose cells are stopped after 2 s."""
    limits = Limits(cell_seconds=2)
    caps = {"spill_lines": 80, "spill_chars": 20_000}
    sandbox = BubblewrapSandbox(SandboxConfig(), limits, caps=caps)
    await sandbox.start()
    started = KernelSession(sandbox, limits, SETUP)
    try:
        await started.start()
        yield started
    finally:
        await started.close()
        await sandbox.stop()
