"""A run's notebook, opened again in Jupyter: its files for the new sandbox, and cells that wait.

Between the doors for stock Jupyter tools (`provisioner.py`, `launcher.py`) and the sandbox. What
the notebook says is a stranger's word. It may name any file of the host; but a file gets into the
sandbox only if its SHA-256 is the one that the notebook holds, so its author must have known the
content. What is compared is what is put in: a private copy, hashed while it is made. Everything
else is left out, with a line in the server's log, and no kernel fails to start for it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lis_kernel.errors import LisKernelError, SandboxError
from lis_kernel.protocols import KernelProcess, Sandbox
from lis_kernel.sandbox.base import ProcessSandbox
from lis_kernel.trajectory.inputs import Input, Reading
from lis_kernel.trajectory.opened import Opened, opened

__all__ = ["first_kernel", "next_kernel", "put_inputs"]

INPUTS = 1000
"""Most files and folders that a notebook may ask for."""
ENTRIES = 50_000
"""Most files in all of them."""
SECONDS = 60.0
"""For all of them: the kernel waits."""
WARNINGS = 20

Warn = Callable[[str], None]


async def first_kernel(
    sandbox: Sandbox, env: Mapping[str, str], room: int, warn: Warn
) -> KernelProcess:
    """The first kernel of a sandbox that has started, with what the notebook of `env` brings.

    `room` is the sandbox's disk in bytes.

    Raises:
        StartTimeout, SandboxError: no kernel starts, be it without the notebook's files.
    """
    notebook = await asyncio.to_thread(opened, env, warn)
    _hold(sandbox, notebook)
    if notebook is None or not await asyncio.to_thread(put_inputs, sandbox, notebook, room, warn):
        return await sandbox.launch_kernel()
    try:
        return await sandbox.launch_kernel()
    except (LisKernelError, OSError) as error:  # they may have left no room on its disk
        warn(f"no kernel starts with the notebook's input files, so they are left out: {error}")
        await sandbox.reset()
        return await sandbox.launch_kernel()


async def next_kernel(sandbox: Sandbox, env: Mapping[str, str], warn: Warn) -> KernelProcess:
    """A kernel after a restart: the files are there, the cells wait again.

    Raises:
        StartTimeout, SandboxError
    """
    _hold(sandbox, await asyncio.to_thread(opened, env, warn))
    return await sandbox.launch_kernel()


def _hold(sandbox: Sandbox, notebook: Opened | None) -> None:
    if isinstance(sandbox, ProcessSandbox):  # another's backend runs what it is asked to
        sandbox.held = {} if notebook is None else notebook.held


def put_inputs(sandbox: Sandbox, notebook: Opened, room: int, warn: Warn) -> bool:
    """Put the notebook's input files into /testbed/input; whether it asks for any. Never raises.

    Blocks. `room` bounds the bytes that are read for it, whether they fit their digests or not.
    """
    task = notebook.ours.get("task")
    given = task.get("inputs") if isinstance(task, dict) else None
    if not isinstance(given, list) or not given:
        return False
    folder = Path(os.path.realpath(notebook.path.parent))
    reading = Reading(room, ENTRIES, SECONDS)
    done: set[str] = set()
    left: list[str] = []
    for entry in given[:INPUTS]:
        name = entry.get("name") if isinstance(entry, dict) else None
        try:
            one = _checked(entry)
            if one.name in done:
                raise ValueError("another one has its name")
            _put(sandbox, reading, one, folder)
            done.add(one.name)
        except (OSError, ValueError, SandboxError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            left.append(f"the notebook's input file {_shown(name)} is left out: {why}")
    if len(given) > INPUTS:
        left.append(f"the notebook asks for {len(given)} input files: the first {INPUTS} are taken")
    for line in left[:WARNINGS]:
        warn(line)
    if len(left) > WARNINGS:
        warn(f"of the notebook's input files {len(left) - WARNINGS} more are left out")
    return True


def _shown(name: Any) -> str:
    """A stranger's word in one short line of a log."""
    return f"{name[:80]!a}" if isinstance(name, str) else "without a name"


def _checked(entry: Any) -> Input:
    try:
        return Input.model_validate(entry)
    except ValidationError as error:
        raise ValueError("its record is none that a run writes") from error


def _put(sandbox: Sandbox, reading: Reading, given: Input, folder: Path) -> None:
    """Put in what has the recorded digest, from where it was or from beside the notebook.

    Raises:
        ValueError, OSError: nothing there has it, or it cannot be read or copied.
        SandboxError: the sandbox does not take it.
    """
    failed: OSError | ValueError | None = None
    for place in dict.fromkeys((given.path or given.name, given.name)):
        with tempfile.TemporaryDirectory(prefix="lis-inputs-") as private:
            copy = Path(private) / "copy"
            try:
                if reading.take(folder / place, copy, given.bytes) != (given.sha256, given.bytes):
                    raise ValueError("it was changed")
            except (OSError, ValueError) as error:
                failed = failed or error
                continue
            return sandbox.put(copy, f"/testbed/input/{given.name}")
    assert failed is not None  # there is a place
    raise failed
