"""Attempts to outlive the sandbox: processes, files and objects that are there after its end.

Judged by the host after `stop`, and from inside the owner's next sandbox. The canary is a plain
Jupyter kernel, started and shut down by its manager, with a home and a folder for temporary files
of our own; what it leaves is ended and removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from lis_kernel import registry
from lis_kernel.attacks.ground import Box, Ground, Outcome
from lis_kernel.attacks.stock import stock_kernel
from lis_kernel.sandbox import cgroup

__all__ = ["run"]

REMAIN = Path(__file__).with_name("inside") / "remain.py"
TIDY_SECONDS = 3.0
WALLS = {
    "process": "pid namespace: with its init every process ends",
    "file": "a disk of its own, which is gone",
    "leave_a_module_in_the_image": "the image is read-only",
    "leave_a_system_v_segment": "ipc namespace",
    "listen_on_an_abstract_socket": "network namespace, and its process is gone",
    "leave_one_on_the_disk": "no folder, mount or control group is left",
    "start_one_at_the_end": "the end is a SIGKILL",
}


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt in one kernel, which ends; then a look around, and one from the next."""
    site = str(ground.folder / "site") if ground.canary else ""
    setup = f"WORD, SITE = {ground.word!r}, {site!r}"
    source = REMAIN.read_text("utf-8").replace('WORD, SITE = "", ""', setup)
    try:
        if ground.canary:
            planted, lived, left = await _stock(ground, source)
        else:
            planted, lived, left = await _ours(ground, source)
    finally:
        await asyncio.to_thread(_tidy, ground)
    outcomes = {}
    for name, why in planted.items():
        wall = WALLS.get(name, WALLS["process" if name in lived or "daemon" in name else "file"])
        if name in left:
            who = "stock kernel: " if ground.canary else ""
            outcomes[name] = Outcome("breached", f"{who}{left[name]}")
        elif not ground.canary and why and name not in READ_ONLY:
            outcomes[name] = Outcome("broken", f"it was not begun: {why}")
        elif name.startswith("leave_one") and name not in lived:
            outcomes[name] = Outcome("broken", "its process was not seen to live")
        else:
            outcomes[name] = Outcome("blocked", why or "nothing of it is there", wall)
    return outcomes


READ_ONLY = {"leave_a_module_in_the_image"}
"""Attempts that are stopped before there is anything to leave."""


async def _ours(ground: Ground, source: str) -> tuple[dict[str, str], set[str], dict[str, str]]:
    """What was planted, which processes lived, and what is left."""
    async with ground.box() as box:
        planted = json.loads(await box.text(f"{source}\nplant()"))
        lived = set(_living(ground.word))
        name, folder = box.sandbox.state.name, box.sandbox.state.root  # type: ignore[attr-defined]
    left = _living(ground.word) | _objects(ground.word)
    if traces := await asyncio.to_thread(_traces, ground, name, folder):
        left["leave_one_on_the_disk"] = traces
    async with ground.box() as box:
        left |= await _look(box, source)
    return planted, lived, left


async def _look(box: Box, source: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(await box.text(f"{source}\nlook()"))
    return found


def _traces(ground: Ground, name: str, folder: Path) -> str:
    """What is left of the sandbox on this machine; empty if nothing is."""
    found = [str(folder)] if folder.exists() else []
    for group in cgroup.layout().folders.values():
        found += map(str, group.glob(f"*{name}*"))
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if name in line]
    if ground.backend in ("docker", "podman"):
        kind = registry.load(registry.SANDBOXES, ground.backend, "--backend")
        client = kind.connect()
        with contextlib.closing(client):
            named = client.containers.list(all=True, filters={"name": name})
            found += [f"container {container.name}" for container in named]
    return ", ".join(found)


def _living(word: str) -> dict[str, str]:
    """Attempt -> the process of it that lives; looked for more than once, for some keep moving."""
    found = {}
    for _ in range(4):
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                text = Path("/proc", entry, "cmdline").read_bytes().decode("utf-8", "replace")
                _, there, name = text.rstrip("\0").rpartition(f"{word}-")
                if there and name.replace("_", "").isalpha():
                    found[name] = f"process {entry} lives"
        time.sleep(0.01)
    return found


def _objects(word: str) -> dict[str, str]:
    """Attempt -> the object of it that the host sees among its own."""
    found = {}
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(f"\0{word}")
        found["listen_on_an_abstract_socket"] = "the host can connect to it"
    if (segment := ctypes.CDLL(None).shmget(_key(word), 0, 0)) >= 0:
        found["leave_a_system_v_segment"] = f"the host has the segment {segment}"
    return found


def _key(word: str) -> int:
    return int(word[:7], 16)


# -- the canary ------------------------------------------------------------------------------------


async def _stock(ground: Ground, source: str) -> tuple[dict[str, str], set[str], dict[str, str]]:
    async with stock_kernel(ground.folder) as first:
        planted = json.loads(await first.text(f"{source}\nplant()"))
        lived = set(_living(ground.word))
    left = _living(ground.word) | _objects(ground.word)
    async with stock_kernel(ground.folder) as second:
        left |= json.loads(await second.text(f"{source}\nlook()"))
    return planted, lived, left


def _tidy(ground: Ground) -> None:
    """End the processes and remove the objects that carry our word."""
    deadline = time.monotonic() + TIDY_SECONDS
    while (found := _living(ground.word)) and time.monotonic() < deadline:
        for words in found.values():
            with contextlib.suppress(OSError):
                os.kill(int(words.split()[1]), signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.unlink(f"/dev/shm/{ground.word}")
    libc = ctypes.CDLL(None)
    if ground.canary and (segment := libc.shmget(_key(ground.word), 0, 0)) >= 0:
        remove = 0
        libc.shmctl(segment, remove, None)
