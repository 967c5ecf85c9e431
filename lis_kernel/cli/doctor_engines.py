"""`lis doctor`'s rows for the container engines: what they are, and the one thing left to do.

Both are optional: absent is None, not a failure. Nothing is started for long: Docker's daemon is
asked where there is one, Podman by its command.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lis_kernel.errors import SandboxUnavailable
from lis_kernel.sandbox import container_image
from lis_kernel.sandbox.container_engine import LAST_SECONDS, DockerEngine

__all__ = ["docker", "podman"]

Row = tuple[bool | None, str]
SECONDS = 20
OWN_KERNEL = ("kata", "krun", "runsc")
"""Runtimes that do not let the code inside speak to the host's kernel directly."""


def docker() -> Row:
    """Daemon, version, control groups, storage, runtimes, image."""
    if find_spec("docker") is None:
        return None, "the SDK is not installed: pip install 'lis-kernel[docker]'"
    try:
        client = DockerEngine.connect(LAST_SECONDS)
    except SandboxUnavailable as error:
        if "DOCKER_HOST" in os.environ or shutil.which("dockerd") or shutil.which("docker"):
            return None, str(error)
        return None, "not installed: apt-get install docker.io, and be in the group docker"
    with contextlib.closing(client):
        info = client.info()
        said = _words(
            info.get("ServerVersion", "?"),
            f"{info.get('CgroupVersion', '?')} ({info.get('CgroupDriver', '?')})",
            info.get("Driver", "?"),
            runtimes(info.get("Runtimes") or {}),
            info.get("DefaultRuntime", "?"),
        )
        built = bool(client.images.list(container_image.default_tag()))
    return _with_image(said, built, "docker")


def podman() -> Row:
    """As `docker`; and whether it starts a container, which its defaults do not everywhere."""
    found = shutil.which("podman")
    if found is None:
        return None, "not installed: apt-get install podman"
    if find_spec("docker") is None:
        return None, "the SDK is not installed: pip install 'lis-kernel[docker]'"
    done = _podman("info", "--format", "json")
    if done.returncode:
        return None, f"`podman info` fails: {_last(done.stderr)}"
    info: dict[str, Any] = json.loads(done.stdout)
    host, store = info["host"], info["store"]
    own = (host.get("ociRuntime") or {}).get("name", "?")
    said = _words(
        info.get("version", {}).get("Version", "?"),
        f"{host.get('cgroupVersion', '?').removeprefix('v')} ({host.get('cgroupManager', '?')})",
        store.get("graphDriverName", "?"),
        [own],
        own,
    )
    tag = container_image.default_tag()
    built = _podman("image", "exists", tag).returncode == 0
    if built:
        few = ("--ulimit=nofile=64:64", "--ulimit=nproc=4096:4096")
        tried = _podman("run", "--rm", "--network=none", *few, tag, "true")
        if tried.returncode:
            return None, f"{said}; starts no container, see containers.conf: {_last(tried.stderr)}"
    return _with_image(said, built, "podman")


def runtimes(known: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the OCI runtimes that can be used: a daemon lists what is not installed too."""
    return sorted(name for name, facts in known.items() if _there(name, facts.get("path") or ""))


def _there(name: str, path: str) -> bool:
    if name.startswith("io.containerd."):  # the daemon's own names for what starts a runtime
        return False
    return Path(path).is_file() if "/" in path else not path or shutil.which(path) is not None


def _words(version: str, groups: str, storage: str, names: Iterable[str], own: str) -> str:
    listed = [f"{name} (default)" if name == own else name for name in names]
    strong = [name for name in names if name.startswith(OWN_KERNEL)]
    kernel = "" if strong else ", none with a kernel of its own"
    return (
        f"{version}, cgroup v{groups}, storage {storage}, runtimes: {', '.join(listed) or '?'}"
        f"{kernel}"
    )


def _with_image(said: str, built: bool, backend: str) -> Row:
    if built:
        return True, f"{said}; image {container_image.default_tag()}"
    return None, f"{said}; no image yet: lis image build --backend {backend}"


def _podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
