"""A Jupyter kernel manager joins a live run by the kernelspec `lis-attach`, and leaves it alive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager
from live_story import Story, pause_at
from story import bash, cells, python, reply, submit

from lis_kernel.agent import events, remote
from lis_kernel.errors import ConfigError
from lis_kernel.kernel import kernelspec
from lis_kernel.server.attached import wanted
from lis_kernel.trajectory.notebook import KEY

pytestmark = pytest.mark.bwrap


@pytest.fixture
def join(tmp_path: Path, monkeypatch) -> Callable[..., Awaitable[AsyncKernelManager]]:
    """Starts a kernel of `lis-attach` with these variables."""
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    spec = kernelspec.describe_attach()
    kernelspec.write(tmp_path / "jupyter" / "kernels" / "lis-attach", spec)

    async def start(**env: str) -> AsyncKernelManager:
        made = AsyncKernelManager(kernel_name="lis-attach")
        await made.start_kernel(env=env)
        return made

    return start


async def test_a_notebook_joins_works_and_leaves(tmp_path: Path, join) -> None:
    story = Story(
        tmp_path / "runs",
        reply(python("x = 20")),
        reply(bash("echo on")),
        reply(submit("1")),
        listen=True,
    )
    pause_at(story, events.CallStarted)
    story.begin()
    await story.until(events.Paused)
    notebook = tmp_path / "attach.ipynb"
    run = remote.find().id
    notebook.write_text(json.dumps({"cells": [], "metadata": {KEY: {"attach": run}}}))
    for code, printed in (("x += 1; print(x)", "21\n"), ("print(x * 2)", "42\n")):
        manager = await join(JPY_SESSION_NAME=str(notebook))
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=20)
        messages: list[dict[str, Any]] = []
        await client.execute_interactive(code, timeout=20, output_hook=messages.append)
        assert printed in [message["content"].get("text") for message in messages]
        client.stop_channels()
        assert await manager.is_alive()
        await manager.shutdown_kernel()
        assert not await manager.is_alive()
    assert story.agent.state == "paused"
    manager = await join(LIS_ATTACH=run)
    story.agent.resume()
    trajectory = await story.end()
    assert (trajectory.answer, len(cells(trajectory, "human"))) == ("1", 2)
    async with asyncio.timeout(10):
        while await manager.is_alive():
            await asyncio.sleep(0.1)
    await manager.shutdown_kernel()


async def test_what_is_wrong_is_said(tmp_path: Path, join) -> None:
    with pytest.raises(ConfigError, match="no run is live"):
        await join()
    with pytest.raises(ConfigError, match="no live run is called 'gone'"):
        await join(LIS_ATTACH="gone")
    for text in ("no JSON", "[]", '{"metadata": {"lis_kernel": {"attach": 3}}}'):
        path = tmp_path / "some.ipynb"
        path.write_text(text)
        assert wanted({"JPY_SESSION_NAME": str(path)}) is None
    assert wanted({"JPY_SESSION_NAME": "no notebook"}) is None
