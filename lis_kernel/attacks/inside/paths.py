"""How attempts read, write and search; the words of `host_files.py` and its like."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from .driver import Refused


def read(path: str | Path, at: int | None = None) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)
    try:
        return os.read(fd, 1000).decode("utf-8", "replace")
    finally:
        os.close(fd)


def try_each(places: list[str], secret: str, wall: str) -> str:
    """The secret, read below the first of `places` that leads to it."""
    last = "nothing to try"
    for place in places:
        try:
            return read(place + secret)
        except OSError as error:
            last = f"{place}: {error.strerror}"
    raise Refused(f"{len(places)} ways, last {last}", wall)


def can_write(path: str) -> str:
    """Open for writing, and write nothing."""
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    return f"{path} opens for writing"


def create(path: str) -> str:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    with contextlib.suppress(OSError):
        os.unlink(path)
    return f"made {path}"


def read_bytes(path: str, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(size)


def pids() -> list[str]:
    return sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int)


def connect_to_any(roots: list[str], own_run: list[str], wall: str) -> str:
    """Connect to a unix socket in the file system, whichever answers, but for the kernel's own.

    Raises: Refused: none does; `wall` is what stands between.
    """
    found = 0
    for root in roots:
        for folder, folders, names in os.walk(root):
            if folder in ("/proc", "/sys", "/usr") or folder.startswith(tuple(own_run)):
                folders.clear()
                continue
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(os.lstat(path).st_mode):
                        found += 1
                        with socket.socket(socket.AF_UNIX) as sock:
                            sock.settimeout(1)
                            sock.connect(path)
                            return f"connected to {path}"
    raise Refused(f"{found} sockets, none answers", wall)
