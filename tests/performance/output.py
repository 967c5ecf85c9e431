"""The row of a flood: a cell that prints 100 MB, and by how much its kernel grows.

Three floods: large prints, a million lines, and a child process. The row's value and the rivals'
are seconds of the large prints; the others and the slowest are told beside it. Growth is the
kernel's peak (VmHWM) over what it held before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection
from statistics import median
from time import perf_counter

import processes
import rivals
from harness import Contender, Row, interleave
from ours import Settings, ok, opened

NAMES = ("stdout_100mb",)
CHUNKS, LINES = "prints", "lines"
FLOODS = {
    CHUNKS: "for _ in range(100):\n    print('x' * 999_999)",
    LINES: "for _ in range(1_000_000):\n    print('x' * 99)",
    "child": (
        "import subprocess\n"
        "done = subprocess.run('yes ' + 'x' * 99 + ' | head -c 100000000', shell=True)"
    ),
}
ROOM = "import shutil; shutil.rmtree('/tmp/lis', ignore_errors=True)"
"""Removes the files in which ours keeps all of the output: a sandbox's disk is bounded."""
OF_EXEC = "python3 -c \"for _ in range(100): print('x' * 999_999)\""


def flooded(run: Callable[[str], Awaitable[object]], pid: int, kinds: Collection[str]) -> Contender:
    async def contender() -> dict[str, float]:
        found: dict[str, float] = {}
        for kind in kinds:
            processes.forget_peak(pid)
            before = processes.status_mb(pid, "VmRSS")
            began = perf_counter()
            await run(FLOODS[kind])
            found[kind] = perf_counter() - began
            found[f"{kind}_grew_mb"] = processes.status_mb(pid, "VmHWM") - before
            await run(ROOM)
        return found

    return contender


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    row = Row(NAMES[0], "s", [])
    async with contextlib.AsyncExitStack() as stack:
        known = {one.pid for one in processes.descendants()}
        session = await stack.enter_async_context(opened(settings.backend))
        new = [one for one in processes.descendants() if one.pid not in known]
        kernel = max(new, key=lambda one: (one.kind == "kernel", processes.pss_mb(one.pid)))
        plain = await stack.enter_async_context(rivals.Plain())
        contenders = {
            "ours": flooded(lambda source: ok(session, source), kernel.pid, FLOODS),
            "plain": flooded(plain.execute, plain.pid, (CHUNKS, LINES)),
        }
        if settings.docker and (reason := rivals.no_docker()):
            row.notes.append(f"no rival in a container: {reason}")
        elif settings.docker:
            box = await stack.enter_async_context(rivals.Container())
            command = await stack.enter_async_context(rivals.Exec())
            pid = (await box.pids())[0]
            contenders["docker"] = flooded(box.execute, pid, (CHUNKS,))
            contenders["docker exec"] = by_exec(command)
        samples = await interleave(contenders, settings.rounds(5))
    row.values = samples.of("ours", CHUNKS)
    for kind in FLOODS:
        row.also[f"{kind}_s"] = median(samples.of("ours", kind))
        row.also[f"{kind}_grew_mb"] = median(samples.of("ours", f"{kind}_grew_mb"))
    row.also["slowest_s"] = max(row.also[f"{kind}_s"] for kind in FLOODS)
    row.also["kernel_grew_mb"] = max(row.also[f"{kind}_grew_mb"] for kind in FLOODS)
    row.rivals = samples.rivals(CHUNKS)
    lines = samples.of("plain", LINES)
    row.also["plain_lines_s"] = median(lines)
    for name in ("plain", "docker"):
        if grew := samples.of(name, f"{CHUNKS}_grew_mb"):
            row.also[f"{name}_grew_mb"] = median(grew)
    return [row]


def by_exec(box: rivals.Exec) -> Contender:
    async def contender() -> dict[str, float]:
        began = perf_counter()
        said = await box.run(OF_EXEC)
        took = perf_counter() - began
        if len(said) < 99_000_000:
            raise RuntimeError(f"only {len(said)} bytes arrived")
        return {CHUNKS: took}

    return contender
