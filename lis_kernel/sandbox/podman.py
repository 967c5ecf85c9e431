"""The `podman` backend: the `docker` backend, spoken to Podman's own Docker-compatible socket.

Podman has no daemon. Where its socket service does not run, this starts one for as long as it is
asked something (`podman system service`); containers live on without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lis_kernel.errors import ConfigError, SandboxUnavailable
from lis_kernel.sandbox.container_engine import API_SECONDS, load_sdk
from lis_kernel.sandbox.docker import DockerSandbox
from lis_kernel.sandbox.state import runtime_dir

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["PodmanSandbox"]

PASSED_ON = (
    "HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "CONTAINER_HOST",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
)
"""Without these `podman` would look at another store of containers."""
IDLE_SECONDS = 3
"""A service that we started ends itself after so long without a request: nothing is left behind.

Whoever holds a client for longer asks for a new one.
"""


class PodmanSandbox(DockerSandbox):
    """A container that Podman runs, as root or as an ordinary user."""

    backend: ClassVar[str] = "podman"
    plain_tmpfs: ClassVar[bool] = True
    # on systems with SELinux the bind mounts would need a label of the host's files changed
    security: ClassVar[tuple[str, ...]] = ("no-new-privileges", "label=disable")

    @classmethod
    def connect(cls, seconds: int = API_SECONDS) -> DockerClient:
        """A client of Podman's service, which is started if need be.

        Raises:
            SandboxUnavailable: no SDK, no podman, or its service does not start.
        """
        sdk = load_sdk()
        failed: Exception | None = None
        for find in (_running, _start):
            url = find()
            if url is None:
                continue
            try:
                client: DockerClient = sdk.DockerClient(base_url=url, timeout=seconds)
                client.ping()
                return client
            except (sdk.errors.DockerException, OSError) as error:
                failed = error
        raise SandboxUnavailable(f"podman's service does not answer: {failed}")

    @classmethod
    def runtime_of(cls, asked: str | None, daemon: Mapping[str, Any]) -> str:
        """Its own: Podman's Docker-compatible service takes a name and runs another (4.3)."""
        own = str(daemon.get("DefaultRuntime", ""))
        if asked not in (None, own):
            raise ConfigError(
                "runtime",
                f"podman's service runs every container with {own!r}, not {asked!r}.",
                "Set `runtime` under [engine] in containers.conf and restart the service, or use "
                "--backend docker.",
            )
        return own

    @classmethod
    def running(cls) -> DockerClient | None:
        try:
            return cls.connect() if _running() is not None else None
        except SandboxUnavailable:
            return None

    @classmethod
    def engine(cls) -> dict[str, Any]:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {"engine": "podman", "environment": environment}


def _running() -> str | None:
    """The socket of a service that the system or the user runs."""
    if url := os.environ.get("CONTAINER_HOST"):
        return url
    own = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    places = [own / "podman" / "podman.sock", runtime_dir() / "podman.sock"]
    if os.getuid() == 0:
        places.insert(0, Path("/run/podman/podman.sock"))
    return next((f"unix://{place}" for place in places if place.is_socket()), None)


def _start() -> str:
    podman = shutil.which("podman")
    if podman is None:
        raise SandboxUnavailable("podman is not installed: run `apt-get install podman`")
    socket = runtime_dir() / "podman.sock"
    socket.unlink(missing_ok=True)
    command = [podman, "system", "service", "--time", str(IDLE_SECONDS), f"unix://{socket}"]
    service = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=socket.parent,  # where a container's monitor leaves a file `oom` when memory runs out
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    while not socket.is_socket():
        if service.poll() is not None or time.monotonic() > deadline:
            raise SandboxUnavailable(f"`{' '.join(command)}` failed, status {service.poll()}")
        time.sleep(0.02)
    return f"unix://{socket}"
