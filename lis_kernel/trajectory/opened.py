"""The notebook for which a Jupyter server starts a kernel, as far as our kernels ask for it.

A server names it in the variable JPY_SESSION_NAME of the kernel's environment. It may be anybody's:
it is read with a bound, and what is not as our own notebooks have it is as if it were not there.
Read by the provisioner and the launcher (`kernel/reopened.py`) and by `server/attached.py`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lis_kernel.config import amount
from lis_kernel.trajectory.notebook import KEY

__all__ = ["Opened", "opened"]

VARIABLE = "JPY_SESSION_NAME"
NOTEBOOK_BYTES = 64 << 20
"""A larger one is not read: a kernel's start waits for it."""
SKIP = "skip-execution"
"""Jupyter's tag for cells that nbclient does not run."""
STATUSES = ("timeout", "died", "interrupted")
MOST_HELD = 500
"""The ids of as many travel to every kind of sandbox: a zygote's fork is told in one message."""
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""As nbformat has it."""


class Opened(NamedTuple):
    """What a notebook says to a kernel. All of it is its author's word."""

    path: Path
    ours: Mapping[str, Any]
    """Its metadata under our key."""
    held: Mapping[str, str]
    """Of a trajectory: ids of the cells that hung or killed a kernel; to each its status."""


def opened(env: Mapping[str, str], say: Callable[[str], None] = lambda _: None) -> Opened | None:
    """The notebook that `env` names; None if that has nothing of ours. Blocks, and never raises.

    `say` is told of one that is too large.
    """
    path = Path(env.get(VARIABLE, ""))
    try:
        if path.suffix != ".ipynb" or (data := _read(path)) is None:
            return None
        if len(data) > NOTEBOOK_BYTES:
            say(f"{path.name!a} is larger than {amount(NOTEBOOK_BYTES)}: what it asks is not read")
            return None
        if f'"{KEY}"'.encode() not in data:  # most notebooks: they need no parsing for it
            return None
        notebook = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return None
    ours = _inner(_inner(notebook, "metadata"), KEY)
    return Opened(path, ours, _held(notebook) if "schema" in ours else {}) if ours else None


def _read(path: Path) -> bytes | None:
    """A regular file's content, one byte more than the bound if it has more."""
    # O_NONBLOCK: opening a fifo must not wait for its writer
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(NOTEBOOK_BYTES + 1)
    finally:
        os.close(fd)


def _inner(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _held(notebook: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    cells = notebook.get("cells")
    for cell in cells if isinstance(cells, list) else []:
        metadata = _inner(cell, "metadata")
        tags, status = metadata.get("tags"), _inner(metadata, KEY).get("status")
        if isinstance(tags, list) and SKIP in tags and len(found) < MOST_HELD:
            name = cell.get("id")
            if isinstance(name, str) and CELL_ID.fullmatch(name):
                found[name] = next((known for known in STATUSES if known == status), "")
    return found
