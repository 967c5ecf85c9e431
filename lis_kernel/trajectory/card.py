"""A trajectory as the card that a notebook shows of it.

The notebook may come from anywhere: what it says is escaped by `cards/`, and of the files that it
names only those are read that lie in its own folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lis_kernel import cards
from lis_kernel.trajectory.notebook import KEY, source_of

if TYPE_CHECKING:
    from lis_kernel.trajectory.trajectory import Call, Trajectory, Turn

__all__ = [
    "address",
    "card_of",
    "cell_of",
    "output_files",
    "said_of",
    "shown_path",
    "step_of",
    "tone_of",
]

_TONES = {"submitted": "good", "interrupted": "plain"}
_HEAD = re.compile(r"(?:### Turn \d+\n\n\*[^\n]*\*|\*\*Turn \d+\*\*[^\n]*)(?:\n\n|$)")
"""Of a turn's cell, as it is now and as it was."""
_BUDGETS = {"max_turns", "max_tokens", "max_cost", "timeout", "context_window"}
FILES = 24


def card_of(trajectory: Trajectory) -> cards.Run:
    """What its notebook says, for `cards.run`."""
    ours = trajectory.metadata
    reason = ours.get("stop_reason") or "unfinished"
    config = ours.get("config", {})
    budget = config.get("budget", {})
    steps = _steps(trajectory.notebook["cells"])
    usage = trajectory.usage
    folder = trajectory.path.parent / "files"
    return cards.Run(
        task=trajectory.task,
        model=trajectory.model,
        backend=str(config.get("sandbox", {}).get("backend", "")),
        state=str(reason).replace("_", " "),
        tone=tone_of(str(reason)),
        detail=trajectory.detail,
        answer=trajectory.answer,
        submitted=reason == "submitted",
        turns=sum(step.kind == "turn" for step in steps),
        tokens=usage.total_tokens,
        cost=usage.cost_usd,
        seconds=trajectory.seconds,
        max_turns=budget.get("turns"),
        max_tokens=budget.get("tokens"),
        max_cost=budget.get("cost_usd"),
        max_seconds=budget.get("seconds"),
        steps=steps,
        files=output_files(folder, ours.get("files", [])),
        limits=trajectory.verdicts,
        path=shown_path(trajectory.path),
        address=address(trajectory.path),
    )


def cell_of(call: Call) -> cards.Call:
    """One call of a trajectory, for `cards.step`."""
    return cards.Call(
        tool=call.call.name,
        source=call.source,
        outputs=call.outputs,
        status=call.status,
        seconds=call.seconds,
        exit_code=call.exit_code,
        note=f"{call.verdict.replace('_', ' ')} {call.limit}".strip() if call.verdict else "",
    )


def step_of(turn: Turn) -> cards.Step:
    """One turn of a trajectory, for `cards.step`."""
    return cards.Step(
        number=turn.number,
        text=turn.reply.text,
        reasoning=turn.reply.reasoning,
        calls=[cell_of(call) for call in turn.calls],
        seconds=turn.reply.seconds,
        tokens=turn.reply.usage.total_tokens,
    )


def tone_of(reason: str) -> Any:
    """The colour of a stop reason."""
    return _TONES.get(reason, "warn" if reason in _BUDGETS or reason == "unfinished" else "bad")


def _steps(cells: list[dict[str, Any]]) -> list[cards.Step]:
    steps: list[cards.Step] = []
    for cell in cells:
        ours = cell["metadata"].get(KEY, {})
        kind = ours.get("kind")
        if kind == "turn":
            reply = ours["reply"]
            usage = reply.get("usage", {})
            steps.append(
                cards.Step(
                    number=ours["turn"],
                    text=said_of(cell),
                    reasoning=str(reply.get("reasoning", "")),
                    seconds=float(reply.get("seconds", 0.0)),
                    tokens=usage.get("input_tokens", 0) + usage.get("output_tokens", 0),
                )
            )
        elif kind == "call" and steps:
            steps[-1].calls.append(_call(cell, ours, str(ours["tool"])))
        elif kind == "human":
            bash = source_of(cell).startswith("%%bash\n")
            shown = _call(cell, ours, "execute_bash" if bash else "execute_python")
            steps.append(cards.Step(kind="human", calls=[shown]))
        elif kind == "message":
            steps.append(cards.Step(kind="message", text=source_of(cell)))
        elif kind in ("nudge", "refused", "note") and steps:
            steps[-1].notes.append(source_of(cell))
    return steps


def said_of(cell: Mapping[str, Any]) -> str:
    """What the model said, of a turn's cell: its head is ours."""
    source = source_of(cell)
    found = _HEAD.match(source)
    return source if found is None else source[found.end() :]


def _call(cell: dict[str, Any], ours: dict[str, Any], tool: str) -> cards.Call:
    code = ours.get("exit_code")
    tried = [one for one in ours.get("network", []) if isinstance(one, dict)]
    return cards.Call(
        tool=tool,
        source=source_of(cell),
        outputs=cell.get("outputs", ()),
        status=str(ours.get("status", "unfinished")),
        seconds=float(ours.get("seconds", 0.0)),
        exit_code=code if isinstance(code, int) else None,
        network=[
            (
                f"{one.get('host')}:{one.get('port')}",
                one.get("allowed") is True,
                str(one.get("reason", "")),
            )
            for one in tried
        ],
    )


def shown_path(path: Path) -> str:
    """The path as a person says it: relative to where they are, if it lies below."""
    full = os.path.abspath(path)
    near = os.path.relpath(full)
    return full if near.startswith("..") else near


def address(path: Path) -> str:
    """Where a page in the working folder finds `path`; empty if it does not lie below it."""
    near = os.path.relpath(os.path.abspath(path))
    return "" if near.startswith("..") else quote(near)


def output_files(folder: Path, names: list[Any]) -> list[cards.File]:
    """The files that a run left, but for its answer; only the first are looked into."""
    named = [name for name in names if isinstance(name, str) and name != "answer.txt"]
    return [
        output_file(folder, name) if n < FILES else cards.File(name, 0)
        for n, name in enumerate(named)
    ]


def output_file(folder: Path, name: str) -> cards.File:
    """A file that was taken out of a sandbox; its content only if it truly lies in `folder`."""
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        return cards.File(name, 0)
    with contextlib.suppress(OSError, ValueError):
        if os.path.realpath(path) != os.path.join(os.path.realpath(folder), *parts):
            return cards.File(name, 0)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            facts = os.fstat(file.fileno())
            if stat.S_ISREG(facts.st_mode):
                data = file.read(cards.PREVIEW_BYTES)
                return cards.File(name, facts.st_size, data, address(path))
    return cards.File(name, 0)
