"""Attempts at a second sandbox of the same owner, which is asked afterwards what became of it.

Both have the same backend, and the canary's are two of `local`. The attacker is told host paths,
process ids and the kernel's key: a wall must hold also against one who knows all that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lis_kernel.attacks.ground import INSIDE, Box, Ground, Outcome
from lis_kernel.attacks.inside import forking, plant
from lis_kernel.attacks.listeners import Listeners
from lis_kernel.attacks.world import NaiveProxy, World
from lis_kernel.errors import LisKernelError, SandboxUnavailable
from lis_kernel.sandbox import cgroup
from lis_kernel.sandbox.berth import zygotes
from lis_kernel.sandbox.container_spec import RUN_INSIDE
from lis_kernel.sandbox.warden import SOCKET

__all__ = ["ASKED", "PARTS", "baits_of", "run"]

CELL = """
import sys, json
sys.path.insert(0, "attack") if "attack" not in sys.path else None
from inside import plant
print(json.dumps(plant.{call}))
"""
ASKED = {
    "run_code_in_the_neighbours_kernel",
    "write_into_the_neighbours_testbed",
    "fill_the_neighbours_disk",
    "post_a_named_semaphore",
    "raise_a_system_v_semaphore",
    "signal_the_neighbour",
    "signal_by_descriptor",
    "signal_the_neighbours_group",
    "slow_the_neighbour",
    "limit_the_neighbour",
}
"""What the attacker thinks of these counts for nothing: the neighbour knows."""
PARTS = {
    "semaphore": ["post_a_named_semaphore"],
    "system_v": [
        "read_system_v_memory",
        "raise_a_system_v_semaphore",
        "take_a_system_v_message",
        "list_system_v_objects",
    ],
    "queue": ["take_a_posix_message"],
    "key": ["read_the_neighbours_key", "list_keys"],
}
"""What may be impossible to plant → the attempts at it."""


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt of `inside/neighbours.py` and the files that it names."""
    listeners = Listeners(ground.folder, ground.secret)
    ground.on_end(listeners.close)
    tag, word = secrets.token_hex(6), secrets.token_hex(16)
    async with contextlib.AsyncExitStack() as stack:
        attacker, (neighbour, no_proxy) = await asyncio.gather(
            ground.shared(), _neighbour(ground, stack, listeners)
        )
        shared = ground.folder / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        facts, missing = await stack.enter_async_context(
            _planted(ground, neighbour, tag, word, shared)
        )
        proxy = await stack.enter_async_context(_proxy(ground, neighbour, listeners))
        forkers = stack.enter_context(_forkers(ground))
        reports = await attacker.attempts(
            "neighbours",
            {
                **facts,
                "key": listeners.key,
                "places": listeners.places,
                "proxy": proxy,
                "forkers": forkers,
                "no_proxy": no_proxy,
            },
        )
        await listeners.settle()
        found = json.loads(await neighbour.text(CELL.format(call="report()")))
    outcomes = {}
    for name, report in reports.items():
        seen = found.get(name, "")
        if word in report.evidence:
            seen = "the neighbour's secret was read"
        elif where := listeners.who_heard(name):
            seen = f"the host's listener heard it ({where})"
        if name in ASKED and not seen and report.outcome == "got":
            outcomes[name] = Outcome(
                "blocked", report.evidence, "it met nothing of the neighbour's"
            )
        else:
            outcomes[name] = ground.judge(report, seen)
    if ground.canary:
        for part, why in missing.items():
            outcome = Outcome("skipped", f"this machine has no such thing: {why}")
            outcomes.update(dict.fromkeys(PARTS.get(part, ()), outcome))
    return outcomes


async def _neighbour(
    ground: Ground, stack: contextlib.AsyncExitStack, listeners: Listeners
) -> tuple[Box, str]:
    """The second sandbox, with a way out if it can have one; else why not."""
    policy = f"allow=!127.0.0.1:{listeners.places['tcp_loopback'][1]}"
    try:
        return await stack.enter_async_context(ground.box(network=policy)), ""
    except SandboxUnavailable as error:
        return await stack.enter_async_context(ground.box()), str(error)


@contextlib.asynccontextmanager
async def _planted(
    ground: Ground, box: Box, tag: str, word: str, shared: Path
) -> AsyncIterator[tuple[dict[str, Any], dict[str, str]]]:
    """The neighbour with everything to steal; what the attacker may know of it, what is missing."""
    for module in INSIDE.glob("*.py"):
        box.sandbox.put(module, f"/testbed/attack/inside/{module.name}")
    home = ""
    if ground.canary:  # nothing is put into the user's own home
        home = str(ground.folder / "home")
        Path(home).mkdir()
        Path(home).chmod(0o777)
    given = {"tag": tag, "word": word, "home": home, "shared": [str(shared)] * ground.canary}
    try:
        said = json.loads(await box.text(CELL.format(call=f"plant({given!r})")))
        if "key" in said["missing"] and not ground.canary:
            with contextlib.suppress(OSError):  # then the key is that of the sandboxes' owner
                ground.on_end(partial(plant.drop_key, plant.keep_key(tag, word)))
        baits = await asyncio.to_thread(baits_of, tag)
        facts = {
            **_places(box, home),
            "tag": tag,
            "port": said["port"],
            "kernel": _kernel(box),
            "baits": baits,
            "cgroups": _cgroups(baits[0]),
            "shared": str(shared),
            "own_run": [] if ground.canary else ["/run/lis", RUN_INSIDE],
            "search": ["/tmp", "/dev/shm", str(box.facts["testbed"])] if ground.canary else ["/"],
            "socket_search": [str(_root(box))] if ground.canary else ["/"],
        }
        yield facts, said["missing"]
    finally:
        with contextlib.suppress(LisKernelError):
            await box.text(CELL.format(call="uproot()"))
        if ground.canary:  # its objects are the host's, and outlive it
            plant.remove(tag)


def _root(box: Box) -> Path:
    root: Path = box.sandbox.state.root  # type: ignore[attr-defined]
    return root


def _places(box: Box, home: str) -> dict[str, Any]:
    """The neighbour's folders: as it sees them itself, then by the host's paths."""
    root, files = _root(box), box.sandbox.state.files  # type: ignore[attr-defined]
    inside = {"testbed": "/testbed", "tmp": "/tmp", "home": home or "/home/user"}
    return {
        "root": str(root),
        "folders": {
            name: [path, *dict.fromkeys((str(root / name), str(files / name)))]
            for name, path in inside.items()
        },
    }


def _kernel(box: Box) -> dict[str, Any]:
    """Its connection file."""
    process = box.session._process
    assert process is not None  # it has just answered
    info = dict(process.connection_info)
    key = info["key"]
    return {**info, "key": key.decode() if isinstance(key, bytes) else key}


@contextlib.contextmanager
def _forkers(ground: Ground) -> Iterator[dict[str, Any]]:
    """Where this user's wardens listen, their and their zygotes' process ids; with a bait's."""
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    pids = []
    for pid in found:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(forking.NAMES) for word in words):
                pids.append(pid)
    path = ground.folder / "zygote.sock"
    code = "import time; time.sleep(120)"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen(16)
        bait = subprocess.Popen(
            [sys.executable, "-I", "-c", code, "zygote.py"],
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            cwd="/",
        )
        try:
            real = [str(place) for place in zygotes().glob(f"*/{SOCKET}")]
            # in the canary the bait alone: what would get through there would hurt the real ones
            yield {
                "sockets": [str(path)] if ground.canary else [*real, str(path)],
                "pids": [bait.pid] if ground.canary else [*pids, bait.pid],
            }
        finally:
            bait.kill()
            bait.wait()


def baits_of(tag: str) -> list[int]:
    """The host's ids of the bait processes, in their order."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            if plant.name_of(tag).encode() in words:
                found[words[-3]] = int(folder.name)
    return [found[name] for name in sorted(found)]


def _cgroups(pid: int) -> list[str]:
    """The control groups of a process, as folders of the host."""
    folders = cgroup.layout().folders
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        base = "/sys/fs/cgroup" + (f"/{controllers}" if controllers else "")
        found.append(f"{base.removesuffix('/')}{path}")
    return [*found, *map(str, folders.values())]


@contextlib.asynccontextmanager
async def _proxy(ground: Ground, box: Box, listeners: Listeners) -> AsyncIterator[str]:
    """The path of the neighbour's way out on the host; in the canary a naive proxy stands in."""
    if not ground.canary:
        found = [*Path(_root(box)).rglob("proxy.sock")]
        files = box.sandbox.state.files  # type: ignore[attr-defined]
        found += [path for path in (files / "run" / "proxy.sock",) if path.exists()]
        yield str(found[0]) if found else ""
        return
    path = ground.folder / "neighbour-proxy.sock"
    naive = NaiveProxy(World(listeners), ground.folder / "none", [""])
    await naive.start(path)
    path.chmod(0o666)
    try:
        yield str(path)
    finally:
        naive.close()
