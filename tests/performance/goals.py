"""What each row shall reach, and the table that says whether it does.

The goals are those of the project's speed issue, for two quiet cores. A goal looks at the median,
the 95th percentile, a ratio to a rival in the same run, or one of the row's further measures; one
whose figure is not there (a rival that this machine lacks) is neither met nor missed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import Row, stats


@dataclass(frozen=True)
class Goal:
    """`of`: `median`, `p95`, `ratio to <rival>`, or a name of `Row.also`."""

    of: str
    sign: str
    bound: float

    def figure(self, row: Row) -> float | None:
        if self.of.startswith("ratio to "):
            return row.ratio(self.of.removeprefix("ratio to "))
        if self.of in ("median", "p95"):
            return stats(row.values)[self.of]
        return row.also.get(self.of)

    def met(self, row: Row) -> bool | None:
        figure = self.figure(row)
        if figure is None:
            return None
        return (operator.le if self.sign == "<=" else operator.ge)(figure, self.bound)

    def told(self, row: Row) -> str:
        figure, verdict = self.figure(row), {True: "met", False: "MISSED", None: "not measured"}
        shown = "" if figure is None else f" ({short(figure)})"
        sign = {"<=": "at most", ">=": "at least"}[self.sign]
        return f"{self.of} {sign} {self.bound:g}: {verdict[self.met(row)]}{shown}"


def _at_most(bound: float, of: str = "median") -> Goal:
    return Goal(of, "<=", bound)


def _at_least(bound: float, of: str = "median") -> Goal:
    return Goal(of, ">=", bound)


GOALS: dict[str, tuple[Goal, ...]] = {
    "warm_handover": (_at_most(10),),
    "zygote_start": (
        _at_most(35),
        _at_most(60, "p95"),
        _at_least(15, "ratio to plain"),
        _at_least(20, "ratio to docker"),
    ),
    "bwrap_cold": (_at_least(2, "ratio to plain"),),
    "memory_idle_mb": (_at_most(14), _at_most(14, "available_mb")),
    "idle_512_gb": (
        _at_most(8),
        _at_most(20, "started_in_s"),
        _at_most(0.03, "idle_cpu_cores"),
    ),
    "idle_1000": (_at_most(24), _at_most(10, "cell_ms")),
    "cell_rtt": (_at_most(4), _at_least(15, "ratio to docker exec")),
    "shell_rtt": (_at_most(5), _at_least(15, "ratio to docker exec")),
    "fs_reset": (_at_most(3), _at_most(3, "fs_branch_ms")),
    "live_branch": (_at_most(60),),
    "rollout_scripted": (_at_most(100), _at_least(60, "ratio to reference")),
    "rollouts_per_s": (_at_least(15), _at_least(20, "ratio to reference")),
    "stdout_100mb": (_at_most(2), _at_most(2, "slowest_s"), _at_most(50, "kernel_grew_mb")),
    # told beside the plain kernel's
    "magic_first": (),
    "magic_output": (),
}


def short(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def entry(row: Row) -> dict[str, Any]:
    """The row's entry in the JSON, its goals with it."""
    goals = [
        {
            "of": goal.of,
            "sign": goal.sign,
            "bound": goal.bound,
            "figure": goal.figure(row),
            "met": goal.met(row),
        }
        for goal in GOALS.get(row.name, ())
    ]
    return {**row.entry(), "goals": goals}


def table(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """All rows, a line for each figure, rival, goal and note."""
    lines = [
        f"{facts['cpus']} cpus ({facts['cpu']}), {facts['memory_gib']} GiB, "
        f"Linux {facts['kernel']}, Python {facts['python']}, {facts['commit']}",
    ]
    if not facts.get("quiet", True):
        lines.append("the machine was NOT quiet: trust the ratios, not the medians")
    head = ("what", "median / p95 / min", "n", "rivals: median (ratio)", "goals")
    cells = [head, *(line for row in rows for line in _lines(row))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines += [""]
    for number, line in enumerate(cells):
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
        if number == 0:
            lines.append("-" * (sum(widths) + 2 * (len(head) - 1)))
    for row in rows:
        lines += [f"{row.name}: {note}" for note in (row.error, *row.notes) if note]
    return "\n".join(lines)


def _lines(row: Row) -> Iterator[tuple[str, ...]]:
    if row.error:
        yield row.name, "- (see below)", "", "", ""
        return
    found = stats(row.values)
    ours = " / ".join(short(found[key]) for key in ("median", "p95", "min"))
    left = [(row.name, f"{ours} {row.unit}", str(found["n"]))]
    left += [(f"  {name}", short(value), "") for name, value in row.also.items()]
    rivals = []
    for name, values in row.rivals.items():
        ratio = row.ratio(name)
        times = "" if ratio is None else f" ({short(ratio)}x)"
        rivals.append(f"{name} {short(stats(values)['median'])}{times}" if values else name)
    goals = [goal.told(row) for goal in GOALS.get(row.name, ())]
    for place in range(max(len(left), len(rivals), len(goals))):
        yield (
            *(left[place] if place < len(left) else ("", "", "")),
            rivals[place] if place < len(rivals) else "",
            goals[place] if place < len(goals) else "",
        )
