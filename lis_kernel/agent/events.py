"""What happens in a run, as it happens: for live views. The notebook does not depend on it.

`Agent(on_event=…)` is called with these from the run's own event loop; it must be quick and must
not raise. Text of a model or a sandbox is hostile: a view strips control characters itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lis_kernel.config import RunConfig
from lis_kernel.types import (
    CellResult,
    Observation,
    Output,
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
    "Note",
    "OnEvent",
    "ReplyFinished",
    "RunEnded",
    "RunStarted",
    "TextStreamed",
    "TurnStarted",
]


@dataclass(frozen=True)
class RunStarted:
    path: Path
    task: Task
    config: RunConfig


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
    output: Output


@dataclass(frozen=True)
class CallFinished:
    result: CellResult
    observation: Observation


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
    | RunEnded
)
OnEvent = Callable[[Event], None]
