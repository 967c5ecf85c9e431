"""The files that a task was given, as a notebook records them: where they are, and their digests.

`agent/` records each as it goes into the run's sandbox; `kernel/reopened.py` finds them by that
when the notebook is run again. A folder's digest covers names and contents of all that a sandbox
is given of it (see `sandbox/inward.py`): links are followed, but for those that lead nowhere or to
a folder above them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import time
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from lis_kernel.config import amount
from lis_kernel.types import Value

__all__ = ["Input", "Reading", "record"]

PIECE = 1 << 20
Places = frozenset[tuple[int, int]]
"""Folders, by device and inode."""
MAX_DEPTH = 100
"""Folders in each other, as many as are put into a sandbox."""


class Input(Value):
    """One file or folder that a task was given: an item of `task.inputs` in the metadata."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    name: str = Field(min_length=1, max_length=255)
    """In /testbed/input."""
    path: str | None = Field(min_length=1, max_length=4096)
    """From the notebook's folder; None if that is not to be told."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_of_a_file(self) -> Self:
        if self.name in (".", "..") or "/" in self.name or "\0" in self.name + (self.path or ""):
            raise ValueError("no name of a file")
        return self


def record(name: str, source: Path, folder: Path) -> Input:
    """What the notebook in `folder` says of `source`, the sandbox's `name`; reads all of it.

    Raises:
        OSError, ValueError: it cannot be read, or its name is no Unicode.
    """
    sha256, size = Reading().take(source)
    return Input(name=name, path=_place(source, folder), sha256=sha256, bytes=size)


def _place(source: Path, folder: Path) -> str | None:
    """The way from `folder` to `source`: it stays true when both are moved.

    None where it would lead into the home folder from outside, and so tell its name.
    """
    there = os.path.abspath(source)  # of a link its own place, but of the folders the real ones
    there = os.path.join(os.path.realpath(os.path.dirname(there)), os.path.basename(there))
    here, home = os.path.realpath(folder), os.path.realpath(os.path.expanduser("~"))
    if Path(there).is_relative_to(home) and not Path(here).is_relative_to(home):
        return None
    return os.path.relpath(there, here)


def _place_of(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino


class Reading:
    """Takes digests of files and folders, and copies what it takes the digest of.

    Args:
        room: bytes that it reads at most, in all.
        entries: files, folders and links that it looks at, in all.
        seconds: from now on, for all.
    """

    def __init__(
        self, room: int = sys.maxsize, entries: int = sys.maxsize, seconds: float = float("inf")
    ) -> None:
        self._room = self._most = room
        self._entries = entries
        self._end = time.monotonic() + seconds
        self._size = 0

    def take(
        self, source: Path, copy: Path | None = None, most: int = sys.maxsize
    ) -> tuple[str, int]:
        """SHA-256, in hex, and bytes of `source`, whose copy is made as `copy`.

        The digest is that of the copy, whatever happens to `source` meanwhile.

        Raises:
            ValueError: it is no file or folder, has more than `most` bytes, or a bound is reached.
            OSError: it cannot be read or copied.
        """
        self._most, self._size = most, 0
        return self._take(source, copy, MAX_DEPTH, frozenset())[1], self._size

    def _take(self, source: Path, copy: Path | None, depth: int, above: Places) -> tuple[str, str]:
        # first by its place alone: opening a device may set something off, a fifo may wait
        handle = os.open(source, os.O_PATH | os.O_CLOEXEC)
        try:
            info = os.fstat(handle)
            if stat.S_ISREG(info.st_mode):
                return "file", self._file(f"/proc/self/fd/{handle}", info, copy)
        finally:
            os.close(handle)
        if not stat.S_ISDIR(info.st_mode):
            raise ValueError("it is, or holds, something that is neither a file nor a folder")
        if depth == 0:
            raise ValueError(f"it has more than {MAX_DEPTH} folders in each other")
        above |= {(info.st_dev, info.st_ino)}
        return "folder", self._folder(source, info, copy, depth, above)

    def _file(self, source: str, info: os.stat_result, copy: Path | None) -> str:
        self._spend(info.st_size, dry=True)
        digest = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            # some files of /proc wait for news
            fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            out = None if copy is None else stack.enter_context(copy.open("xb"))
            while piece := os.read(fd, PIECE):
                self._spend(len(piece))
                digest.update(piece)
                if out is not None:
                    out.write(piece)
        if copy is not None:
            copy.chmod(info.st_mode & 0o777 | 0o400)
            os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))
        return digest.hexdigest()

    def _folder(
        self, source: Path, info: os.stat_result, copy: Path | None, depth: int, above: Places
    ) -> str:
        names = []
        with os.scandir(source) as found:
            for entry in found:
                self._entries -= 1
                self._spend(0)
                names.append(os.fsencode(entry.name))
        if copy is not None:
            copy.mkdir(0o700)
        digest = hashlib.sha256(b"folder\0")
        for name in sorted(names):
            step = os.fsdecode(name)
            if (source / step).exists() and _place_of(source / step) not in above:
                inner = None if copy is None else copy / step
                kind, hashed = self._take(source / step, inner, depth - 1, above)
                digest.update(f"{kind} {hashed} ".encode() + name + b"\0")
        if copy is not None:
            copy.chmod(info.st_mode & 0o777 | 0o700)
        return digest.hexdigest()

    def _spend(self, size: int, *, dry: bool = False) -> None:
        if self._size + size > self._most:
            raise ValueError("it was changed")
        if size > self._room:
            raise ValueError(f"it takes more than the {amount(self._room)} that are left")
        if self._entries < 0:
            raise ValueError("there are too many files")
        if time.monotonic() > self._end:
            raise ValueError("it takes too long to read")
        if not dry:
            self._size += size
            self._room -= size
