"""A sandboxed kernel from argv alone: `python -m lis_kernel kernel -f CONNECTION_FILE`.

For tools that ignore the kernelspec's provisioner and just start its command. This process looks
like a kernel to them: it makes the sandbox, bridges the sockets of the connection file, lives as
long as the kernel in the box, and ends it when it is told to end or its own parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq

from lis_kernel.errors import ConfigError, SandboxError
from lis_kernel.kernel.bridge import bridge, interrupt
from lis_kernel.kernel.reopened import first_kernel
from lis_kernel.kernel.settings import make_sandbox, parse

__all__ = ["serve"]

PARENT_SECONDS = 1.0


async def serve(connection_file: Path, words: Mapping[str, Any], say: Callable[[str], None]) -> int:
    """Run a kernel until it ends or this process is told to; the kernel's exit status.

    `words` are the sandbox's settings, see `settings.parse`.

    Raises:
        ConfigError: the connection file or a setting is wrong.
        SandboxError, StartTimeout: there is no kernel.
    """
    client = _read(connection_file)
    config, limits = parse(words, "--config")
    sandbox = make_sandbox(config, limits, client["key"], say)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    orphaned = asyncio.create_task(_orphaned(told))
    try:
        await sandbox.start()
        kernel = await first_kernel(sandbox, os.environ, limits.disk_bytes, say)
        info = kernel.connection_info
        loop.add_signal_handler(signal.SIGINT, loop.run_in_executor, None, interrupt, info)
        with bridge(client, info):
            ended = asyncio.create_task(kernel.wait())
            stop = asyncio.create_task(told.wait())
            await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not ended.done():
                kernel.kill()
            return await ended
    except zmq.ZMQError as error:
        raise SandboxError(f"cannot listen as {connection_file} says: {error}") from error
    finally:
        orphaned.cancel()
        await sandbox.stop()


def _read(path: Path) -> dict[str, Any]:
    """The client's connection file; keys that a client may leave out get Jupyter's defaults."""
    try:
        info = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("-f", f"{path} is no connection file: {error}.") from error
    defaults = {"transport": "tcp", "ip": "127.0.0.1", "signature_scheme": "hmac-sha256"}
    info = defaults | info
    ports = [f"{name}_port" for name in ("shell", "iopub", "stdin", "control", "hb")]
    missing = [name for name in ("key", *ports) if not info.get(name)]
    if missing:
        raise ConfigError("-f", f"{path} does not say {', '.join(missing)}.")
    if info["signature_scheme"] != "hmac-sha256":
        raise ConfigError("-f", f"{path} asks for {info['signature_scheme']}, not hmac-sha256.")
    if info.get("curve_publickey"):
        raise ConfigError("-f", f"{path} asks for CurveZMQ, which this kernel does not speak.")
    return dict(info)


async def _orphaned(told: asyncio.Event) -> None:
    """Set `told` when the tool that started us is gone: nobody will ever send a shutdown."""
    if "JPY_PARENT_PID" not in os.environ:  # started by hand: may outlive its shell
        return
    parent = os.getppid()
    with contextlib.suppress(asyncio.CancelledError):
        while os.getppid() == parent:  # noqa: ASYNC110 - the system sends no event for it
            await asyncio.sleep(PARENT_SECONDS)
        told.set()
