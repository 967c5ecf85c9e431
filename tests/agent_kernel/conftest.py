"""A Jupyter home with the kernel `lis-agent`, and clients of it; nothing may be left behind."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_console import Console
from jupyter_client.manager import AsyncKernelManager
from leftovers import left_within

from lis_kernel.kernel import kernelspec

KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")
Start = Callable[..., AbstractAsyncContextManager[Console]]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this test's sandboxes. Short: a socket's path has 107 bytes."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    folder = Path(tempfile.mkdtemp(prefix="lis-a-", dir="/tmp"))
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(folder))
    yield folder
    left = left_within(5, folder)
    entries = [entry.name for entry in folder.iterdir()]
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"processes were left: {left}"
    assert not entries, f"sandbox folders were left: {entries}"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Path) -> Iterator[Path]:
    """The folder of the notebook, in a Jupyter home that knows `lis-agent` alone."""
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    spec = kernelspec.describe_agent({"limits": {"grace_seconds": 3}}, python=sys.executable)
    folder = tmp_path / "jupyter" / "kernels" / kernelspec.AGENT
    kernelspec.write(folder, spec, "logos-agent")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    connections = list((tmp_path / "runtime").glob("kernel-*"))
    assert not connections, f"connection files were left: {connections}"


@pytest.fixture
def script(work: Path) -> Callable[..., str]:
    """Writes a script for the model beside the notebook; the model's name."""

    def write(*replies: dict[str, Any], name: str = "replies.json") -> str:
        (work / name).write_text(json.dumps(replies))
        return f"scripted:{name}"

    return write


@pytest.fixture
def start(work: Path) -> Start:
    @asynccontextmanager
    async def started() -> AsyncIterator[Console]:
        manager = AsyncKernelManager(kernel_name=kernelspec.AGENT)
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=60)
            yield Console(manager, client)
        finally:
            client.stop_channels()
            await manager.shutdown_kernel()

    return started
