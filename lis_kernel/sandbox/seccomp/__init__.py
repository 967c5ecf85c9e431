"""The sandbox's system call filter: a data file per architecture, made by `generate.py`.

`sandbox/bubblewrap.py` hands it to `bwrap --seccomp`; in a container `guest/filter.py` puts it up.
A deny-list: what a program of ours may need stays, what only serves to leave the box, or the
kernel's rarely walked corners, goes. `+set-id` is for containers that are root inside, where
packages are installed with programs that have set-id bits; `+branch` for kernels that can be
branched, which `chroot` to do so.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Literal

__all__ = ["Kind", "digest", "path", "programs"]

Kind = Literal["", "set-id", "branch"]


def path(machine: str | None = None, kind: Kind = "") -> Path | None:
    """The filter for `machine`, by default this one; None where there is none."""
    name = f"{machine or platform.machine()}{kind and '+'}{kind}.bpf"
    found = Path(__file__).with_name(name)
    return found if found.is_file() else None


def digest(kind: Kind = "") -> str | None:
    """sha256 of this machine's filter, for the record."""
    found = path(kind=kind)
    return None if found is None else f"sha256:{hashlib.sha256(found.read_bytes()).hexdigest()}"


def programs(wanted: Kind = "") -> dict[str, str]:
    """Each architecture's filter in hexadecimal: a container may be of another one than we."""
    files = {file.stem.partition("+"): file for file in Path(__file__).parent.glob("*.bpf")}
    return {
        machine: file.read_bytes().hex()
        for (machine, _, kind), file in files.items()
        if kind == wanted
    }
