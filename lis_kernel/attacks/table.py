"""The attack table of SECURITY.md: `python -m lis_kernel.attacks.table SECURITY.md A.json B.json`.

Each JSON file is what `lis doctor --attack --json` printed for one backend. The text between the
two marks is replaced. `make attacks` does both, so that the table is a run's and nobody's memory.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

from lis_kernel.attacks.suite import Finding

__all__ = ["table", "write"]

BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
WORDS = 90
"""Longest text of a cell in the long table."""
SECRET = re.compile(r"\bw[0-9a-f]{24}\b")
"""What an attempt tries to carry out: another one in each run."""


def table(runs: list[list[Finding]]) -> str:
    """Markdown: a row a family, then every attempt with what stopped it on each backend."""
    backends = [run[0].backend for run in runs]
    every = {(f.family, f.name): f for run in runs for f in run}
    by_backend = [{(f.family, f.name): f for f in run} for run in runs]
    lines = [
        f"| family | attempts | {' | '.join(backends)} | canaries that got through |",
        "|---|---|" + "---|" * (len(backends) + 1),
    ]
    for family in dict.fromkeys(key[0] for key in every):
        names = [key for key in every if key[0] == family]
        results = []
        for found in by_backend:
            count = Counter(found[key].result for key in names if key in found)
            results.append(", ".join(f"{n} {word}" for word, n in sorted(count.items())))
        live = sum(every[key].live for key in names)
        lines.append(f"| {family} | {len(names)} | {' | '.join(results)} | {live} |")
    lines += [
        "",
        f"<details><summary>All {len(every)} attempts, and what stopped each</summary>",
        "",
        f"| attempt | {' | '.join(backends)} | canary |",
        "|---|" + "---|" * (len(backends) + 1),
    ]
    for key, one in every.items():
        cells = [_cell(found.get(key)) for found in by_backend]
        name = f"{key[0]}: {key[1].replace('_', ' ')}"
        lines.append(f"| {name} | {' | '.join(cells)} | {one.canary.partition(':')[0]} |")
    return "\n".join([*lines, "", "</details>"])


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return "–"
    if finding.result == "breached":
        return "**BREACHED**"
    text = SECRET.sub("WORD", " ".join(finding.stopped_by.split()).replace("|", "/"))
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"


def write(target: Path, runs: list[list[Finding]]) -> None:
    """Put the table of `runs` between the marks of `target`."""
    before, _, rest = target.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    target.write_text(f"{before}{BEGIN}\n\n{table(runs)}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    write(
        Path(sys.argv[1]),
        [[Finding(**row) for row in json.loads(Path(name).read_text())] for name in sys.argv[2:]],
    )
