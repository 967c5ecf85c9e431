"""Binds host folders into a keeper's namespace: the sandbox's own uid is their owner there.

Run as a program by `sandbox/keeper.py`, where root starts sandboxes: `idmap.py KEEPER_PID UID`,
with `[[name, source, target], ...]` as JSON on standard input; the answer is which could not be
shown so, and why. In such a mount (Linux 5.12) the owner of its top and the sandbox change places:
what the owner may, the sandbox may, and what it makes belongs to the owner. Standard library only,
and nothing is imported once the namespace has been entered.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys

__all__ = ["swapped"]

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
ATTR_NOSUID, ATTR_NODEV, ATTR_IDMAP = 0x2, 0x4, 0x100000
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
IDS = (1 << 32) - 1
"""All ids there are; the last one means `no id`."""


class MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def _call(name: str, *arguments: object) -> int:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _syscall(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _call("syscall", ctypes.c_long(number), *words)


def swapped(owner: int, ours: int) -> str:
    """An id map, as /proc/PID/uid_map wants it, in which these two change places."""
    low, high = sorted((owner, ours))
    lines = [(0, 0, low), (low, high, 1), (low + 1, low + 1, high - low - 1)]
    lines += [(high, low, 1), (high + 1, high + 1, IDS - high - 1)]
    if low == high:
        lines = [(0, 0, IDS)]
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines if count)


def _user_namespace(uids: str, gids: str) -> int:
    """Descriptor of a user namespace with these maps; of no process once this returns."""
    made, made_write = os.pipe()
    child = os.fork()
    if not child:
        try:
            _call("unshare", CLONE_NEWUSER)
            os.write(made_write, b"+")
            signal.pause()
        finally:
            os._exit(1)
    os.close(made_write)
    try:
        if os.read(made, 1) != b"+":
            raise OSError("no user namespace")
        for name, text in (("uid_map", uids), ("gid_map", gids)):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(text)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _tree(source: str, uid: int) -> tuple[int, bool, str]:
    """A copy of the mount at `source`, in no tree yet; if it is a folder; why it is not mapped."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    fd = _syscall(OPEN_TREE, AT_FDCWD, ctypes.c_char_p(os.fsencode(source)), flags)
    info = os.fstat(fd)
    why = ""
    try:
        userns = _user_namespace(swapped(info.st_uid, uid), swapped(info.st_gid, uid))
        attr = MountAttr(ATTR_IDMAP | ATTR_NOSUID | ATTR_NODEV, 0, 0, userns)
        size = ctypes.sizeof(attr)
        where = AT_EMPTY_PATH | AT_RECURSIVE
        _syscall(MOUNT_SETATTR, fd, ctypes.c_char_p(b""), where, ctypes.byref(attr), size)
        os.close(userns)
    except OSError as error:
        why = str(error)
    return fd, stat.S_ISDIR(info.st_mode), why


def main(keeper: int, uid: int) -> None:
    trees = [(name, target, *_tree(source, uid)) for name, source, target in json.load(sys.stdin)]
    namespace = os.open(f"/proc/{keeper}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _call("setns", namespace, CLONE_NEWNS)
    failed = {}
    for name, target, fd, folder, why in trees:
        if folder:
            os.makedirs(target, exist_ok=True)
        place = ctypes.c_char_p(os.fsencode(target))
        _syscall(MOVE_MOUNT, fd, ctypes.c_char_p(b""), AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH)
        if why:
            failed[name] = why
    sys.stdout.write(json.dumps(failed))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
