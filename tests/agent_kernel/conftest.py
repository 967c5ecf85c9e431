"""A Jupyter home with the kernel `lis-agent`, and clients of it; nothing may be left behind."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_console import Console
from homes import jupyter_home, runtime_folder
from jupyter_client.manager import AsyncKernelManager

from lis_kernel.kernel import kernelspec

Start = Callable[..., AbstractAsyncContextManager[Console]]


@pytest.fixture
def runtime() -> Iterator[Path]:
    with runtime_folder() as folder:
        yield folder


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Path) -> Iterator[Path]:
    """The folder of the notebook, in a Jupyter home that knows `lis-agent` alone."""
    with jupyter_home(monkeypatch, tmp_path) as kernels:
        spec = kernelspec.describe_agent({"limits": {"grace_seconds": 3}}, python=sys.executable)
        kernelspec.write(kernels / kernelspec.AGENT, spec, "logos-agent")
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.chdir(work)
        yield work


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
