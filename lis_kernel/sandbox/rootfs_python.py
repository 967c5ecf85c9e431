"""The guest's Python on a root of the user's own: ours if it runs there, else one made for its own.

`choose` is called by `sandbox/bubblewrap.py` before a sandbox with a `rootfs` starts, and by
`lis image build --rootfs`. It tries a real sandbox, once for each tree. What is built is the same
pinned packages, fetched by the host's pip for the Python that the tree holds; that Python itself
runs in sandboxes only.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from lis_kernel.config import data_dir
from lis_kernel.errors import ConfigError, SandboxError, SandboxUnavailable, StartTimeout
from lis_kernel.protocols import Progress
from lis_kernel.sandbox import image, image_build
from lis_kernel.sandbox.rootfs import FIELD, Rootfs, find_inside

__all__ = ["COMPILED", "choose", "find_python"]

Trial = Callable[[image.Image, Path | None], Awaitable[None]]
"""Starts a sandbox with this image and ends it; with a folder, it first compiles the packages and
puts what `guest/compile.py` made into it. Raises what a start raises."""
COMPILED = "compiled"
OLDEST = 11
"""Minor version of Python 3."""
BINARIES = ("/usr/local/bin", "/usr/bin")
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
ELF = {"x86_64": 62, "aarch64": 183}


@dataclass(frozen=True)
class Python:
    """An interpreter in a tree: its path there, its minor version, and which wheels it takes."""

    path: str
    minor: int
    platforms: tuple[str, ...]


async def choose(
    tree: Rootfs, trial: Trial, say: Callable[[str], None], progress: Progress
) -> image.Image:
    """The image for sandboxes on `tree`; built if there is none, about a minute.

    Raises:
        ConfigError: no Python of ours or of its own runs on it.
        SandboxUnavailable: there can be no sandbox here at all, or pip could not fetch.
    """
    ours = image.find() or await image_build.prepare(say, progress)
    lock = FileLock(tree.store / "image.lock", thread_local=False)
    await asyncio.to_thread(lock.acquire)
    try:
        chosen = tree.store / f"image-{ours.root.name}"
        name = chosen.read_text("utf-8") if chosen.exists() else None
        if name == ours.root.name:
            return ours
        if name is not None and (known := image.load(data_dir() / "images" / name, None)):
            return known
        found, why = ours, await _failure(trial, ours)
        if why:
            found = await _own(tree, trial, say, why)
        chosen.write_text(found.root.name, "utf-8")
        return found
    finally:
        lock.release()


async def _failure(trial: Trial, tried: image.Image, target: Path | None = None) -> str:
    """Why the image does not run there; empty if it does."""
    try:
        await trial(tried, target)
    except SandboxUnavailable:
        raise
    except (SandboxError, StartTimeout) as error:
        return str(error).strip().rpartition("\n")[2] or "it does not start"
    return ""


async def _own(tree: Rootfs, trial: Trial, say: Callable[[str], None], why: str) -> image.Image:
    python = find_python(tree.root)
    if python is None:
        raise ConfigError(
            FIELD,
            f"the sandbox's Python does not run on {tree.root} ({why}), which has none of its own "
            f"that is 3.{OLDEST} or newer.",
            "Install one there, e.g. `chroot DIR apt-get install python3`.",
        )
    root = _place(python)
    with FileLock(root.with_suffix(".lock"), thread_local=False):
        if (known := image.load(root, None)) and not await _failure(trial, known):
            return known
        say(f"building the sandbox's packages for {python.path} of {tree.root} (about a minute) …")
        shutil.rmtree(root, ignore_errors=True)
        made = image.Image(root, "", f"3.{python.minor}", image.pins(), None)
        compiled = root / COMPILED
        try:
            await image_build.stoppable(lambda stop: _install(root, python, stop))
            if why := await _failure(trial, made, compiled):
                raise ConfigError(
                    FIELD, f"{python.path} of {tree.root} cannot run the sandbox's kernel: {why}"
                )
            await asyncio.to_thread(_take_in, root, compiled, python)
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
    built = image.load(root, None)
    assert built is not None  # just written
    return built


def _place(python: Python) -> Path:
    kind = f"py3.{python.minor}-{python.platforms[0]}-{PurePosixPath(python.path).parts[2]}"
    return data_dir() / "images" / f"{kind}-{image.key(python.path, *python.platforms)}"


def find_python(root: Path) -> Python | None:
    """The newest fitting interpreter of the tree, found by looking at its files."""
    for folder in BINARIES:
        place = find_inside(root, folder)
        names = os.listdir(place) if place is not None and place.is_dir() else []
        minors = sorted(
            (int(m[1]) for name in names if (m := re.fullmatch(r"python3\.(\d+)", name))),
            reverse=True,
        )
        for minor in minors:
            path = f"{folder}/python3.{minor}"
            binary = find_inside(root, path)
            if minor >= OLDEST and binary is not None and _is_native(binary):
                return Python(path, minor, _platforms(root))
    return None


def _is_native(binary: Path) -> bool:
    try:
        with binary.open("rb") as file:
            head = file.read(20)
    except OSError:
        return False
    native = ELF.get(platform.machine(), -1)
    return head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") == native


def _platforms(root: Path) -> tuple[str, ...]:
    """The names that wheels for this tree's C library may carry, the newest first."""
    machine = platform.machine()
    for folder in (f"/lib/{machine}-linux-gnu", "/lib64", "/lib", "/usr/lib64", "/usr/lib"):
        libc = find_inside(root, f"{folder}/libc.so.6")
        if libc is not None and (match := re.search(rb"version 2\.(\d+)", libc.read_bytes())):
            names: list[str] = []
            for minor in range(int(match[1]), 4, -1):
                names.append(f"manylinux_2_{minor}_{machine}")
                if minor in LEGACY:
                    names.append(f"{LEGACY[minor]}_{machine}")
            return tuple(names)
    return tuple(f"musllinux_1_{minor}_{machine}" for minor in (2, 1, 0))


def _install(root: Path, python: Python, stop: threading.Event) -> None:
    """The pinned packages as `venv` would lay them out, without running that Python."""
    site = root / "lib" / f"python3.{python.minor}" / "site-packages"
    site.mkdir(parents=True)
    pins = root / "requirements.txt"
    pins.write_text(image.requirements(), "utf-8")
    target = ["--implementation", "cp", "--python-version", f"3.{python.minor}"]
    for name in python.platforms:
        target += ["--platform", name]
    options = ["--quiet", "--no-input", "--no-deps", "--no-compile", "--only-binary=:all:"]
    where = ["--target", str(site), "--requirement", str(pins)]
    image_build.pip(stop, "install", *options, *target, *where)
    for name in ("bin", "share"):
        if (site / name).is_dir():
            (site / name).rename(root / name)
    scripts = root / "bin"
    scripts.mkdir(exist_ok=True)
    for script in scripts.iterdir():
        first, _, rest = script.read_bytes().partition(b"\n")
        if first.startswith(b"#!"):
            script.write_bytes(f"#!{image.PREFIX}/bin/python\n".encode() + rest)
    for link, to in (("python", python.path), ("python3", "python")):
        (scripts / link).symlink_to(to)
    (scripts / f"python3.{python.minor}").symlink_to("python")
    home = PurePosixPath(python.path).parent
    (root / "pyvenv.cfg").write_text(
        f"home = {home}\ninclude-system-site-packages = false\nversion = 3.{python.minor}\n",
        "utf-8",
    )
    image.open_to_all(root)


def _take_in(root: Path, compiled: Path, python: Python) -> None:
    """Put the compiled files to their sources and write the manifest: the image is complete."""
    version = (compiled / "version").read_text("utf-8")[:100]
    made = compiled / "pyc" / image.PREFIX.lstrip("/")
    for path in made.rglob("*.pyc"):
        source = root / path.relative_to(made)
        source.parent.joinpath("__pycache__").mkdir(exist_ok=True)
        path.rename(source.parent / "__pycache__" / source.name)
    for fonts in (compiled / "matplotlib").glob("*.json"):
        (root / "share" / "matplotlib").mkdir(parents=True, exist_ok=True)
        fonts.rename(root / "share" / "matplotlib" / fonts.name)
    shutil.rmtree(compiled)
    image.open_to_all(root)
    packages = image.pins()
    facts = {
        "digest": image.digest(*packages, version, *python.platforms),
        "python": version,
        "packages": packages,
    }
    partial = root / "manifest.json.partial"
    partial.write_text(json.dumps(facts, indent=1), "utf-8")
    partial.replace(root / "manifest.json")
