"""Interleaved timing: every contender once per round, so that a busy minute hits all alike.

`interleave` runs the contenders, a `Row` is one line of the table and one entry of the JSON:
{name, unit, n, min, median, p95, rivals: {rival: {…, median, ratio}}, goals, also, series, notes}.
A ratio above 1 is in our favour. `first` is the warm-up run, with imports, caches and preloading in
it. Compare ratios freely, medians of two files only if both machines were quiet.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"

OURS = "ours"
QUIET_CORES = 0.2
"""A machine on which all others together use less than this is called quiet."""

Contender = Callable[[], Awaitable[Mapping[str, float]]]
"""One run; returns values by measure. Clean-up is in it, but not in what it returns."""


class NotHere(Exception):
    """What a row needs is not part of lis_kernel (or of this machine); says what."""


@dataclass
class Samples:
    """Values by contender and measure; `first` holds the warm-up's."""

    n: int
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    first: dict[str, dict[str, float]] = field(default_factory=dict)

    def of(self, contender: str, measure: str) -> list[float]:
        return self.values.get(contender, {}).get(measure, [])

    def rivals(self, measure: str, *, ours: str = OURS) -> dict[str, list[float]]:
        """Everybody's but `ours`."""
        others = [name for name in self.values if name != ours]
        return {name: found for name in others if (found := self.of(name, measure))}


@dataclass
class Row:
    """One name of the table: our values, the rivals', and what else was seen."""

    name: str
    unit: str
    values: list[float]
    rivals: dict[str, list[float]] = field(default_factory=dict)
    more_is_better: bool = False
    first: float | None = None
    also: dict[str, float] = field(default_factory=dict)
    """Further measures, the unit at the end of the name: `started_in_s`, `idle_cpu_cores`."""
    series: dict[str, Any] = field(default_factory=dict)
    """What is plotted: `{"x": [...], "y": [...], …}` by name."""
    notes: list[str] = field(default_factory=list)
    error: str = ""
    """Why there are no values, if there are none."""

    @property
    def median(self) -> float | None:
        return median(self.values) if self.values else None

    def ratio(self, rival: str) -> float | None:
        """How many times better our median is than the rival's."""
        if not self.values or not self.rivals.get(rival):
            return None
        ours, theirs = median(self.values), median(self.rivals[rival])
        above, below = (ours, theirs) if self.more_is_better else (theirs, ours)
        return above / below if below else None

    def entry(self) -> dict[str, Any]:
        """Of the JSON."""
        rivals = {
            name: {**stats(values), "ratio": self.ratio(name)}
            for name, values in self.rivals.items()
            if values
        }
        found: dict[str, Any] = {"name": self.name, "unit": self.unit, **stats(self.values)}
        found |= {"rivals": rivals, "values": self.values}
        for key in ("more_is_better", "first", "also", "series", "notes", "error"):
            if getattr(self, key):
                found[key] = getattr(self, key)
        return found


def stats(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"n": 0, "min": None, "median": None, "p95": None}
    return {"n": len(values), "min": min(values), "median": median(values), "p95": p95(values)}


def p95(values: Sequence[float]) -> float:
    """The nearest-rank 95th percentile: a value that was measured, the largest below 20 values."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


async def interleave(
    contenders: Mapping[str, Contender],
    n: int,
    *,
    warm_up: bool = True,
    at_most: Mapping[str, int] | None = None,
) -> Samples:
    """One warm-up run of each contender, then `n` rounds of all in a rotating order.

    `at_most` bounds the rounds in which a slow contender takes part: they are spread evenly.
    """
    samples = Samples(n, {name: {} for name in contenders})
    names = list(contenders)
    if warm_up:
        for name in names:
            samples.first[name] = dict(await contenders[name]())
    for number in range(n):
        turned = number % len(names)
        for name in names[turned:] + names[:turned]:
            most = min(n, (at_most or {}).get(name, n))
            if number * most // n == (number - 1) * most // n and number:
                continue
            for measure, value in (await contenders[name]()).items():
                samples.values[name].setdefault(measure, []).append(value)
        say(f"\r  round {number + 1}/{n}", end="")
    say("")
    return samples


def say(text: str, end: str = "\n") -> None:
    """To the one who waits; the table alone goes to stdout."""
    print(text, end=end, file=sys.stderr, flush=True)


# -- the machine -----------------------------------------------------------------------------------


def busy_cores(seconds: float = 1.0) -> float:
    """Cores' worth of time that is used on this machine, by whomever."""

    def used() -> float:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds


def wait_quiet(seconds: float) -> float:
    """Wait at most `seconds` until others leave the machine alone; what they use then, in cores."""
    deadline = time.monotonic() + seconds
    while (busy := busy_cores()) > QUIET_CORES and time.monotonic() < deadline:
        pass
    return busy


def machine() -> dict[str, Any]:
    """What a reader needs to judge the numbers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "docker": _version("docker", "version", "--format", "{{.Server.Version}}"),
        "bubblewrap": _version("bwrap", "--version"),
        "commit": _version("git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"),
    }


def save(path: Path, entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write the rows' entries and, last, the machine's."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([*entries, {"name": "machine", "date": now, **facts}], indent=1)
    path.write_text(text + "\n", "utf-8")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
