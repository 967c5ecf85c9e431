"""The container backends' image: any base with Python, and the pinned environment at /opt/lis.

`lis image build --backend docker` builds it from the Dockerfile beside this file. The host's pip,
as the user configured it, fetches the wheels that fit the base's interpreter first, so the build
itself has no network. Packages and interpreter are written into the image's labels.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lis_kernel.config import data_dir
from lis_kernel.errors import SandboxUnavailable
from lis_kernel.sandbox.image import PREFIX, requirements

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["BASE", "PYTHON", "build", "default_tag", "facts"]

PYTHON = f"{PREFIX}/bin/python"
BASE = "python:3.11-slim-bookworm"
"""What the image is made from unless the user names a base; its digest goes into the labels."""
LAYOUT = 1
"""Raised when the host expects something else of the image, so that older ones are not used."""
TOOLS = ("git", "bash")
"""What a base must have or gets by apt-get, each the name of a command and of its package."""
PROBE = f"""
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v $python >/dev/null || continue
    $python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || continue
    $python -c 'import json, platform, shutil, sys; print(json.dumps(dict(
        executable=sys.executable, version=platform.python_version(),
        machine=platform.machine(), libc=platform.libc_ver(),
        missing=[t for t in {json.dumps(TOOLS)} if not shutil.which(t)])))'
    exit 0
done
exit 9
"""


def default_tag() -> str:
    """Name and tag of this release's image."""
    return f"lis-kernel-sandbox:{_key()}"


def _key() -> str:
    parts = (str(LAYOUT), requirements(), _dockerfile())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _dockerfile() -> str:
    return files("lis_kernel.sandbox").joinpath("Dockerfile").read_text("utf-8")


def facts(client: DockerClient, name: str, backend: str) -> Mapping[str, Any]:
    """Digest, interpreter and packages of the image `name`, for the record.

    Raises:
        SandboxUnavailable: there is no such image, with what to run.
    """
    from docker.errors import APIError, ImageNotFound

    try:
        image = client.images.get(name)
    except ImageNotFound as error:
        made = "" if name == default_tag() else f" --base BASE --tag {name}"
        raise SandboxUnavailable(
            f"{backend} has no image {name}: run `lis image build --backend {backend}{made}`"
        ) from error
    except APIError as error:
        raise SandboxUnavailable(f"{backend}: {error.explanation or error}") from error
    labels = image.labels or {}
    known = {"image": image.id, "image_name": name}
    if "lis.packages" not in labels:
        return {**known, "packages": None}
    return {
        **known,
        "python": labels["lis.python"],
        "base": labels["lis.base"],
        "packages": labels["lis.packages"].split(),
    }


def build(
    client: DockerClient,
    *,
    base: str | None = None,
    tag: str | None = None,
    backend: str = "docker",
    say: Callable[[str], None] = lambda _: None,
) -> Mapping[str, Any]:
    """Build the image and return its `facts`; about two minutes, the wheels' downloads included.

    Raises:
        SandboxUnavailable: the base does not do, pip found no wheel, or the build failed.
    """
    base, tag = base or BASE, tag or default_tag()
    digest = _base_digest(client, base, say)
    python = _probe(client, base)
    lock = data_dir() / "images" / "container.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # one at a time: the clean-up of one build could take a layer from under another
    with FileLock(lock), tempfile.TemporaryDirectory(prefix="lis-image-") as folder:
        context = Path(folder)
        (context / "requirements.txt").write_text(requirements(), "utf-8")
        (context / "Dockerfile").write_text(_dockerfile(), "utf-8")
        say(f"fetching wheels for Python {python['version']} …")
        packages = _fetch_wheels(context / "wheels", python)
        if python["missing"]:
            say(f"the base lacks {', '.join(python['missing'])}: apt-get runs with network")
        say(f"building {tag} from {base} …")
        _build(
            client,
            context,
            tag=tag,
            network_mode=None if python["missing"] else "none",
            buildargs={
                "BASE": base,
                "PYTHON": python["executable"],
                "PACKAGES": " ".join(python["missing"]),
            },
            labels={
                "lis.image": _key(),
                "lis.base": f"{base}@{digest}",
                "lis.python": python["version"],
                "lis.packages": " ".join(packages),
            },
        )
        # the first stage's layers hold the wheels a second time
        client.images.prune(filters={"dangling": True, "label": "lis.stage=build"})
    return facts(client, tag, backend)


def _base_digest(client: DockerClient, base: str, say: Callable[[str], None]) -> str:
    from docker.errors import APIError, ImageNotFound

    try:
        try:
            image = client.images.get(base)
        except ImageNotFound:
            say(f"pulling {base} …")
            image = client.images.pull(base)
    except (APIError, OSError) as error:
        raise SandboxUnavailable(
            f"the base image {base} is not here and cannot be pulled: {error}. "
            "Name a local one with --base."
        ) from error
    return str(image.id)


def _probe(client: DockerClient, base: str) -> dict[str, Any]:
    """The base's interpreter and what the base lacks."""
    from docker.errors import APIError, ContainerError

    try:
        said = client.containers.run(
            base, entrypoint=["/bin/sh", "-c", PROBE], command=[], network_mode="none", remove=True
        )
        found: dict[str, Any] = json.loads(said)
    except (APIError, ContainerError, ValueError) as error:
        raise SandboxUnavailable(
            f"the base image {base} has no Python 3.11 or newer with its `venv` module: {error}"
        ) from error
    return found


def _fetch_wheels(target: Path, python: Mapping[str, Any]) -> list[str]:
    """Let the host's pip put the wheels into `target`; the packages as `name==version`."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--dest", str(target), "--no-deps"),
        *("--only-binary", ":all:", "--implementation", "cp"),
        *("--python-version", ".".join(python["version"].split(".")[:2])),
    ]
    for platform in platforms(python["machine"], *python["libc"]):
        command += ["--platform", platform]
    command += ["--requirement", str(target.parent / "requirements.txt"), "pip"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise SandboxUnavailable(f"pip could not fetch the sandbox's packages:\n{tail}")
    names = (wheel.name.split("-")[:2] for wheel in target.glob("*.whl"))
    return sorted("==".join(parts) for parts in names)


def platforms(machine: str, libc: str, version: str) -> list[str]:
    """The wheel platforms that an interpreter with this C library takes, the newest first."""
    if libc != "glibc":  # musl does not tell its version; 1.2 is of 2020
        return [f"musllinux_1_{minor}_{machine}" for minor in (2, 1)]
    newest = int(version.split(".")[1])
    found = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 4, -1)]
    return [*found, f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"linux_{machine}"]


def _build(client: DockerClient, context: Path, **options: Any) -> None:
    from docker.errors import APIError

    said: list[str] = []
    try:
        lines = client.api.build(path=str(context), rm=True, forcerm=True, decode=True, **options)
        for line in lines:
            said.append(str(line.get("stream") or line.get("error") or "").strip())
            if "error" in line:
                tail = "\n".join([text for text in said if text][-8:])
                raise SandboxUnavailable(f"the image could not be built:\n{tail}")
    except (APIError, OSError) as error:
        raise SandboxUnavailable(f"the image could not be built: {error}") from error
