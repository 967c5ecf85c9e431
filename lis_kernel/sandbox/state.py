"""The host's side of a sandbox's files: one private folder a sandbox, and safe ways in and out.

`<runtime dir>/<8 hex>/` holds what the sandbox may write (`testbed`, `tmp`, `home`) and its sockets
(`run`). An exclusive lock on `owner` says that its owner lives; folders of dead owners are swept
when the next one is made. What comes out is hostile: no path is followed through a symlink, and
only regular files are opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lis_kernel.errors import SandboxError

__all__ = ["StateDir"]

DIRECTORIES = ("testbed/input", "testbed/documents", "testbed/output", "tmp", "home", "run")
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
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = root.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise SandboxError(f"{root} is not a folder of this user; set LIS_RUNTIME_DIR to another")
    root.chmod(0o700)
    return root


class StateDir:
    """One sandbox's folder. Made by a backend's `start`, removed by its `stop`."""

    def __init__(self) -> None:
        base = runtime_dir()
        sweep(base)
        self.name = secrets.token_hex(4)
        # made under another name until the lock is held, so that no sweep can take it for dead
        making = base / f".{self.name}"
        making.mkdir(mode=0o700)
        for directory in DIRECTORIES:
            (making / directory).mkdir(mode=0o700, parents=True)
        self._owner = os.open(making / "owner", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._owner, str(os.getpid()).encode())
        self.root = base / self.name
        making.rename(self.root)

    def host_path(self, path: str) -> tuple[Path, list[str]]:
        """The writable root that holds the sandbox's absolute `path`, and the steps below it."""
        parts = PurePosixPath(path).parts
        for mount, directory in MOUNTS.items():
            steps = PurePosixPath(mount).parts
            if parts[: len(steps)] == steps:
                rest = list(parts[len(steps) :])
                if ".." in rest:
                    break
                return self.root / directory, rest
        raise SandboxError(f"{path!r} is not in a writable folder of the sandbox: {list(MOUNTS)}")

    def put(self, source: Path, target: str) -> None:
        """Copy a host file or folder into the sandbox; call before hostile code has run."""
        root, rest = self.host_path(target)
        destination = root.joinpath(*rest)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        else:
            shutil.copyfile(source, destination)
            destination.chmod(0o755 if os.access(source, os.X_OK) else 0o644)

    def read(self, path: str, limit: int) -> bytes | None:
        """At most `limit` bytes of a regular file, or None; no symlink is followed."""
        root, rest = self.host_path(path)
        fd = _open_beneath(root, rest)
        if fd is None:
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read(limit)

    def collect(self, path: str, target: Path, limit: int) -> tuple[list[str], list[str]]:
        """Copy the regular files below `path` out; see `protocols.Sandbox.collect`."""
        root, rest = self.host_path(path)
        taken: list[str] = []
        refused: list[str] = []
        top = _open_beneath(root, rest, os.O_DIRECTORY)
        if top is None:
            return taken, refused
        total = 0
        try:
            for name, parent, leaf, info in _walk(top):
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
        _remove(self.root)
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1


MOUNTS = {"/testbed": "testbed", "/tmp": "tmp", "/home/user": "home"}
"""The sandbox's writable folders and where they lie below a state dir."""


def sweep(base: Path) -> None:
    """Remove the folders whose owner is dead: nobody holds their lock."""
    for entry in base.iterdir():
        if entry.name.startswith("."):  # being made: its lock is not held yet
            continue
        try:
            fd = os.open(entry / "owner", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            _remove(entry)
        finally:
            os.close(fd)


def _remove(root: Path) -> None:
    """Delete a folder, however deep it is and whatever modes the sandbox gave its parts."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(root, ignore_errors=True)
    if root.exists():
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", root], capture_output=True, check=False)


def _open_beneath(root: Path, steps: list[str], flags: int = 0) -> int | None:
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
