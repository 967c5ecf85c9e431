"""This user's sandboxes, as `lis ps` lists them, and the end of those that nobody owns.

A sandbox whose owner lives is ended through its owner (a run by `stop`, a notebook's kernel by
Jupyter), which then closes its notebook; only what a dead owner left is removed here, as by
`lis clean`.
"""

from __future__ import annotations

from typing import Any

from lis_kernel.agent.remote import live_runs

__all__ = ["InUse", "sandboxes", "stop"]


class InUse(Exception):
    """The sandbox's owner lives; the message says how it is ended."""


def sandboxes() -> list[dict[str, Any]]:
    """The rows of `lis ps --json`; each with `run`, the live run that its owner carries out."""
    from lis_kernel.cli.sandboxes import facts, folders, strays

    rows = [*(facts(folder) for folder in folders()), *(row for _, row in strays())]
    runs = {live.pid: live.id for live in live_runs()}
    return [{**row, "run": runs.get(row["owner"])} for row in rows]


def stop(name: str) -> dict[str, Any] | None:
    """Remove what is left of sandbox `name`; its row, or None if there is no such sandbox.

    Raises:
        InUse: its owner lives.
    """
    from lis_kernel.cli.sandboxes import facts, folders, strays
    from lis_kernel.sandbox.reaper import reap

    for folder in folders():
        if (row := facts(folder))["id"] == name:
            _check(row)
            reap(folder)
            return row
    for container, row in strays():
        if row["id"] == name:
            _check(row)
            container.remove(force=True, v=True)
            return row
    return None


def _check(row: dict[str, Any]) -> None:
    if not row["alive"]:
        return
    run = next((live.id for live in live_runs() if live.pid == row["owner"]), None)
    way = f"stop the run {run}" if run else "shut down the kernel or end the program that owns it"
    raise InUse(f"its owner, process {row['owner']}, lives: {way}.")
