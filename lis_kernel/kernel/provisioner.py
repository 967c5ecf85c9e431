"""`lis-provisioner`: any Jupyter tool runs its kernel in a sandbox. Floor 2, beside the session.

jupyter_client makes one per kernel when the kernelspec's `metadata.kernel_provisioner` names it,
and calls it in place of Popen. The kernel answers on unix sockets in the sandbox's folder. A
restart keeps sandbox, files, sockets and key, so clients only see a new kernel; the sandbox ends
with the kernel's shutdown, or with this process, however that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, cast

import zmq
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.multikernelmanager import MultiKernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from lis_kernel._sync import on_own_loop
from lis_kernel.errors import LisKernelError, SandboxError
from lis_kernel.kernel.bridge import interrupt
from lis_kernel.kernel.reopened import first_kernel, next_kernel
from lis_kernel.kernel.settings import MAX_MESSAGE, make_sandbox, parse
from lis_kernel.protocols import KernelProcess, Sandbox

__all__ = ["LisProvisioner"]

STANZA = "metadata.kernel_provisioner.config"
TRAITS = ("kernel_id", "kernel_spec", "parent", "config", "log")
POLL_SECONDS = 0.05


class LisProvisioner(KernelProvisionerBase):
    """One kernel and its sandbox.

    Args:
        kwargs: jupyter_client's own (`kernel_id`, `kernel_spec`, `parent`), and the stanza's
            `config`: see `settings.parse`. It is checked at launch, where the error reaches the
            server's log and the notebook.
    """

    def __init__(self, **kwargs: Any) -> None:
        own = {name: kwargs.pop(name) for name in TRAITS if name in kwargs}
        super().__init__(**own)
        self._words = kwargs
        self._key = secrets.token_hex(16)
        self._sandbox: Sandbox | None = None
        self._process: KernelProcess | None = None
        self._ended: Future[int] = Future()
        self._ending = False

    # -- start -------------------------------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Asked first, for the command; ours is the guest's and does not come from argv."""
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "cmd": list(self.kernel_spec.argv)}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, in the sandbox that is there or in a new one.

        Raises:
            ConfigError, SandboxError, StartTimeout: nothing is left behind.
        """
        _bound_messages(self.parent)
        try:
            process = await on_own_loop(self._launch(kwargs.get("env") or os.environ))
        except LisKernelError as error:
            self.log.error("no sandboxed kernel: %s", error)
            raise
        self._process, self._ending = process, False
        info = {**process.connection_info, "key": process.connection_info["key"].encode()}
        info.pop("kernel_name", None)  # the manager knows it by the kernelspec's
        self.connection_info = cast(KernelConnectionInfo, info)
        return self.connection_info

    async def _launch(self, env: Mapping[str, str]) -> KernelProcess:
        """On the background loop, like everything of the sandbox: Jupyter's loops come and go."""
        try:
            process = await self._kernel(env)
        except BaseException:
            await self._stop()
            raise
        ended: Future[int] = Future()
        self._ended = ended
        waiting = asyncio.create_task(process.wait())
        waiting.add_done_callback(lambda task: _settle(ended, task))
        return process

    async def _kernel(self, env: Mapping[str, str]) -> KernelProcess:
        if self._sandbox is not None:
            try:
                return await next_kernel(self._sandbox, env, self.log.warning)
            except (SandboxError, OSError) as error:
                self.log.warning("the sandbox is lost, its files too; a new one starts: %s", error)
                await self._stop()
        config, limits = parse(self._words, STANZA)
        self._sandbox = make_sandbox(config, limits, self._key, self.log.info)
        await self._sandbox.start()
        return await first_kernel(self._sandbox, env, limits.disk_bytes, self.log.warning)

    async def _stop(self) -> None:
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            await sandbox.stop()

    # -- while it runs -----------------------------------------------------------------------

    @property
    def has_process(self) -> bool:
        return self._process is not None

    async def poll(self) -> int | None:
        if self._process is None:
            return 0
        if not self._ended.done():
            return None
        status = self._ended.result()
        if not self._ending:
            self._ending = True
            reason = self._sandbox.verdict() if self._sandbox is not None else None
            level = logging.WARNING if status else logging.INFO
            self.log.log(level, "the sandboxed kernel ended: %s", reason or f"status {status}")
        return status

    async def wait(self) -> int | None:
        while (status := await self.poll()) is None:  # noqa: ASYNC110 - from any loop
            await asyncio.sleep(POLL_SECONDS)
        self._process = None
        return status

    async def send_signal(self, signum: int) -> None:
        """SIGINT interrupts the running cell; signals that end a process end the kernel."""
        if self._process is None:
            return
        if signum == signal.SIGINT:
            await asyncio.to_thread(interrupt, self._process.connection_info)
        elif signum in (signal.SIGTERM, signal.SIGKILL):
            self._ending = True
            self._process.kill()

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """The request itself goes to the kernel as a message; its end is no surprise then."""
        self._ending = True

    async def cleanup(self, restart: bool = False) -> None:
        """The sandbox stays for a restart, files and all; otherwise nothing of it does."""
        if not restart:
            await on_own_loop(self._stop())
            self._process = None

    async def get_provisioner_info(self) -> dict[str, Any]:
        """For the record: a sandbox ends with its owner, so nobody else can take it over."""
        facts = {} if self._sandbox is None else dict(self._sandbox.describe())
        return {**await super().get_provisioner_info(), "sandbox": facts}


def _settle(ended: Future[int], task: asyncio.Task[int]) -> None:
    """A wait that failed or was cancelled says at least that the kernel is gone."""
    failed = task.cancelled() or task.exception() is not None
    ended.set_result(1 if failed else task.result())


def _bound_messages(manager: Any) -> None:
    """Let the manager's sockets refuse huge frames; other kernels' sockets stay as they are."""
    if manager is None or manager.context.sockopts.get(zmq.MAXMSGSIZE) == MAX_MESSAGE:
        return
    server, context = manager.parent, manager.context
    if isinstance(server, MultiKernelManager) and server.context is context:
        # shared by all kernels of a server
        context = manager.context = context.shadow(context.underlying)
    with contextlib.suppress(zmq.ZMQError):
        context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
