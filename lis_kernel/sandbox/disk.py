"""A sandbox's disk for root: a file system in a sparse file, copied from an empty one.

Used by `sandbox/keeper.py`. Making one takes 8 ms and copying what is in an empty one takes 1 ms,
so one of each size is kept in the data folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from lis_kernel.config import data_dir

__all__ = ["make", "tools"]

BYTES_PER_INODE = 16384


def tools() -> bool:
    """Whether this system can make file systems."""
    return shutil.which("mke2fs") is not None


def make(target: Path, size: int) -> None:
    """An empty ext4 of `size` bytes in the new file `target`; takes 1 MB on the disk.

    Raises:
        OSError: it cannot be made here.
    """
    template = data_dir() / "disks" / f"{size}.ext4"
    if not template.exists():
        template.parent.mkdir(parents=True, exist_ok=True)
        partial = template.with_name(f"{template.name}.{secrets.token_hex(4)}")
        try:
            _format(partial, size)
            partial.replace(template)
        finally:
            partial.unlink(missing_ok=True)
    _copy_sparse(template, target)


def _format(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-i", str(BYTES_PER_INODE)]
    # no journal: the disk never outlives a crash
    argv += ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", str(path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"mke2fs: {done.stderr.decode('utf-8', 'replace').strip()}")


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy the parts that hold data, and the holes as holes."""
    with source.open("rb") as old, target.open("xb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        end = 0
        with contextlib.suppress(OSError):  # ENXIO: no data behind `end`
            while end < size:
                start = os.lseek(old.fileno(), end, os.SEEK_DATA)
                end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
                os.lseek(new.fileno(), start, os.SEEK_SET)
                while start < end:
                    start += os.sendfile(new.fileno(), old.fileno(), start, end - start)
