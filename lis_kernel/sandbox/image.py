"""The sandbox's Python environment: built once, read-only ever after.

An image is a virtual environment with pinned packages and compiled `.pyc` files under
`<data dir>/images/`, mounted at /opt/lis in every sandbox, with the base interpreter beside it. The
paths inside are the same on every machine, so tracebacks and trajectories are too.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

from lis_kernel.config import data_dir
from lis_kernel.errors import SandboxUnavailable

__all__ = ["PREFIX", "PYTHON_HOME", "Image", "build", "find", "load"]

PREFIX = "/opt/lis"
"""Where the image is mounted."""
PYTHON_HOME = "/opt/python"
"""Where the base interpreter is mounted, unless it belongs to /usr."""
LAYOUT = 3
"""Raised when what `build` makes changes, so that older images are not used."""


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


def _root() -> Path:
    version = f"py{sys.version_info[0]}.{sys.version_info[1]}"
    return data_dir() / "images" / f"{version}-{key(sys.version, sys.base_prefix)}"


def find() -> Image | None:
    """The image that fits this interpreter and release, if it has been built."""
    return load(_root(), Path(sys.base_prefix))


def load(root: Path, base: Path | None) -> Image | None:
    """The image in the folder `root`, run by the interpreter below `base`; None if incomplete."""
    try:
        facts = json.loads((root / "manifest.json").read_text("utf-8"))
        return Image(root, facts["digest"], facts["python"], tuple(facts["packages"]), base)
    except (OSError, ValueError, KeyError):
        return None


def build(say: Callable[[str], None] = lambda _: None) -> Image:
    """Build the image unless it is there; about 40 seconds with pip's downloads.

    Safe to call from several processes at once, and to interrupt: half an image is never found.

    Raises:
        SandboxUnavailable: pip is missing or could not install the packages.
    """
    if (image := find()) is not None:  # perhaps where we may not write
        return image
    root = _root()
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_suffix(".lock")):
        image = find()
        if image is not None:
            return image
        shutil.rmtree(root, ignore_errors=True)
        say("building the sandbox's Python environment (once, about a minute) …")
        _install(root)
        python = ["--python", str(root / "bin" / "python")]
        listing = pip(*python, "list", "--format=freeze", "--disable-pip-version-check")
        packages = tuple(listing.split())
        _relocate(root)
        open_to_all(root)
        manifest = {
            "digest": digest(*packages, sys.version),
            "python": platform.python_version(),
            "packages": packages,
        }
        partial = root / "manifest.json.partial"
        partial.write_text(json.dumps(manifest, indent=1), "utf-8")
        partial.replace(root / "manifest.json")
        say(f"sandbox environment ready: {len(packages)} packages")
    image = find()
    if image is None:
        raise SandboxUnavailable(f"the sandbox image in {root} vanished while it was built")
    return image


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


def pip(*arguments: str) -> str:
    """Run this interpreter's pip; what it said.

    Raises:
        SandboxUnavailable: there is none, or it failed.
    """
    command = [sys.executable, "-m", "pip", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        hint = (
            "this Python has no pip: run `python -m ensurepip`"
            if "No module named pip" in tail
            else "pip could not install the sandbox's packages"
        )
        raise SandboxUnavailable(f"{hint}:\n{tail}")
    return done.stdout


def _install(root: Path) -> None:
    import venv

    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)
    wanted = root / "requirements.txt"
    wanted.write_text(requirements(), "utf-8")
    python = ["--python", str(root / "bin" / "python")]
    pip(*python, "install", "--quiet", "--no-input", "--compile", "--requirement", str(wanted))
    # what pip leaves uncompiled costs every cold start: 3.5 times slower without .pyc
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", str(root / "lib")],
        capture_output=True,
        check=False,
    )
    # matplotlib scans every font at its first import, 1-2 s, unless it finds this cache
    subprocess.run(
        [str(root / "bin" / "python"), "-c", "import matplotlib.font_manager"],
        env={**os.environ, "MPLCONFIGDIR": str(root / "share" / "matplotlib")},
        capture_output=True,
        check=False,
    )


def _relocate(root: Path) -> None:
    """Let the environment name the paths that it has inside the sandbox."""
    home = inside(Path(sys.base_prefix)) + "/bin"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (root / "pyvenv.cfg").write_text(
        f"home = {home}\ninclude-system-site-packages = false\n"
        f"version = {platform.python_version()}\n",
        "utf-8",
    )
    scripts = root / "bin"
    for link in ("python", "python3", f"python{version}"):
        (scripts / link).unlink(missing_ok=True)
        (scripts / link).symlink_to(f"{home}/python{version}" if link == "python" else "python")
    for script in scripts.iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        data = script.read_bytes()
        if data.startswith(b"#!" + os.fsencode(root)):
            first, _, rest = data.partition(b"\n")
            script.write_bytes(first.replace(os.fsencode(root), PREFIX.encode()) + b"\n" + rest)


def inside(base: Path) -> str:
    """Where the base interpreter's prefix stands in the sandbox."""
    return str(base) if base == Path("/usr") else PYTHON_HOME
