"""Reading a trajectory: a notebook as turns, calls and observations.

`Trajectory` is a view of the notebook and keeps nothing beside it: what it says is read from cells
and metadata. Made by `agent/loop.py` at the end of a run and by `load` from a file.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from lis_kernel import cards
from lis_kernel.errors import SchemaError
from lis_kernel.trajectory.card import card_of, cell_of, step_of
from lis_kernel.trajectory.notebook import KEY, SCHEMA, Notebook, source_of, verify
from lis_kernel.types import Output, Reply, StopReason, ToolCall, Usage, Value

__all__ = ["Call", "PersonsCell", "Trajectory", "Turn", "load"]


class Call(Value):
    """A tool call as it was carried out: its cell, and what the kernel made of it."""

    call: ToolCall
    source: str
    outputs: tuple[Output, ...]
    status: str
    seconds: float
    exit_code: int | None = None
    verdict: str | None = None
    """Which limit it ran into: `oom`, `disk_full`, `pids`, `timeout` or `killed`."""
    limit: str = ""
    """How much that is, in words."""
    restarted: bool = False
    """The kernel had to be replaced, and its variables are gone."""

    def _repr_html_(self) -> str:
        return cards.page(cards.call(cell_of(self)))


class PersonsCell(Value):
    """A cell that a person ran in the sandbox while the model waited."""

    turn: int
    """After which turn."""
    source: str
    outputs: tuple[Output, ...]
    status: str
    seconds: float


class Turn(Value):
    """One assistant message and the calls that it led to."""

    number: int
    reply: Reply
    calls: tuple[Call, ...] = ()

    def _repr_html_(self) -> str:
        return cards.page(cards.step(step_of(self), open=True))


class Trajectory:
    """The record of one run.

    Attributes:
        path: the notebook's file.
        notebook: its content as nbformat JSON.
    """

    def __init__(self, path: Path, notebook: Notebook) -> None:
        self.path = path
        self.notebook = notebook
        self.shown = False
        """A live view shows it in the cell that runs now: as the cell's value it is one line."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Our notebook metadata: task, config, model, sandbox, usage, outcome."""
        ours: dict[str, Any] = self.notebook["metadata"][KEY]
        return ours

    @property
    def task(self) -> str:
        return str(self.metadata["task"]["prompt"])

    @property
    def model(self) -> str:
        return str(self.metadata["config"]["model"]["name"])

    @property
    def answer(self) -> str | None:
        """What the answer file held at the end, or None; only a submitted run's may be scored."""
        return self.metadata.get("answer")

    @property
    def stop_reason(self) -> StopReason | None:
        """None if the run was killed before it could say."""
        reason = self.metadata.get("stop_reason")
        return StopReason(reason) if reason else None

    @property
    def detail(self) -> str:
        """One sentence more about the stop, e.g. the model's error."""
        return str(self.metadata.get("detail", ""))

    @property
    def verdicts(self) -> dict[str, int]:
        """How many cells ran into which limit."""
        named = (call.verdict for turn in self.turns for call in turn.calls)
        return dict(Counter(verdict for verdict in named if verdict is not None))

    @property
    def seconds(self) -> float:
        return float(self.metadata.get("seconds", 0.0))

    @property
    def usage(self) -> Usage:
        """Summed over all turns."""
        return sum((turn.reply.usage for turn in self.turns), Usage())

    @property
    def files(self) -> list[Path]:
        """The files taken out of the sandbox, as host paths."""
        return [self.path.parent / "files" / name for name in self.metadata.get("files", [])]

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        turns: list[Turn] = []
        for cell in self.notebook["cells"]:
            ours = cell["metadata"].get(KEY, {})
            if ours.get("kind") == "turn":
                reply = Reply.model_validate(ours["reply"])
                turns.append(Turn(number=ours["turn"], reply=reply))
            elif ours.get("kind") == "call" and turns:
                call = Call(
                    call=ToolCall(
                        id=ours["call_id"], name=ours["tool"], arguments=ours["arguments"]
                    ),
                    source=source_of(cell),
                    outputs=tuple(cell.get("outputs", ())),
                    status=ours.get("status", "unfinished"),
                    seconds=ours.get("seconds", 0.0),
                    exit_code=ours.get("exit_code"),
                    verdict=ours.get("verdict"),
                    limit=ours.get("limit", ""),
                    restarted=ours.get("restarted", False),
                )
                turns[-1] = turns[-1].model_copy(update={"calls": (*turns[-1].calls, call)})
        return tuple(turns)

    @property
    def persons_cells(self) -> tuple[PersonsCell, ...]:
        """What people ran in between, in order."""
        ours = [(cell, cell["metadata"].get(KEY, {})) for cell in self.notebook["cells"]]
        return tuple(
            PersonsCell(
                turn=facts["turn"],
                source=source_of(cell),
                outputs=tuple(cell.get("outputs", ())),
                status=facts.get("status", "unfinished"),
                seconds=facts.get("seconds", 0.0),
            )
            for cell, facts in ours
            if facts.get("kind") == "human"
        )

    def verify(self) -> int:
        """Check the hash chain; the number of cells checked. Raises: Tampered."""
        return verify(self.notebook)

    def __repr__(self) -> str:
        reason = self.stop_reason or "unfinished"
        return (
            f"<Trajectory {reason}, {len(self.turns)} turns, {self.usage.total_tokens} tokens, "
            f"{self.seconds:.1f} s, answer {self.answer!r:.60}, {str(self.path)!r}>"
        )

    def _repr_html_(self) -> str | None:
        if self.shown:
            return None
        try:
            return cards.run(card_of(self))
        except Exception as error:  # a notebook from anywhere may say anything
            what = f"{self.path}: no card can be made of it: {type(error).__name__}: {error}"
            return cards.page(cards.text(what))


def load(path: str | Path) -> Trajectory:
    """Read a trajectory notebook.

    Raises:
        SchemaError: not a notebook, or not one of ours, or of a schema that is not read here.
        OSError: the file cannot be read.
    """
    import nbformat  # a second of import where jsonschema's format checkers are installed

    path = Path(path)
    try:
        notebook = nbformat.reads(path.read_text("utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    except (ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise SchemaError(f"{path}: not a Jupyter notebook: {error}") from error
    ours = notebook.get("metadata", {}).get(KEY)
    if ours is None:
        raise SchemaError(f"{path}: a notebook, but not a trajectory: no `{KEY}` metadata")
    if ours.get("schema") != SCHEMA:
        raise SchemaError(f"{path}: schema {ours.get('schema')}; this release reads {SCHEMA}")
    read = Trajectory(path, json.loads(json.dumps(notebook)))
    try:
        _ = (read.task, read.model, read.stop_reason, read.seconds, read.files, read.turns)
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise SchemaError(f"{path}: its `{KEY}` metadata is damaged ({why})") from error
    return read
