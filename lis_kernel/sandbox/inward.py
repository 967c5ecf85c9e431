"""Copies the host's files into a sandbox's folder, where hostile code may be at work.

Behind `Sandbox.put`. Every step is opened below the one before it and no link is followed, so
nothing is written anywhere else, whatever the sandbox makes of its folders meanwhile. What stands
in the place of a file is replaced, not written into.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from lis_kernel.errors import SandboxError
from lis_kernel.sandbox.acting import acting_as

__all__ = ["put"]

MAX_DEPTH = 100
"""Folders in each other that are copied."""
Places = frozenset[tuple[int, int]]
"""Folders, by device and inode."""
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def put(source: Path, root: Path, steps: list[str], uid: int) -> None:
    """Copy the file or folder `source` to `root/steps`; `uid` will own it, if that is not -1.

    `root` itself may be a link of ours.

    Raises:
        SandboxError: one of `steps` is a link or no folder; or `source` holds what is no plain
            file, and nothing was written.
        OSError: there is no room, or `source` cannot be read; no file is left that is not whole.
    """
    _check(source, MAX_DEPTH)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        fd = os.open(root, flags)
        stack.callback(os.close, fd)
        for step in steps[: -1 if steps else None]:
            fd = stack.enter_context(_folder(fd, step, uid, None))
        _copy(source, fd, steps[-1] if steps else "", uid, top=True, depth=MAX_DEPTH)


def _check(source: Path, depth: int, above: Places = frozenset()) -> None:
    """See that all of `source` can be copied."""
    info = source.stat()
    if stat.S_ISDIR(info.st_mode):
        if depth == 0:
            raise SandboxError(f"{source}: more than {MAX_DEPTH} folders in each other")
        above |= {(info.st_dev, info.st_ino)}
        for name in _names(source, above):
            _check(source / name, depth - 1, above)
    elif not stat.S_ISREG(info.st_mode):
        raise SandboxError(f"{source} is neither a file nor a folder")


def _names(source: Path, above: Places) -> list[str]:
    """What a folder holds, but for links that lead nowhere or to a folder `above`: no end."""
    names = []
    for name in sorted(os.listdir(source)):
        if (inner := source / name).exists():
            info = inner.stat()
            if (info.st_dev, info.st_ino) not in above:
                names.append(name)
    return names


def _copy(
    source: Path,
    parent: int,
    name: str,
    uid: int,
    *,
    top: bool,
    depth: int,
    above: Places = frozenset(),
) -> None:
    """Copy `source` to `name` in the open folder `parent`; empty for the folder itself."""
    info = source.stat()
    if stat.S_ISREG(info.st_mode):
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        _copy_file(source, parent, name, uid, info, mode if top else info.st_mode & 0o777)
    elif not stat.S_ISDIR(info.st_mode):
        raise SandboxError(f"{source} is neither a file nor a folder")
    elif depth == 0:
        raise SandboxError(f"{source}: more than {MAX_DEPTH} folders in each other")
    else:
        with _folder(parent, name, uid, info) as fd:
            above |= {(info.st_dev, info.st_ino)}
            for entry in _names(source, above):
                _copy(source / entry, fd, entry, uid, top=False, depth=depth - 1, above=above)


def _copy_file(
    source: Path, parent: int, name: str, uid: int, info: os.stat_result, mode: int
) -> None:
    with source.open("rb") as file:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with acting_as(uid):
                fd = os.open(name, flags, 0o600, dir_fd=parent)
        except (FileExistsError, FileNotFoundError) as error:
            raise SandboxError(f"{name!r}: the sandbox changes what is in its place") from error
        try:
            with os.fdopen(fd, "wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
                out.flush()
                os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
                os.fchmod(fd, mode)
        except OSError:  # half of it would take the room of what comes later
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=parent)
            raise


@contextlib.contextmanager
def _folder(parent: int, name: str, uid: int, info: os.stat_result | None) -> Iterator[int]:
    """The folder `name` in the open folder `parent`, made if it is not there; its descriptor."""
    made = False
    try:
        if name:
            with contextlib.suppress(FileExistsError), acting_as(uid):
                os.mkdir(name, 0o700, dir_fd=parent)
                made = True
        fd = os.open(name, OPEN_FOLDER, dir_fd=parent) if name else os.dup(parent)
    except (NotADirectoryError, FileNotFoundError) as error:  # also for a link, by O_NOFOLLOW
        why = f"{name!r} is no folder of the sandbox, which links are not"
        raise SandboxError(why) from error
    try:
        if made:
            os.fchmod(fd, 0o755 if info is None else info.st_mode & 0o777 | 0o700)
        yield fd
    finally:
        os.close(fd)
