"""The sandbox's system call filter: a data file per architecture, made by `generate.py`.

`sandbox/bubblewrap.py` hands it to `bwrap --seccomp`; in a container `guest/filter.py` puts it up.
A deny-list: what a program of ours may need stays, what only serves to leave the box, or the
kernel's rarely walked corners, goes. `+set-id` is for containers that are root inside, where
packages are installed with programs that have set-id bits.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

__all__ = ["digest", "path", "programs"]


def path(machine: str | None = None) -> Path | None:
    """The filter for `machine`, by default this one; None where there is none."""
    found = Path(__file__).with_name(f"{machine or platform.machine()}.bpf")
    return found if found.is_file() else None


def digest() -> str | None:
    """sha256 of this machine's filter, for the record."""
    found = path()
    return None if found is None else f"sha256:{hashlib.sha256(found.read_bytes()).hexdigest()}"


def programs(*, set_id: bool = False) -> dict[str, str]:
    """Each architecture's filter in hexadecimal: a container may be of another one than we."""
    files = {file.stem.partition("+"): file for file in Path(__file__).parent.glob("*.bpf")}
    return {
        machine: file.read_bytes().hex()
        for (machine, _, kind), file in files.items()
        if kind == ("set-id" if set_id else "")
    }
