"""A Jupyter kernel as anybody starts one, in folders of ours: the canary of some families."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from lis_kernel.errors import SandboxError

__all__ = ["Stock", "stock_kernel"]


class Stock:
    """The kernel's manager and a client of it."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager = manager
        self.client = client

    async def outputs(self, source: str, timeout: float = 30) -> list[dict[str, Any]]:
        """The content of each output message, for as long as they come.

        Raises:
            TimeoutError: the cell did not end.
            SandboxError: it failed.
        """
        said: list[dict[str, Any]] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] in ("stream", "display_data", "error"):
                said.append(message["content"])

        reply = await self.client.execute_interactive(source, timeout=timeout, output_hook=hear)
        if reply["content"]["status"] != "ok":
            raise SandboxError(f"the stock kernel's cell failed: {reply['content']}")
        return said

    async def text(self, source: str) -> str:
        """What a cell prints."""
        return "".join(c["text"] for c in await self.outputs(source) if c.get("name") == "stdout")

    async def again(self) -> None:
        """Another kernel in the place of this one, however stuck it is."""
        await self.manager.restart_kernel(now=True)
        await self.client.wait_for_ready(timeout=30)


@contextlib.asynccontextmanager
async def stock_kernel(folder: Path, *, polite: bool = True) -> AsyncIterator[Stock]:
    """Start a kernel whose home, temporary files and directory lie in `folder`; shut it down.

    It is asked to end if `polite`, else killed.
    """
    places = {name: folder / name for name in ("home", "tmp", "testbed", "site", "run")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    # below pytest ipykernel would not hear what a child prints
    left_out = ("JUPYTER_", "IPYTHON", "PYTEST_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    env |= {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"]), "PYTHONNOUSERSITE": "1"}
    manager = AsyncKernelManager(
        kernel_name="python3",
        connection_file=str(places["run"] / "connection.json"),
        transport="ipc",
        ip=str(places["run"] / "k"),
    )
    quiet = subprocess.DEVNULL
    await manager.start_kernel(env=env, cwd=str(places["testbed"]), stdout=quiet, stderr=quiet)
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        yield Stock(manager, client)
    finally:
        client.stop_channels()
        await asyncio.shield(manager.shutdown_kernel(now=not polite))
