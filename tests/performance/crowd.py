"""Rows of the crowd: 512 and 1,000 idle sandboxes on one machine.

One population grows, and never takes the machine's last memory. The rows' value is what the machine
has less of MemAvailable, the Linux kernel's own structures included (and whatever else the machine
does meanwhile); beside it the PSS of all of ours, the processor time of idling, and how long `1+1`
takes in one sandbox after the other, and in all at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from statistics import median
from time import perf_counter

import processes
from harness import Row, p95, say
from ours import ONE, Settings, end, ms, ok, start

from lis_kernel.kernel.session import KernelSession

NAMES = ("idle_512_gb", "idle_1000")
CROWDS = {"idle_512_gb": 512, "idle_1000": 1000}
STEPS = (1, 16, 64, 128, 256, 512, 750, 1000)
"""At so many sandboxes the population's memory is noted for the plot."""
AT_ONCE = 4
"""Starts that go on at the same time."""
SPARE_MB = 2500.0
"""The crowd does not grow where the machine has no more than this."""
IDLE_SECONDS = 10.0
ASKED = 100


class Full(RuntimeError):
    """The machine has no memory for more."""


class Crowd:
    """A population of idle sandboxes that only grows; `seconds` is what its starts took."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.sessions: list[KernelSession] = []
        self.seconds = 0.0
        self.free = processes.available_mb()
        self.series: dict[str, list[float]] = {
            "sandboxes": [],
            "available_gb": [],
            "pss_gb": [],
            "started_in_s": [],
        }

    async def grow(self, size: int) -> None:
        """Raises: Full, and whatever a start raises."""
        for step in [step for step in STEPS if len(self.sessions) < step < size] + [size]:
            began = perf_counter()
            wanted = iter(range(step - len(self.sessions)))

            async def worker(wanted=wanted) -> None:
                for _ in wanted:
                    if processes.available_mb() < SPARE_MB:
                        raise Full(f"no memory for more than {len(self.sessions)} sandboxes")
                    self.sessions.append(await start(self.backend))

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(worker())
            self.seconds += perf_counter() - began
            self.note()
            say(f"\r  {len(self.sessions)} sandboxes in {self.seconds:.1f} s", end="")
        say("")

    def note(self) -> None:
        pss = sum(processes.pss_mb(one.pid) for one in processes.descendants())
        for key, value in (
            ("sandboxes", float(len(self.sessions))),
            ("available_gb", (self.free - processes.available_mb()) / 1000),
            ("pss_gb", pss / 1000),
            ("started_in_s", self.seconds),
        ):
            self.series[key].append(value)

    async def ask_one_at_a_time(self) -> list[float]:
        """Milliseconds of `1+1` in some of them, each new to the question."""
        times = []
        chosen = random.Random(4).sample(self.sessions, min(ASKED, len(self.sessions)))
        for session in chosen:
            began = perf_counter()
            await ok(session, ONE)
            times.append(ms(began))
        return times

    async def ask_all(self) -> tuple[float, list[float]]:
        """Seconds until all have answered, and the milliseconds of each, asked at once."""
        times: list[float] = []

        async def ask(session: KernelSession) -> None:
            began = perf_counter()
            await ok(session, ONE)
            times.append(ms(began))

        began = perf_counter()
        await asyncio.gather(*map(ask, self.sessions))
        return perf_counter() - began, times

    async def row(self, name: str) -> Row:
        """What this many take; both memory figures are of all sandboxes together."""
        row = Row(name, "GB", [self.series["available_gb"][-1]])
        row.also["pss_gb"] = self.series["pss_gb"][-1]
        row.also["started_in_s"] = self.seconds
        await asyncio.sleep(2)  # what a start leaves to be done is not idling
        row.also["idle_cpu_cores"] = await asyncio.to_thread(processes.cpu_cores, IDLE_SECONDS)
        times = await self.ask_one_at_a_time()
        row.also["cell_ms"], row.also["cell_p95_ms"] = median(times), p95(times)
        row.also["all_at_once_s"], times = await self.ask_all()
        row.also["all_at_once_p95_ms"] = p95(times)
        row.also["processes"] = float(len(processes.descendants()))
        row.series["crowd"] = {key: list(values) for key, values in self.series.items()}
        return row

    async def leave(self) -> float:
        """Seconds until the last one is gone."""
        began = perf_counter()
        while self.sessions:
            some = [self.sessions.pop() for _ in range(min(32, len(self.sessions)))]
            await asyncio.gather(*map(end, some))
        return perf_counter() - began


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    rows: list[Row] = []
    await end(await start(settings.backend))  # a zygote's own memory is told by the PSS
    crowd = Crowd(settings.backend)
    try:
        for name, size in CROWDS.items():
            if name in names:
                try:
                    await crowd.grow(size // 32 if settings.quick else size)
                    rows.append(await crowd.row(name))
                except* Full as full:
                    rows.append(Row(name, "GB", [], error=f"FAILED: {full.exceptions[0]}"))
    finally:
        seconds, count = await crowd.leave(), len(crowd.series["sandboxes"])
    for row in rows:
        row.also["stopped_in_s"] = seconds
        if settings.quick and count:
            row.notes.append("--quick: of a 32nd of that number")
    return rows
