"""Rows of the whole rollout: task in, closed notebook out, a model that answers at once.

`rollout_scripted` is one at a time: ours from a warm pool and cold, beside the paper's package.
A round runs a script of 6 and one of 12 turns with each, so that (long - short) / 6 is a turn
without start and stop. `rollouts_per_s` is 64 at once, in one process and split over several; the
package's is its own `--num_workers`: processes that each do one rollout after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Self

import rivals
import workload
from harness import Contender, Row, interleave, say
from ours import Settings, full, pool_of, rollout
from reference import Failed, Reference

from lis_kernel.kernel.pool import Pool

NAMES = ("rollout_scripted", "rollouts_per_s")
APART = True
SHORT, LONG = 6, 12
POOL = 1
TOGETHER = 64
WORKERS = (1, 2, 4)
REFERENCE_WORKERS = 16
HERE = Path(__file__).parent


# -- one at a time ---------------------------------------------------------------------------------


def ours(backend: str, pool: Pool | None = None) -> Contender:
    async def contender() -> dict[str, float]:
        found = []
        for turns in (SHORT, LONG):
            if pool is not None:
                await full(pool, POOL)
            found.append(await rollout(backend, workload.script(turns), pool=pool))
        if pool is not None:
            await full(pool, POOL)
        short, long = found
        turn = (long["total"] - short["total"]) / (LONG - SHORT)
        return {"total": short["total"], "without stop": short["total"], "turn": turn} | {
            "call": short["call"]
        }

    return contender


async def patiently(reference: Reference, turns: int) -> dict[str, Any]:
    """A rollout of the package; under load one fails now and then, and is done again."""
    for _ in range(2):
        with contextlib.suppress(Failed):
            return await asyncio.to_thread(reference.rollout, turns)
    return await asyncio.to_thread(reference.rollout, turns)


def theirs(reference: Reference) -> Contender:
    async def contender() -> dict[str, float]:
        short, long = [await patiently(reference, turns) for turns in (SHORT, LONG)]
        # Its stop is a fixed 5 s wait for a `sleep` that ignores SIGTERM: noise in a difference.
        acted = [one["total"] - one["stop"] for one in (short, long)]
        return {
            "total": 1000 * short["total"],
            "without stop": 1000 * acted[0],
            "turn": 1000 * (acted[1] - acted[0]) / (LONG - SHORT),
        }

    return contender


async def one_at_a_time(settings: Settings) -> Row:
    row = Row("rollout_scripted", "ms", [])
    async with contextlib.AsyncExitStack() as stack:
        contenders: dict[str, Contender] = {}
        pool = await stack.enter_async_context(pool_of(settings.backend, POOL))
        contenders["ours"] = ours(settings.backend, pool)
        contenders[f"{settings.backend}, no pool"] = ours(settings.backend)
        if settings.backend != "bubblewrap":
            contenders["bubblewrap"] = ours("bubblewrap")
        if settings.docker and (reason := rivals.no_docker()):
            row.notes.append(f"no reference package: {reason}")
        elif settings.docker:
            reference = await asyncio.to_thread(stack.enter_context, Reference())
            contenders["reference"] = theirs(reference)
            row.notes.append(f"reference: {reference.versions}")
        rounds = settings.rounds(15)
        samples = await interleave(contenders, rounds, at_most={"reference": 5})
    row.values, row.rivals = samples.of("ours", "total"), samples.rivals("total")
    for name in contenders:
        of = "" if name == "ours" else f"{name}: "
        row.also[f"{of}turn_ms"] = median(samples.of(name, "turn"))
    if calls := samples.of("ours", "call"):
        row.also["tool_call_ms"] = median(calls)
    if acted := samples.of("reference", "without stop"):
        row.also["reference: without its stop_ms"] = median(acted)
    return row


# -- many at once ----------------------------------------------------------------------------------


class Workers:
    """Processes of `_rollout_worker.py`, warmed up; an async context manager."""

    def __init__(self, backend: str, count: int, together: int) -> None:
        self.count = count
        self.words = [backend, str(max(1, together // count))]
        self.processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self.count):
                self.processes.append(
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, str(HERE / "_rollout_worker.py"), *self.words),
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                    )
                )
            for process in self.processes:
                await self._answer(process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def do(self, rollouts: int) -> float:
        """Rollouts a second, of at least so many."""
        each = -(-rollouts // self.count)
        began = perf_counter()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{each}\n".encode())
        for process in self.processes:
            await self._answer(process)
        return each * self.count / (perf_counter() - began)

    @staticmethod
    async def _answer(process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        line = await process.stdout.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"error": "the worker died"}
        if "error" in reply:
            raise RuntimeError(f"a worker's rollouts failed: {reply['error']}")
        return reply


def workers(of: Workers, rollouts: int) -> Contender:
    async def contender() -> dict[str, float]:
        return {"per_s": await of.do(rollouts)}

    return contender


def reference_workers(crew: Sequence[Reference], threads: Executor) -> Contender:
    """Failed ones count as done, in the package's favour."""

    async def contender() -> dict[str, float]:
        loop = asyncio.get_running_loop()
        began = perf_counter()
        work = [loop.run_in_executor(threads, one.rollout, SHORT) for one in crew]
        done = await asyncio.gather(*work, return_exceptions=True)
        seconds = perf_counter() - began
        failed = [one for one in done if isinstance(one, BaseException)]
        if others := [one for one in failed if not isinstance(one, Failed)]:
            raise others[0]
        return {"per_s": len(crew) / seconds, "failed": float(len(failed))}

    return contender


async def at_once(settings: Settings) -> Row:
    row = Row("rollouts_per_s", "1/s", [], more_is_better=True)
    together, rounds = (8, 1) if settings.quick else (TOGETHER, settings.rounds(3))
    counts = WORKERS[:2] if settings.quick else WORKERS
    async with contextlib.AsyncExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for count in counts:
            crew = Workers(settings.backend, count, together)
            await stack.enter_async_context(crew)
            contenders[f"{count} process{'es' if count > 1 else ''}"] = workers(crew, 2 * together)
        if settings.docker and (reason := rivals.no_docker()):
            row.notes.append(f"no reference package: {reason}")
        elif settings.docker:
            number = 2 if settings.quick else REFERENCE_WORKERS
            say(f"  starting {number} workers of the reference package")
            threads = stack.enter_context(ThreadPoolExecutor(number))  # asyncio's own has six
            references = [stack.enter_context(Reference()) for _ in range(number)]
            contenders["reference"] = reference_workers(references, threads)
            row.notes.append(f"reference: {number} processes, as its --num_workers {number}")
            await contenders["reference"]()  # ours have done one rollout each, too
        samples = await interleave(contenders, rounds, warm_up=False)
    best = max(
        (name for name in contenders if name != "reference"),
        key=lambda name: median(samples.of(name, "per_s")),
    )
    row.values = samples.of(best, "per_s")
    row.rivals = {"reference": found} if (found := samples.of("reference", "per_s")) else {}
    if failed := sum(samples.of("reference", "failed")):
        row.notes.append(f"{failed:.0f} of the package's rollouts failed, and count as done")
    row.notes.append(f"{together} at once; the figure is that of {best}")
    row.series["workers"] = {
        "workers": list(counts),
        "per_s": [median(samples.of(name, "per_s")) for name in list(contenders)[: len(counts)]],
        "reference_per_s": median(found) if found else None,
    }
    for name in list(contenders)[: len(counts)]:
        row.also[f"{name}_per_s"] = median(samples.of(name, "per_s"))
    return row


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    rows = {"rollout_scripted": one_at_a_time, "rollouts_per_s": at_once}
    return [await rows[name](settings) for name in names]
