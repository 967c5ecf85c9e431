"""The host's side of a sandbox's files: one private folder a sandbox, and safe ways in and out.

`<runtime dir>/<8 hex>/` is a sandbox's folder: a record of what it is, and an exclusive lock on
`owner` that says that its owner lives; what dead owners left is swept when the next one is made.
`files` holds what the sandbox may write (`testbed`, `tmp`, `home`, `shm`) and its sockets (`run`):
in the folder, or on the disk of the sandbox's keeper. What comes out is hostile: no path is
followed through a symlink, and only regular files are opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lis_kernel.errors import SandboxError
from lis_kernel.sandbox import inward
from lis_kernel.sandbox.acting import acting_as
from lis_kernel.sandbox.keeper import UID_BITS
from lis_kernel.sandbox.reaper import RECORD, reap, remove_tree

__all__ = ["StateDir", "new_folder", "open_beneath", "owner_alive", "private_folder", "runtime_dir"]

DIRECTORIES = ("testbed/input", "testbed/documents", "testbed/output", "tmp", "home", "run", "shm")
DUPLICATE = Path(__file__).parent.parent / "guest" / "duplicate.py"
SWEEP_SECONDS = 1.0
_swept: dict[Path, float] = {}
"""When this process last swept a runtime folder."""
MAX_FILES = 10_000
"""Most files that are taken out of one sandbox."""
MAX_DEPTH = 50
"""Folders in each other that are looked into; each takes a descriptor."""


def runtime_dir() -> Path:
    """A private, short folder: a unix socket's path may have 107 bytes only.

    Raises:
        SandboxError: the folder belongs to somebody else.
    """
    root = Path(os.environ.get("LIS_RUNTIME_DIR") or Path("/tmp") / f"lis-{os.getuid()}")
    private_folder(root, "LIS_RUNTIME_DIR")
    return root


def private_folder(path: Path, variable: str = "LIS_ZYGOTE_DIR") -> None:
    """See that the folder `path` is there and that nobody else may enter it.

    Raises:
        SandboxError: it belongs to somebody else; `variable` sets another.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise SandboxError(f"{path} is not a folder of this user; set {variable} to another")
    path.chmod(0o700)


def new_folder(base: Path | None = None) -> Path:
    """A folder's name for a new sandbox; what dead owners left beside it is swept first.

    `base` is the runtime folder unless given.
    """
    base = base or runtime_dir()
    if time.monotonic() - _swept.get(base, -SWEEP_SECONDS) >= SWEEP_SECONDS:
        sweep(base)  # looks at every folder, and hundreds may be started in one go
        _swept[base] = time.monotonic()
    return base / f"{secrets.randbits(UID_BITS):08x}"


class StateDir:
    """One sandbox's folder. Made by a backend's `start`, removed by its `stop`.

    Args:
        folder: from `new_folder`, to be furnished by the caller; None for one that is furnished.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.root = folder or new_folder()
        self.name = self.root.name
        self.files = self.root
        self._uid = -1
        # made under another name until the lock is held, so that no sweep can take it for dead
        making = self.root.with_name(f".{self.name}")
        making.mkdir(mode=0o700)
        self._owner = os.open(making / "owner", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._owner, str(os.getpid()).encode())
        making.rename(self.root)
        if folder is None:
            self.furnish()

    def furnish(self, disk: Path | None = None, uid: int | None = None) -> None:
        """Make the sandbox's own folders: on `disk` if there is one, owned by `uid` if not us."""
        self.adopt(disk, uid)
        for directory in DIRECTORIES:
            path = self.files
            for step in directory.split("/"):
                path = path / step
                if not path.is_dir():
                    with acting_as(self._uid):
                        path.mkdir(mode=0o700)

    def adopt(self, disk: Path | None, uid: int | None = None) -> None:
        """As `furnish`, for a disk on which the sandbox itself made the folders."""
        self.files = disk or self.root
        self._uid = -1 if uid is None else uid

    async def copy_to(self, other: StateDir, uid: int | None = None) -> None:
        """Make what is in the sandbox's folders be in another's, in which nothing runs yet.

        `uid` as in `put`.

        Raises:
            SandboxError: it does not fit there, or cannot be copied.
        """
        with contextlib.ExitStack() as stack:
            opened: list[int] = []
            for directory in MOUNTS.values():
                for files in (self.files, other.files):
                    opened.append(os.open(files / directory, os.O_RDONLY | os.O_DIRECTORY))
                    stack.callback(os.close, opened[-1])
                for name in os.listdir(opened[-1]):
                    await asyncio.to_thread(remove_tree, other.files / directory / name)
            words = [str(DUPLICATE), str(other._uid if uid is None else uid), *map(str, opened)]
            process = _duplicate(words, opened)
            try:
                _, said = await asyncio.to_thread(process.communicate)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            why = said.decode("utf-8", "replace").strip().splitlines() or ["it ended"]
            raise SandboxError(f"the sandbox's files could not be copied: {why[-1]}")

    def record(self, facts: dict[str, Any]) -> None:
        """Write down what `lis ps` and the reaper must know, in one step."""
        partial = self.root / f"{RECORD}.partial"
        partial.write_text(json.dumps(facts, indent=1), "utf-8")
        partial.replace(self.root / RECORD)

    def create(self, name: str) -> int:
        """A new file in `run`, open; call while nothing runs in the sandbox."""
        path = self.files / "run" / name
        remove_tree(path)  # whatever the kernel before made of it
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with acting_as(self._uid):
            return os.open(path, flags, 0o600)

    def host_path(self, path: str) -> tuple[Path, list[str]]:
        """The writable root that holds the sandbox's absolute `path`, and the steps below it."""
        parts = PurePosixPath(path).parts
        for mount, directory in MOUNTS.items():
            steps = PurePosixPath(mount).parts
            if parts[: len(steps)] == steps:
                rest = list(parts[len(steps) :])
                if ".." in rest:
                    break
                return self.files / directory, rest
        raise SandboxError(f"{path!r} is not in a writable folder of the sandbox: {list(MOUNTS)}")

    def put(self, source: Path, target: str, uid: int | None = None) -> None:
        """Copy a host file or folder into the sandbox; see `inward.put`.

        `uid` will own it; None for the owner of all files here, -1 for us.
        """
        root, steps = self.host_path(target)
        inward.put(source, root, steps, self._uid if uid is None else uid)

    def read(self, path: str, limit: int, since: int = 0) -> bytes | None:
        """At most `limit` bytes of a regular file, or None; see `protocols.Sandbox.read`."""
        root, rest = self.host_path(path)
        fd = open_beneath(root, rest)
        if fd is None:
            return None
        info = os.fstat(fd)  # a folder cannot even become a file object
        if not stat.S_ISREG(info.st_mode) or info.st_ctime_ns < since:
            os.close(fd)
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read(limit)

    def listing(self, path: str, most: int, since: int = 0) -> list[tuple[str, int]]:
        """Names and bytes of the regular files below `path`; see `protocols.Sandbox.listing`."""
        root, rest = self.host_path(path)
        top = open_beneath(root, rest, os.O_DIRECTORY)
        if top is None:
            return []
        found: list[tuple[str, int]] = []
        try:
            for name, _, _, info in _walk(top):
                if len(found) == most:
                    break
                if stat.S_ISREG(info.st_mode) and info.st_ctime_ns >= since:
                    found.append((name, info.st_size))
        finally:
            os.close(top)
        return found

    def collect(
        self, path: str, target: Path, limit: int, since: int = 0
    ) -> tuple[list[str], list[str]]:
        """Copy the regular files below `path` out; see `protocols.Sandbox.collect`."""
        root, rest = self.host_path(path)
        taken: list[str] = []
        refused: list[str] = []
        top = open_beneath(root, rest, os.O_DIRECTORY)
        if top is None:
            return taken, refused
        total = 0
        try:
            for name, parent, leaf, info in _walk(top):
                if info.st_ctime_ns < since:  # which the sandbox cannot set, as it can the others
                    continue
                shown = name.encode("unicode_escape").decode("ascii")
                if not stat.S_ISREG(info.st_mode):
                    refused.append(f"{shown}: {_kind(info.st_mode)}, not a plain file")
                elif info.st_nlink > 1:
                    refused.append(f"{shown}: has {info.st_nlink} hard links")
                elif len(taken) >= MAX_FILES:
                    refused.append(f"{shown} and what follows: more than {MAX_FILES} files")
                    break
                elif total + info.st_size > limit:
                    refused.append(f"{shown}: {info.st_size} bytes would pass the limit of {limit}")
                else:
                    size = _copy(parent, leaf, target, name, limit - total)
                    if size is None:
                        refused.append(
                            f"{shown}: changed while it was copied, or a name of no use here"
                        )
                    else:
                        total += size
                        taken.append(name)
        finally:
            os.close(top)
        return taken, refused

    def remove(self) -> None:
        """Delete the folder; may be called twice."""
        remove_tree(self.root)
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1


MOUNTS = {"/testbed": "testbed", "/tmp": "tmp", "/home/user": "home"}
"""The sandbox's writable folders and where they lie below a state dir."""


def owner_alive(folder: Path) -> bool | None:
    """Whether the owner's lock is held; None if that cannot be told (not ours, or no folder)."""
    try:
        fd = os.open(folder / "owner", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def sweep(base: Path) -> None:
    """Remove what dead owners left, should their keepers have died as well."""
    for entry in base.iterdir():
        # one that is being made has its lock in a moment
        try:
            young = entry.name[0] == "." and time.time() - entry.lstat().st_mtime < 60
        except OSError:
            continue
        if not young and owner_alive(entry) is False:
            reap(entry.with_name(entry.name.lstrip(".")))


def open_beneath(root: Path, steps: list[str], flags: int = 0) -> int | None:
    """Open `root/steps` one step at a time, following no symlink; None if it cannot be."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            kind = flags if last else os.O_DIRECTORY
            # O_NONBLOCK: opening a fifo must not wait for its writer
            mode = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind
            inner = os.open(step, mode, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError:
        os.close(fd)
        return None
    return fd


def _walk(
    top: int, prefix: str = "", depth: int = MAX_DEPTH
) -> Iterator[tuple[str, int, str, os.stat_result]]:
    """Every non-directory below the open folder `top`: name, parent's fd, last part, lstat.

    A folder at the depth limit comes as it is.
    """
    for leaf in sorted(os.listdir(top)):
        name = f"{prefix}{leaf}"
        try:
            info = os.stat(leaf, dir_fd=top, follow_symlinks=False)
        except OSError:
            continue
        if not stat.S_ISDIR(info.st_mode) or depth == 0:
            yield name, top, leaf, info
            continue
        try:
            fd = os.open(
                leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top
            )
        except OSError:
            continue
        try:
            yield from _walk(fd, name + "/", depth - 1)
        finally:
            os.close(fd)


def _copy(parent: int, leaf: str, target: Path, name: str, limit: int) -> int | None:
    """Copy one file; the bytes written, or None if it turned out not to be what it was."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(leaf, flags, dir_fd=parent)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as source:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            return None
        destination = target / name
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with destination.open("xb") as out:
                size = 0
                while size < limit and (piece := source.read(min(1 << 20, limit - size))):
                    size += out.write(piece)
                return size
        except (OSError, ValueError):
            return None


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISDIR, f"a folder more than {MAX_DEPTH} deep"),
    ):
        if test(mode):
            return word
    return "not a file"


def _duplicate(words: list[str], opened: list[int]) -> subprocess.Popen[bytes]:
    """Not asyncio's way to start a program, which a cancel can leave waiting for ever."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=opened,
    )
