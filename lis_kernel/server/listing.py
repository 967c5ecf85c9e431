"""Every run that can be seen from here: those that live are asked, the others read.

What `lis runs` prints and what `/lis/api/runs` answers is made here. A live run is found wherever
its notebook lies; finished ones in one folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lis_kernel.agent.remote import LiveRun, ask, live_runs
from lis_kernel.errors import LisKernelError
from lis_kernel.trajectory.summary import Summary, summaries, summary
from lis_kernel.types import Usage, Value

__all__ = ["Run", "listed", "of_live", "of_summary"]

PATIENCE = 3.0
"""Seconds for a live run to say how it is."""


class Run(Value):
    """One row of the list."""

    id: str
    state: str
    """Of a live run the agent's (`running`, `paused`, …) or `silent`; else why it stopped,
    `unfinished` if it could not say, or `damaged`."""
    live: bool
    task: str
    model: str
    turns: int = 0
    max_turns: int | None = None
    """Of a live run, whose end it would be."""
    tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    created: float = 0.0
    """Seconds since the epoch."""
    answer: str | None = None
    detail: str = ""
    """One sentence more: the model's error, or why a notebook cannot be read."""
    path: Path
    """Of the notebook."""
    files: tuple[str, ...] = ()
    """Names below the run's `files/`; of a live run, what lies in the sandbox's output folder."""
    pid: int | None = None


async def listed(out: Path) -> list[Run]:
    """The live runs of this user, newest first, then the others below `out`, newest first."""
    live = await asyncio.to_thread(live_runs)
    rest = asyncio.to_thread(summaries, out, [Path(run.path) for run in live])
    asked, others = await asyncio.gather(asyncio.gather(*map(of_live, live)), rest)
    runs = [*asked, *map(of_summary, others)]
    return sorted(runs, key=lambda run: (run.live, run.created), reverse=True)


async def of_live(live: LiveRun) -> Run:
    """What a live run says of itself, or what its notebook says if it has just ended."""
    try:
        async with asyncio.timeout(PATIENCE):
            status = await ask(live, "status")
    except (LisKernelError, OSError, TimeoutError):
        ended = await asyncio.to_thread(summary, Path(live.path))
        if ended.stop_reason is not None:
            return of_summary(ended)
        status = {"state": "silent"}
    return _row(live, status)


def _row(live: LiveRun, status: dict[str, Any]) -> Run:
    usage = Usage.model_validate(status.get("usage") or {})
    return Run(
        id=live.id,
        state=status["state"],
        live=True,
        task=live.task,
        model=live.model,
        turns=status.get("turns", 0),
        max_turns=status.get("budget", {}).get("turns"),
        tokens=usage.total_tokens,
        cost_usd=usage.cost_usd,
        seconds=status.get("seconds", 0.0),
        created=live.started,
        path=Path(live.path),
        files=_names(status.get("files") or ()),
        pid=live.pid,
    )


def _names(files: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(name) for name, _ in files)


def of_summary(run: Summary) -> Run:
    """The row of a run that does not live."""
    reason = run.stop_reason.value if run.stop_reason else "unfinished"
    return Run(
        id=run.id,
        state="damaged" if run.damage else reason,
        live=False,
        task=run.task,
        model=run.model,
        turns=run.turns,
        tokens=run.usage.total_tokens,
        cost_usd=run.usage.cost_usd,
        seconds=run.seconds,
        created=run.created,
        answer=run.answer,
        detail=run.damage or run.detail,
        path=run.path,
        files=run.files,
    )
