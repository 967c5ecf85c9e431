"""What happens in a run, as it happens: for live views. The notebook does not depend on it.

`Agent(on_event=…)` is called with these from the run's own event loop; it must be quick and must
not raise. Text of a model or a sandbox is hostile: a view strips control characters itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from lis_kernel.config import RunConfig
from lis_kernel.types import (
    Attempt,
    CellResult,
    Observation,
    Reply,
    StopReason,
    Task,
    ToolCall,
    Usage,
)

__all__ = [
    "CallFinished",
    "CallOutput",
    "CallStarted",
    "Event",
    "Fetching",
    "HumanFinished",
    "HumanStarted",
    "Note",
    "OnEvent",
    "OutputFiles",
    "Paused",
    "ReplyFinished",
    "Resumed",
    "RunEnded",
    "RunStarted",
    "Said",
    "TextStreamed",
    "TurnStarted",
    "to_json",
]


@dataclass(frozen=True)
class RunStarted:
    path: Path
    task: Task
    config: RunConfig
    run_id: str
    """The name of the run's folder."""


@dataclass(frozen=True)
class Note:
    """Something worth a line: a slow start, a nudge to the model, a refused file."""

    text: str


@dataclass(frozen=True)
class Fetching:
    """Something slow that the run waits for: how much is done, how much there is, what it is."""

    done: int
    total: int
    label: str
    unit: Literal["bytes", "parts"] = "bytes"


@dataclass(frozen=True)
class TurnStarted:
    turn: int


@dataclass(frozen=True)
class TextStreamed:
    channel: Literal["text", "reasoning"]
    text: str


@dataclass(frozen=True)
class ReplyFinished:
    reply: Reply
    said: str
    """The reply's text without the code blocks that are its calls."""
    usage: Usage
    """Summed over the run."""


@dataclass(frozen=True)
class CallStarted:
    call: ToolCall
    source: str


@dataclass(frozen=True)
class CallOutput:
    """A message of the running cell that changes what it shows, see `kernel.outputs.OnMessage`;
    `kernel.outputs.Shown` keeps what they lead to."""

    kind: str
    content: dict[str, Any]


@dataclass(frozen=True)
class CallFinished:
    result: CellResult
    observation: Observation
    network: tuple[Attempt, ...] = ()
    """What the cell tried to reach."""


@dataclass(frozen=True)
class OutputFiles:
    """What lies in /testbed/output after a cell, if that changed: names below it and bytes."""

    files: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Paused:
    """The model waits; people may run cells in the sandbox."""


@dataclass(frozen=True)
class Resumed:
    """The model goes on."""


@dataclass(frozen=True)
class Said:
    """What the model is told, before its next turn, of what people said and did."""

    text: str


@dataclass(frozen=True)
class HumanStarted:
    """A person's cell; `CallOutput`s of it follow."""

    source: str


@dataclass(frozen=True)
class HumanFinished:
    result: CellResult


@dataclass(frozen=True)
class RunEnded:
    stop_reason: StopReason
    detail: str
    answer: str | None
    path: Path


Event = (
    RunStarted
    | Note
    | Fetching
    | TurnStarted
    | TextStreamed
    | ReplyFinished
    | CallStarted
    | CallOutput
    | CallFinished
    | OutputFiles
    | Paused
    | Resumed
    | Said
    | HumanStarted
    | HumanFinished
    | RunEnded
)
OnEvent = Callable[[Event], None]


def to_json(event: Event) -> dict[str, Any]:
    """The event for another process: its name (`call_started`) under `event`, and its fields."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    return {"event": name, **{f.name: _plain(getattr(event, f.name)) for f in fields(event)}}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
