"""The sandbox's Python environment: built once, read-only ever after.

An image is a virtual environment with pinned packages and compiled `.pyc` files under
`<data dir>/images/`, mounted at /opt/lis in every sandbox, with the base interpreter beside it. The
paths inside are the same on every machine, so tracebacks and trajectories are too. How it is built
stands in `image_build.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from lis_kernel.config import data_dir

__all__ = [
    "PREFIX",
    "PYTHON_HOME",
    "Image",
    "digest",
    "find",
    "inside",
    "key",
    "load",
    "open_to_all",
    "pins",
    "place",
    "requirements",
]

PREFIX = "/opt/lis"
"""Where the image is mounted."""
PYTHON_HOME = "/opt/python"
"""Where the base interpreter is mounted, unless it belongs to /usr."""
LAYOUT = 3
"""Raised when what is built changes, so that older images are not used."""


@dataclass(frozen=True)
class Image:
    """A built image: its folder on the host, its digest and its packages.

    `base` is the prefix of the host's interpreter that runs it; None if the sandbox's root file
    system has one of its own, see `rootfs.py`.
    """

    root: Path
    digest: str
    python: str
    packages: tuple[str, ...]
    base: Path | None = field(default_factory=lambda: Path(sys.base_prefix))

    @property
    def bound(self) -> Path | None:
        """The interpreter that must be bound at PYTHON_HOME; None if it is there already."""
        return None if self.base is None or inside(self.base) == str(self.base) else self.base


def requirements() -> str:
    """The pinned packages, as pip reads them."""
    return files("lis_kernel.sandbox").joinpath("requirements.txt").read_text("utf-8")


def pins() -> tuple[str, ...]:
    """`name==version` of each pinned package."""
    lines = (line.partition("#")[0].strip() for line in requirements().splitlines())
    return tuple(line for line in lines if line)


@cache
def key(*parts: str) -> str:
    """Changes whenever an image for an interpreter of these properties must be built anew."""
    made_of = (str(LAYOUT), *parts, platform.machine(), requirements())
    return _sha256(*made_of)[:12]


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def place() -> Path:
    """Where the image is, or will be."""
    version = f"py{sys.version_info[0]}.{sys.version_info[1]}"
    return data_dir() / "images" / f"{version}-{key(sys.version, sys.base_prefix)}"


def find() -> Image | None:
    """The image that fits this interpreter and release, if it has been built."""
    return load(place(), Path(sys.base_prefix))


def load(root: Path, base: Path | None) -> Image | None:
    """The image in the folder `root`, run by the interpreter below `base`; None if incomplete."""
    try:
        facts = json.loads((root / "manifest.json").read_text("utf-8"))
        return Image(root, facts["digest"], facts["python"], tuple(facts["packages"]), base)
    except (OSError, ValueError, KeyError):
        return None


def digest(*parts: str) -> str:
    """What an image is known by."""
    return f"sha256:{_sha256(*parts)}"


def open_to_all(root: Path) -> None:
    """Let everybody read it, whatever our umask: the sandbox's processes may be somebody else."""
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(place, name)
            if not path.is_symlink():
                mode = path.stat().st_mode & 0o777
                path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    root.chmod(0o755)


def inside(base: Path) -> str:
    """Where the base interpreter's prefix stands in the sandbox."""
    return str(base) if base == Path("/usr") else PYTHON_HOME
