"""Interleaved timing: every contender once per round, so that a busy minute hits all alike.

`interleave` runs the callables, `report` prints one table and writes `results/<name>-<date>.json`:
a list of {name, unit, n, min, median, p95, first, rivals: {rival: {…, median, ratio}}} and, last,
the machine. ratio = rival's median / our median: above 1 is in our favour. `first` is the warm-up
run, with imports, caches and preloading in it. Compare ratios freely, medians of two files only if
both machines were quiet.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

RESULTS = Path(__file__).parent / "results"

Contender = Callable[[], Mapping[str, float] | None]
"""One run; returns seconds by measure, or None to have the harness time the call as `total`."""


@dataclass
class Samples:
    """Seconds by contender and measure; `first` holds the warm-up's."""

    n: int
    machine: dict[str, Any]
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    first: dict[str, dict[str, float]] = field(default_factory=dict)

    def measures(self) -> list[str]:
        """All measures, in the order in which they were first seen."""
        return list(dict.fromkeys(name for one in self.seconds.values() for name in one))


def interleave(contenders: Mapping[str, Contender], n: int) -> Samples:
    """One warm-up run of each contender, then `n` rounds of all in a rotating order."""
    facts, load = machine(), os.getloadavg()
    quiet = load[0] < 0.3 * facts["cpus"]
    samples = Samples(n, {**facts, "load_before": load, "quiet": quiet})
    names = list(contenders)
    for name in names:
        samples.first[name] = _once(contenders[name])
        samples.seconds[name] = {measure: [] for measure in samples.first[name]}
    for number in range(n):
        turned = number % len(names)
        for name in names[turned:] + names[:turned]:
            for measure, seconds in _once(contenders[name]).items():
                samples.seconds[name].setdefault(measure, []).append(seconds)
        print(f"\rround {number + 1}/{n}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    samples.machine["load_after"] = os.getloadavg()
    return samples


def report(name: str, samples: Samples, ours: str = "ours") -> Path:
    """Prints the table, writes the JSON file (the day's last one stays) and returns its path."""
    measures = [_summary(measure, samples, ours) for measure in samples.measures()]
    _print_table(measures, samples, ours)
    now = datetime.now(UTC)
    facts = {"name": "machine", "date": now.isoformat(timespec="seconds"), **samples.machine}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps([*measures, facts], indent=1) + "\n")
    print(f"\n{path}")
    return path


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


def p95(values: list[float]) -> float:
    """The nearest-rank 95th percentile: a value that was measured, the largest below 20 values."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _once(contender: Contender) -> dict[str, float]:
    began = perf_counter()
    seconds = contender()
    return {"total": perf_counter() - began} if seconds is None else dict(seconds)


def _summary(measure: str, samples: Samples, ours: str) -> dict[str, Any]:
    stats = {
        contender: _stats(values[measure], samples.first[contender].get(measure))
        for contender, values in samples.seconds.items()
        if values.get(measure)
    }
    base = stats.pop(ours, {key: None for key in ("n", "min", "median", "p95", "first")})
    for rival in stats.values():
        rival["ratio"] = rival["median"] / base["median"] if base["median"] else None
    return {"name": measure, "unit": "s", **base, "rivals": stats}


def _stats(values: list[float], first: float | None) -> dict[str, Any]:
    return {
        "n": len(values),
        "min": min(values),
        "median": median(values),
        "p95": p95(values),
        "first": first,
    }


def _print_table(measures: list[dict[str, Any]], samples: Samples, ours: str) -> None:
    facts = samples.machine
    loads = " -> ".join(f"{facts[when][0]:.2f}" for when in ("load_before", "load_after"))
    where = f"{facts['cpus']} cpus ({facts['cpu']}), Linux {facts['kernel']}"
    print(f"{where}, Python {facts['python']}, n={samples.n}, load {loads}")
    if not facts["quiet"]:
        print("the machine was not quiet: trust the ratios, not the medians")
    names = sorted(samples.seconds, key=lambda name: name != ours)
    width = max(len(measure["name"]) for measure in measures)
    head = f"{'ms: median / p95 / min':<{width}}"
    print("\n" + head + "".join(f"  {name:>24}  {'ratio':>6}" for name in names))
    for measure in measures:
        line = f"{measure['name']:<{width}}"
        for name in names:
            stats = measure if name == ours else measure["rivals"].get(name, {})
            shown, ratio = "-", ""
            if stats.get("n"):
                shown = " / ".join(f"{stats[key] * 1000:.1f}" for key in ("median", "p95", "min"))
            if stats.get("ratio"):
                ratio = f"{stats['ratio']:.2f}"
            line += f"  {shown:>24}  {ratio:>6}"
        print(line)


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
