"""Rollouts without a break: does anything fail, grow, or stay behind?

    python tests/performance/soak.py [--minutes 10] [--together 64] [--backend NAME]

So many scripted rollouts at once, back to back. Every five seconds it notes memory, of this process
and of all of ours, descriptors, processes, mounts, loop devices, control groups and folders. Two
windows are compared, the second minute and the last. The exit code is 1 if a rollout failed, a
figure grew by more than chance, or anything was left once all had ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from statistics import median

import processes
from _rollout_worker import Crew
from bench import BUILD, raise_open_files
from harness import p95, say
from ours import default_backend

EVERY_SECONDS = 5.0
REST_SECONDS = 15.0
"""Most that what has ended may take to be gone."""
ALLOWED: dict[str, tuple[float, float]] = {
    "host_rss_mb": (1.15, 30.0),
    "all_pss_mb": (1.15, 150.0),
    "host_fds": (1.1, 20.0),
    "processes": (1.1, 20.0),
    "mounts": (1.0, 0.0),
    "loops": (1.1, 20.0),
    "cgroups": (1.1, 20.0),
    "folders": (1.1, 20.0),
}
"""A figure grew if the last window's median is above this factor of the first's, and by more than
this. Those of a population that comes and goes have room for chance; mounts have none."""
LEFT = ("processes", "mounts", "loops", "cgroups", "folders")
"""What must be at the end as it was at the start, when the wardens have ended as well."""


def figures() -> dict[str, float]:
    """What is there now."""
    found = processes.descendants()
    here = os.getpid()
    return {
        "host_rss_mb": processes.status_mb(here, "VmRSS"),
        "all_pss_mb": processes.pss_mb(here) + sum(processes.pss_mb(one.pid) for one in found),
        "host_fds": float(processes.open_files()),
        "processes": float(len(found)),
        "mounts": float(processes.mounts()),
        "loops": float(processes.loops()),
        "cgroups": float(processes.control_groups()),
        "folders": float(processes.runtime_folders()),
    }


class Soak:
    """Keeps the crew at work until the time is over; counts and notes."""

    def __init__(self, crew: Crew, seconds: float) -> None:
        self.crew = crew
        self.seconds = seconds
        self.times: list[float] = []
        self.failures: Counter[str] = Counter()
        self.notes: list[tuple[float, dict[str, float]]] = []

    async def run(self) -> None:
        self.began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            for _ in range(self.crew.together):
                group.create_task(self._member())

    @property
    def age(self) -> float:
        return time.monotonic() - self.began

    async def _member(self) -> None:
        while self.age < self.seconds:
            try:
                self.times.append(await self.crew.one())
            except Exception as error:
                self.failures[f"{type(error).__name__}: {str(error)[:300]}"] += 1
                traceback.print_exc(limit=3)
                await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        while self.age < self.seconds - EVERY_SECONDS:
            await asyncio.sleep(EVERY_SECONDS)
            self.notes.append((self.age, await asyncio.to_thread(figures)))
            count = len(self.times)
            say(f"\r  {self.age:.0f} s, {count} rollouts, {self.failures.total()} failed", end="")
        say("")

    def windows(self) -> tuple[dict[str, float], dict[str, float]]:
        """Medians of the second minute and of the last, or of the like parts of a short soak."""
        width = min(60.0, self.seconds / 4)
        parts = ((width, 2 * width), (self.seconds - width, self.seconds))
        first, last = (
            {
                key: median([note[key] for age, note in self.notes if begin <= age < end])
                for key in ALLOWED
            }
            for begin, end in parts
        )
        return first, last


def grew(key: str, first: float, last: float) -> bool:
    factor, room = ALLOWED[key]
    return last > first * factor and last - first > room


async def settled(before: dict[str, float]) -> dict[str, float]:
    """The figures once everything has ended, or after a while."""
    deadline = time.monotonic() + REST_SECONDS
    while True:
        after = figures()
        if all(after[key] <= before[key] for key in LEFT) or time.monotonic() > deadline:
            return after
        await asyncio.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description="Rollouts back to back: failures and growth.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--together", type=int, default=64)
    parser.add_argument("--backend", default=default_backend(), help="%(default)s")
    parser.add_argument("--json", type=Path, default=BUILD / "soak.json", help="%(default)s")
    given = parser.parse_args()
    raise_open_files()
    before = figures()

    async def work() -> Soak:
        async with Crew(given.backend, given.together) as crew:
            soak = Soak(crew, given.minutes * 60)
            await soak.run()
        return soak

    with processes.own_runtime():
        soak = asyncio.run(work())
        processes.end_wardens()
        after = asyncio.run(settled(before))
    return report(given, soak, before, after)


def report(
    given: argparse.Namespace, soak: Soak, before: dict[str, float], after: dict[str, float]
) -> int:
    """Print the table, write the file; the exit code."""
    first, last = soak.windows()
    count, failed = len(soak.times), soak.failures.total()
    print(f"{given.backend}: {count} rollouts in {soak.seconds / 60:g} minutes, {failed} failed")
    if soak.times:
        per_second = count / soak.seconds
        print(
            f"{given.together} at once, {per_second:.1f} a second; each {median(soak.times):.0f} "
            f"ms in the middle, {p95(soak.times):.0f} ms at the 95th percentile"
        )
    print(f"\n{'':14}{'before':>10}{'2nd minute':>12}{'last':>10}{'after':>10}")
    bad = failed > 0 or not soak.times
    for key in ALLOWED:
        words = []
        if grew(key, first[key], last[key]):
            words.append("GREW")
        if key in LEFT and after[key] > before[key]:
            words.append("LEFT BEHIND")
        bad = bad or bool(words)
        numbers = f"{before[key]:>10.0f}{first[key]:>12.0f}{last[key]:>10.0f}{after[key]:>10.0f}"
        print(f"{key:14}{numbers}  {', '.join(words) or 'steady'}")
    for text, times in soak.failures.most_common():
        print(f"{times} x {text}")
    facts = {"backend": given.backend, "together": given.together, "minutes": given.minutes}
    facts |= {"rollouts": count, "failures": dict(soak.failures), "bad": bad}
    facts |= {"before": before, "first": first, "last": last, "after": after}
    notes = [{"seconds": age, **note} for age, note in soak.notes]
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({**facts, "notes": notes}, indent=1) + "\n", "utf-8")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
