"""Makes files as somebody else: for root, on a disk that belongs to a sandbox's user namespace.

A file system that was mounted in a user namespace takes new files only of users that exist in it;
root of the host is none of them. So what is made there is made as the sandbox's own uid.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

__all__ = ["acting_as"]

LIBC = ctypes.CDLL(None)


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """What this thread makes in here belongs to `uid`, also the group; -1 changes nothing.

    Only root can. Nothing may be awaited in here: the thread is all tasks' of its loop.
    """
    if uid < 0:
        yield
        return
    group, user = LIBC.setfsgid(uid), LIBC.setfsuid(uid)
    try:
        yield
    finally:
        LIBC.setfsuid(user)
        LIBC.setfsgid(group)
