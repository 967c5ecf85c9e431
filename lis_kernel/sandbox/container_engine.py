"""How an engine is reached: Docker's daemon on this machine, through its SDK.

`docker.py` builds on it, `podman.py` reaches another engine by the same words. The daemon must run
on this machine, for a sandbox's sockets do not travel.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lis_kernel.errors import ConfigError, SandboxUnavailable

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["API_SECONDS", "LAST_SECONDS", "DockerEngine", "load_sdk"]

API_SECONDS, LAST_SECONDS = 60, 5
SOCKET = "unix:///var/run/docker.sock"
SHIMS = "io.containerd."
"""Newer daemons take a runtime by such a name too, without having it in their list."""


class DockerEngine:
    """Docker's daemon, as the environment names it."""

    @classmethod
    def connect(cls, seconds: int = API_SECONDS) -> DockerClient:
        """A client of the daemon.

        Raises:
            SandboxUnavailable: no SDK, no daemon, or one on another machine.
        """
        sdk = load_sdk()
        try:
            client: DockerClient = sdk.from_env(timeout=seconds)
        except sdk.errors.DockerException as error:
            raise SandboxUnavailable(f"no Docker daemon answers: {_silence(str(error))}") from error
        if client.api.base_url != "http+docker://localhost":  # how the SDK writes a unix socket
            raise SandboxUnavailable(
                f"the daemon at {client.api.base_url} is on another machine; the sandbox's unix "
                "sockets do not reach it. Use a daemon on this one."
            )
        return client

    @classmethod
    def running(cls) -> DockerClient | None:
        """A client of an engine that runs already; None where one would have to be started."""
        if not Path(cls.engine()["socket"]).is_socket():
            return None
        try:
            return cls.connect(LAST_SECONDS)
        except SandboxUnavailable:
            return None

    @classmethod
    def engine(cls) -> dict[str, Any]:
        """What a program of the standard library needs to remove a container without us.

        Read by `container_reaper.py`, in the record.
        """
        socket = os.environ.get("DOCKER_HOST", SOCKET).removeprefix("unix://")
        return {"engine": "docker", "socket": socket}

    @classmethod
    def runtime_of(cls, asked: str | None, daemon: Mapping[str, Any]) -> str:
        """The OCI runtime that a container will have; `daemon` is what it says of itself.

        Raises:
            ConfigError: it cannot have the one that was asked for.
        """
        known = sorted(daemon.get("Runtimes") or {})
        if asked is None:
            return str(daemon.get("DefaultRuntime", ""))
        if asked not in known and not asked.startswith(SHIMS):
            raise ConfigError(
                "runtime",
                f"the daemon has no runtime {asked!r}.",
                f"It has {', '.join(known) or 'none to name'}: register yours with the daemon, or "
                "take one of these.",
            )
        return asked


def load_sdk() -> Any:
    """The Docker SDK. Raises: SandboxUnavailable."""
    try:
        import docker
    except ImportError as error:
        raise SandboxUnavailable(
            "the Docker SDK is not installed: run `pip install 'lis-kernel[docker]'`"
        ) from error
    return docker


def _silence(said: str) -> str:
    """Why a daemon does not answer, and the fix; the SDK wraps the reason in three others."""
    if "PermissionError" in said:
        return "its socket is closed to this user: be in the group `docker`, or be root"
    if "FileNotFoundError" in said or "ConnectionRefusedError" in said:
        return "nothing listens on its socket: start it, or set DOCKER_HOST"
    return f"{said}: start it, be in its group, or set DOCKER_HOST"
