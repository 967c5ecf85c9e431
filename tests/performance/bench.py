"""All benchmarks, one table, one file: what `make bench` runs.

    python tests/performance/bench.py [NAME ...] [-n 5] [--quick] [--no-docker] [--backend NAME]

Without names every row runs and `results/<date>.json` is written (the day's last one stays); with
names, or `--quick`, the file is `build/bench.json`, or where `--json` says. A row that fails, or
that this lis_kernel cannot do yet, is told in the table, and the exit code is 1; a rival that this
machine lacks is a note. Whatever is started is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import signal
import sys
import traceback
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import crowd
import files
import goals
import idle
import magics
import output
import processes
import rivals
import rollouts
import round_trip
import start_up
from harness import QUIET_CORES, RESULTS, NotHere, Row, machine, save, say, wait_quiet
from ours import Settings, default_backend

GROUPS: tuple[ModuleType, ...] = (
    *(start_up, round_trip, output, files, rollouts, magics, idle, crowd),
)
"""Each has NAMES, and `measure`, which gives the rows of the names that it is asked for, in one
run unless it says APART."""
NAMES = [name for group in GROUPS for name in group.NAMES]
BUILD = Path(__file__).parents[2] / "build"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks beside their rivals.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("-n", type=int, help="rounds after the warm-up; each row has its own")
    parser.add_argument("--quick", action="store_true", help="see that the rows run")
    parser.add_argument("--no-docker", action="store_true", help="leave those rivals out")
    parser.add_argument("--backend", default=default_backend(), help="ours: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument(
        "--quiet-seconds",
        type=float,
        default=20.0,
        help="how long to wait, before each row, for others to leave the machine alone",
    )
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(NAMES)}")
    return given


def parts(names: Collection[str]) -> Iterator[tuple[ModuleType, list[str]]]:
    """What is measured in one go: where it fails, only these rows do."""
    for group in GROUPS:
        asked = [name for name in group.NAMES if name in names]
        if getattr(group, "APART", False):
            yield from ((group, [name]) for name in asked)
        elif asked:
            yield group, asked


def run(names: Collection[str], settings: Settings) -> tuple[list[Row], dict[str, Any]]:
    """The rows of `names`, and the machine."""
    facts = {**machine(), "backend": settings.backend, "quiet": True, "busy_cores_before": {}}
    rows: list[Row] = []
    for group, asked in parts(names):
        busy = wait_quiet(settings.quiet_seconds)
        facts["busy_cores_before"][asked[0]] = round(busy, 2)
        if busy > QUIET_CORES:
            facts["quiet"] = False
            say(f"the machine is not quiet: others use {busy:.2f} cores")
        say(f"{', '.join(asked)} …")
        found = {name: Row(name, "", [], error="no result") for name in asked}
        try:
            found |= {row.name: row for row in asyncio.run(group.measure(asked, settings))}
        except NotHere as missing:
            found = {name: Row(name, "", [], error=str(missing)) for name in asked}
        except Exception as error:
            traceback.print_exc()
            why = f"FAILED: {type(error).__name__}: {error}".splitlines()[0][:200]
            found = {name: Row(name, "", [], error=why) for name in asked}
        rows += found.values()
        gc.collect()
    facts["load_after"] = os.getloadavg()
    return rows, facts


def raise_open_files() -> None:
    """A thousand sandboxes take several descriptors each."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    given = arguments()
    raise_open_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = Settings(given.backend, given.n, given.quick, not given.no_docker)
    settings.quiet_seconds = 0.0 if given.quick else given.quiet_seconds
    try:
        with processes.own_runtime():
            rows, facts = run(given.names or NAMES, settings)
    finally:
        rivals.clean_up()
    print(goals.table(rows, facts))
    whole = not (given.names or given.quick)
    date = f"{datetime.now(UTC):%Y-%m-%d}.json"
    path = given.json or (RESULTS / date if whole else BUILD / "bench.json")
    save(path, [goals.entry(row) for row in rows], facts)
    print(f"\n{path}")
    return int(any(row.error for row in rows))


if __name__ == "__main__":
    sys.exit(main())
