"""`lis doctor --attack`: every attempt at a backend's walls, and whether its canary got through."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lis_kernel.attacks import Finding, attack
from lis_kernel.tools.terminal import for_people

__all__ = ["attack_backend"]


def attack_backend(
    backend: str, families: Sequence[str], options: dict[str, Any], as_json: bool, every: bool
) -> None:
    """Run the suite and print it. Exit code 1 if anything got through or proved nothing."""
    console = Console(soft_wrap=True, stderr=as_json)
    console.print(f"attacking [bold]{escape(backend)}[/]; each attempt's canary runs without walls")

    def progress(family: str, seconds: float) -> None:
        console.print(f"  {family} [dim]{seconds:.1f} s[/]")

    findings = asyncio.run(attack(backend, families=families, options=options, progress=progress))
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        _print(console, findings, every)
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


def _print(console: Console, findings: Sequence[Finding], every: bool) -> None:
    console.print(_summary(findings))
    shown = [finding for finding in findings if every or not finding.good]
    if shown:
        table = Table(box=None, pad_edge=False)
        for title in ("RESULT", "ATTEMPT", "STOPPED BY", "CANARY"):
            table.add_column(title, overflow="fold")
        for finding in shown:
            color = {"breached": "bold red", "blocked": "green"}.get(finding.result, "yellow")
            table.add_row(
                f"[{color}]{finding.result}[/]",
                escape(f"{finding.family}: {finding.name.replace('_', ' ')}"),
                escape(for_people(finding.stopped_by)),
                escape(for_people(finding.canary)),
            )
        console.print(table)
    breaches = sum(finding.result == "breached" for finding in findings)
    dead = sum(not finding.good and finding.result != "breached" for finding in findings)
    if breaches or dead:
        console.print(f"[bold red]{breaches} breaches[/], {dead} attempts that prove nothing")
    else:
        console.print("[bold green]no breach[/]; every attempt that this machine can show is live")


def _summary(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    titles = ("FAMILY", "ATTEMPTS", "BLOCKED", "BREACHED", "SKIPPED", "CANARIES THAT GOT THROUGH")
    for title in titles:
        table.add_column(title, justify="left" if title == "FAMILY" else "right")
    for family in dict.fromkeys(finding.family for finding in findings):
        rows = [finding for finding in findings if finding.family == family]
        results = Counter(finding.result for finding in rows)
        live = sum(finding.live for finding in rows)
        table.add_row(
            family,
            str(len(rows)),
            str(results["blocked"]),
            f"[bold red]{results['breached']}[/]" if results["breached"] else "0",
            str(results["skipped"]),
            str(live),
        )
    return table
