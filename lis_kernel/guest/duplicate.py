"""Copies a sandbox's folders into a new one: `python duplicate.py UID FROM TO [FROM TO...]`.

For a sandbox's branch: a fork of the zygote calls `folder` before anything of the model's runs in
it; for the other backends the host runs this file with open folders. What is copied is hostile:
nothing is found by a path, no symlink is followed, and nothing but plain files is opened.
"""

import contextlib
import ctypes
import errno
import os
import stat
import sys

DEPTH = 200
"""Folders in each other that are copied; each takes two descriptors."""
SMALL = 1 << 16
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
LIBC = ctypes.CDLL(None)


@contextlib.contextmanager
def nobody():
    """Files are made by whoever we are."""
    yield


def somebody(uid):
    """A context in which root makes files as `uid`: it is none of a sandbox's own users."""

    @contextlib.contextmanager
    def acting():
        LIBC.setfsgid(uid), LIBC.setfsuid(uid)
        try:
            yield
        finally:
            LIBC.setfsuid(0), LIBC.setfsgid(0)

    return acting


def folder(source, target, acting=nobody):
    """Copy what is in the open folder `source` into the open, empty folder `target`.

    Modes, times, holes and hard links are kept; sockets are left out.

    Raises OSError: it does not fit, or is too deep.
    """
    before = os.umask(0)
    try:
        _folder(source, target, target, "", {}, acting, DEPTH)
    finally:
        os.umask(before)


def _folder(source, target, top, path, links, acting, depth):
    if not depth:
        raise OSError(errno.ELOOP, f"folders are more than {DEPTH} deep")
    with os.scandir(source) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    for name, info in found:
        kind, mode = stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode) & 0o1777
        where = f"{path}{name}"
        if kind == stat.S_IFDIR:
            with acting():
                os.mkdir(name, 0o700, dir_fd=target)
            flags = FLAGS | os.O_DIRECTORY
            with opened(name, flags, source) as inner, opened(name, flags, target) as made:
                _folder(inner, made, top, f"{where}/", links, acting, depth - 1)
                os.fchmod(made, mode)
                os.utime(made, ns=(info.st_atime_ns, info.st_mtime_ns))
        elif kind == stat.S_IFREG:
            if (info.st_dev, info.st_ino) in links:
                first = links[info.st_dev, info.st_ino]
                with acting():
                    os.link(first, name, src_dir_fd=top, dst_dir_fd=target)
                continue
            with opened(name, FLAGS, source) as old:
                if not stat.S_ISREG(os.fstat(old).st_mode):  # no more what it was
                    continue
                with acting():
                    new = os.open(name, NEW, mode, dir_fd=target)
                try:
                    _contents(old, new, info)
                    os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))
                finally:
                    os.close(new)
            if info.st_nlink > 1:
                links[info.st_dev, info.st_ino] = where
        elif kind == stat.S_IFLNK:
            to = os.readlink(name, dir_fd=source)
            with acting():
                os.symlink(to, name, dir_fd=target)
        elif kind == stat.S_IFIFO:
            with acting():
                os.mkfifo(name, mode, dir_fd=target)
        if kind in (stat.S_IFLNK, stat.S_IFIFO):
            times = (info.st_atime_ns, info.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


@contextlib.contextmanager
def opened(name, flags, parent):
    fd = os.open(name, flags, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _contents(old, new, info):
    """The first `info.st_size` bytes; holes stay holes."""
    size = info.st_size
    if size <= SMALL and info.st_blocks * 512 >= size:
        data = os.read(old, size)
        while data:
            data = data[os.write(new, data) :]
        return
    os.ftruncate(new, size)
    start = end = 0
    while end < size:
        try:
            start = os.lseek(old, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # no data behind `end`
        end = min(os.lseek(old, start, os.SEEK_HOLE), size)
        os.lseek(new, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(new, old, start, end - start)
            if not sent:  # it has become shorter
                return
            start += sent


def main(uid, *descriptors):
    acting = somebody(int(uid)) if int(uid) >= 0 else nobody
    numbers = [int(fd) for fd in descriptors]
    for source, target in zip(numbers[::2], numbers[1::2], strict=True):
        folder(source, target, acting)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"{error}")
