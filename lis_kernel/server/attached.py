"""`lis-attach-provisioner`: a notebook joins the sandbox of a run that is live. Floor 6.

The kernelspec `lis-attach` names it. It starts nothing: it asks the run for its door (see
`kernel/door.py`) and gives Jupyter that for a kernel. Shutting the notebook's kernel down, or the
server, only leaves; the run goes on. Which run it is stands in the notebook's metadata, in the
variable LIS_ATTACH, or goes without saying while only one is live.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Integer

from lis_kernel.agent import remote
from lis_kernel.errors import LisKernelError
from lis_kernel.trajectory.opened import opened

__all__ = ["AttachProvisioner", "wanted"]

POLL_SECONDS = 0.2


class _NoRestart(AsyncIOLoopKernelRestarter):
    """A run that has ended cannot be begun anew: the notebook is told at once that it is over."""

    restart_limit = Integer(0)


class AttachProvisioner(KernelProvisionerBase):
    """Made by jupyter_client for each kernel of the kernelspec `lis-attach`."""

    _door: Path | None = None
    _leaving = False
    _links: Sequence[Path] = ()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Asked first, for the command; there is none."""
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "cmd": list(self.kernel_spec.argv)}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Join the run.

        Raises:
            ConfigError: there is no such live run, or several to choose from.
        """
        try:
            env = kwargs.get("env") or os.environ
            live = await asyncio.to_thread(lambda: remote.find(wanted(env)))
            answer = await remote.ask(live, "attach")
        except LisKernelError as error:
            self.log.error("no run to join: %s", error)
            raise
        if isinstance(self.parent, AsyncIOLoopKernelManager):
            self.parent.restarter_class = _NoRestart
        self._door, self._leaving = Path(answer["connection_file"]), False
        info = json.loads(self._door.read_text("utf-8"))
        info["key"] = info["key"].encode()
        info["ip"] = self._link(info)
        info.pop("kernel_name", None)  # the manager knows it by the kernelspec's
        self.connection_info = cast(KernelConnectionInfo, info)
        return self.connection_info

    def _link(self, info: Mapping[str, Any]) -> str:
        """Names of our own for the door's sockets: a manager removes those that it was given."""
        base = f"{info['ip']}-{secrets.token_hex(4)}"
        self._links = [
            Path(f"{base}-{port}") for key, port in info.items() if key.endswith("_port")
        ]
        for link in self._links:
            os.link(f"{info['ip']}-{link.name.rpartition('-')[2]}", link)
        return base

    @property
    def has_process(self) -> bool:
        return self._door is not None

    async def poll(self) -> int | None:
        """None while the run is live and this notebook has not left it."""
        return None if self._door is not None and self._live() else 0

    def _live(self) -> bool:
        return not self._leaving and self._door is not None and self._door.exists()

    async def wait(self) -> int | None:
        while self._live():  # noqa: ASYNC110 - the file's end sends no event
            await asyncio.sleep(POLL_SECONDS)
        self._door = None
        return 0

    async def send_signal(self, signum: int) -> None:
        """An interrupt goes as a message; nothing else is a notebook's to do to a run."""

    async def kill(self, restart: bool = False) -> None:
        self._leaving = True

    async def terminate(self, restart: bool = False) -> None:
        self._leaving = True

    async def shutdown_requested(self, restart: bool = False) -> None:
        self._leaving = True

    async def cleanup(self, restart: bool = False) -> None:
        self._door = None
        for link in self._links:
            link.unlink(missing_ok=True)


def wanted(env: Mapping[str, str]) -> str | None:
    """The run that the environment of a kernel asks for, or None if it names none."""
    if named := env.get("LIS_ATTACH"):
        return named
    notebook = opened(env)
    run = None if notebook is None else notebook.ours.get("attach")
    return run if isinstance(run, str) else None
