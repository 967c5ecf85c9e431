"""Attempts to take more than the sandbox's share, and to keep its kernel for ever.

Each attempt runs in a cell of its own. What it got is compared with the tight limits, the limit
must be named as the cell's verdict, and the sandbox must go on afterwards. The canary's limits are
wide; for floods of output and cells without an end it is a plain Jupyter kernel and its client.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lis_kernel.attacks import greed
from lis_kernel.attacks.ground import INSIDE, TIGHT, Box, Ground, Outcome, Report, together
from lis_kernel.sandbox.reaper import remove_tree

__all__ = ["run"]

LITTLE = TIGHT.model_copy(update={"cpus": 0.2})
ROOM = 1 << 30
IN_ITS_OWN = "burn_the_processor"
PROCESSES = (
    "start_many_processes",
    "fork_like_a_bomb",
    "start_ten_thousand_threads",
    "leave_zombies",
)
MEMORY = (
    "touch_memory",
    "touch_memory_in_many_processes",
    "fill_files_without_a_name",
    "fill_shared_segments",
    "share_anonymous_memory",
    "fill_socket_buffers",
)
OF_ALL = MEMORY[1:]
"""Their memory is no one process's own."""
DISK = (
    "fill_the_testbed",
    "fill_tmp",
    "fill_home",
    "fill_shared_memory",
    "reserve_the_disk",
    "fill_sparse_files",
    "make_many_files",
)
GENTLE = (
    "fill_the_folder_of_the_sockets",
    "lock_memory",
    "open_many_files",
    "open_many_terminals",
    "raise_the_limits",
    "run_in_real_time",
    "leave_a_core_dump",
)
"""Their limit has no verdict of its own."""
PLAINLY = (IN_ITS_OWN, "run_in_real_time")
"""The canary's control group has its share only, so it shows these outside."""
SHARED = tuple({*PROCESSES, *MEMORY, *DISK, *GENTLE} - {*PLAINLY, "leave_a_core_dump"})
VERDICTS = (
    dict.fromkeys(PROCESSES, "pids")
    | dict.fromkeys(MEMORY, "oom")
    | dict.fromkeys(DISK, "disk_full")
)
TIDY = """
import glob, os, subprocess
for place in {places}:
    for path in glob.glob(place + "/lis-attack-*"):
        subprocess.run(["rm", "-rf", path])
print(6 * 7)
"""


async def run(ground: Ground) -> Mapping[str, Outcome]:
    """Every attempt; those of the kernel itself, and those that wait, in sandboxes beside."""
    outcomes = await _plain(ground) if ground.canary else {}
    works = (_wide,) if ground.canary else (_tight, _slow)
    for found in await together(*(work(ground) for work in (*works, greed.run))):
        outcomes |= found
    return outcomes


async def _places(ground: Ground, box: Box) -> dict[str, str]:
    """Where can be written; for the canary, folders of ours, in memory if there is room."""
    names = ("testbed", "tmp", "home", "shm", "run")
    if not ground.canary:
        run_inside = await box.text(
            "import os\nfrom ipykernel import get_connection_file\n"
            "print(os.path.dirname(get_connection_file()), end='')"
        )
        places = ("/testbed", "/tmp", "/home/user", "/dev/shm", run_inside)
        return dict(zip(names, places, strict=True))
    root = ground.folder / "fill"
    if shutil.disk_usage("/dev/shm").free > ROOM:
        root = Path("/dev/shm", f"lis-attack-{ground.word}")
    ground.on_end(lambda: remove_tree(root))
    for name in names:
        (root / name).mkdir(parents=True)
    return {name: str(root / name) for name in names}


async def _wide(ground: Ground) -> dict[str, Outcome]:
    async with ground.box() as box:
        places = await _places(ground, box)
        reports = await box.attempts("exhaustion", {"places": places, "only": SHARED}, 110)
    return {name: ground.judge(report) for name, report in reports.items()}


async def _plain(ground: Ground) -> dict[str, Outcome]:
    """What the canary shows with processes of ours that nothing is around."""
    outcomes = {"leave_a_core_dump": await asyncio.to_thread(_dump_core, ground)}
    for name, report in (await asyncio.to_thread(_plainly, ground, PLAINLY)).items():
        outcome = ground.judge(report)
        outcomes[name] = outcome._replace(evidence=f"plain process: {outcome.evidence}")
    return outcomes


def _plainly(ground: Ground, names: tuple[str, ...]) -> dict[str, Report]:
    """Run these as a process of ours, with nothing around it."""
    facts = ground.folder / "plainly.json"
    facts.write_text(json.dumps({"only": names, "nonce": "", "canary": True}))
    command = [sys.executable, "-m", "inside.driver", "exhaustion", str(facts)]
    done = subprocess.run(command, cwd=INSIDE.parent, capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for line in told:
        del line["nonce"]
    return {line["name"]: Report(**line) for line in told}


def _dump_core(ground: Ground) -> Outcome:
    """A process of ours that crashes, with what this user's limits allow."""
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        return Outcome("skipped", "the host's crash handler is left in peace")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] not in (resource.RLIM_INFINITY,):
        return Outcome("skipped", "this user's limits allow no cores")
    folder = ground.folder / "core"
    folder.mkdir()
    code = "import os, resource as r; r.setrlimit(r.RLIMIT_CORE, (-1, -1)); os.abort()"
    status = subprocess.run([sys.executable, "-IS", "-c", code], cwd=folder, check=False)
    if cores := list(folder.iterdir()):
        size = cores[0].stat().st_size
        return Outcome("breached", f"plain process: {cores[0].name} of {size} bytes")
    return Outcome("skipped", f"cores of this host lie elsewhere (status {status.returncode})")


async def _tight(ground: Ground) -> dict[str, Outcome]:
    outcomes = {}
    async with ground.box() as box:
        places = await _places(ground, box)
        facts = {"places": places}
        tidy = TIDY.format(places=list(places.values()))
        gentle = await box.attempts("exhaustion", {**facts, "only": GENTLE})
        await box.text(tidy)
        for name in (*PROCESSES, *MEMORY, *DISK):
            report, verdict = await _one(box, name, facts)
            outcome = ground.judge(report)
            if await box.text(tidy) != "42\n":
                outcome = Outcome("broken", "the sandbox does not go on")
            elif name in OF_ALL and _each_alone(box):
                outcome = Outcome("skipped", "without control groups each process has a limit")
            elif outcome.result == "blocked":
                outcome = _named(outcome, verdict, VERDICTS[name], box)
            outcomes[name] = outcome
    return {**outcomes, **{name: ground.judge(report) for name, report in gentle.items()}}


async def _slow(ground: Ground) -> dict[str, Outcome]:
    async with ground.box(LITTLE) as box:
        reports = await box.attempts("exhaustion", {"only": [IN_ITS_OWN]})
        held = box.facts["limits"].get("cpus")
    if isinstance(held, dict) and held["held_by"] is None:
        return {IN_ITS_OWN: Outcome("skipped", "nothing holds the processor time here")}
    return {name: ground.judge(report) for name, report in reports.items()}


async def _one(box: Box, name: str, facts: Mapping[str, object]) -> tuple[Report, str | None]:
    """The report and the cell's verdict."""
    nothing = Report(name, "broken", "it gave no report")
    reports = await box.attempts("exhaustion", {**facts, "only": [name]})
    return reports.get(name, nothing), box.session.verdict


def _each_alone(box: Box) -> bool:
    row = box.facts["limits"].get("memory_bytes")
    return isinstance(row, dict) and "each" in str(row["held_by"])


def _named(outcome: Outcome, verdict: str | None, expected: str, box: Box) -> Outcome:
    """What was stopped must have its verdict, but for walls that cannot tell."""
    if verdict == expected:
        return outcome._replace(wall=f"{outcome.wall}, verdict {verdict}")
    held = box.facts["limits"]
    key = {"pids": "pids", "oom": "memory_bytes", "disk_full": "disk_bytes"}[expected]
    row = held.get(key)
    by = str(row.get("held_by")) if isinstance(row, dict) else str(held.get("held_by"))
    if "rlimit" in by or by == "None":
        return outcome
    return Outcome("broken", f"{outcome.evidence}, with the verdict {verdict} for {expected}")
