"""What has happened in a run so far, shortly: for who comes to follow it late.

`agent/listener.py` gives it to a follower before the events; a page shows its entries as it shows
what follows. Pure: cells of the run's notebook in, short texts out. What a model or a sandbox
wrote is hostile: a view strips control characters itself, as of events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from lis_kernel.trajectory.card import said_of
from lis_kernel.trajectory.notebook import KEY, source_of
from lis_kernel.types import Output, Value

__all__ = ["Entry", "entry", "recap"]

ENTRIES = 300
CHARS = 4000
"""Of one entry; its end is kept."""


class Entry(Value):
    """One thing that happened."""

    kind: Literal["thought", "said", "code", "human", "output", "done", "failed", "note"]
    """`code` is a cell of the model's and `human` one of a person's, before its `output` and how
    it ended: `done` or `failed`."""
    text: str


def recap(
    cells: Sequence[Mapping[str, Any]],
    running: Mapping[str, Any] | None = None,
    outputs: Iterable[Output] = (),
) -> list[Entry]:
    """The last entries of a run, the oldest first.

    Args:
        cells: of its notebook, that are over.
        running: the cell that is not.
        outputs: what that one has shown so far.
    """
    found: list[Entry] = []
    if running is not None:
        found += reversed([_code(running), *_output(outputs)])
    for cell in reversed(cells):
        if len(found) >= ENTRIES:
            break
        found += reversed(list(_entries(cell, cell["metadata"][KEY])))
    return found[ENTRIES - 1 :: -1]


def entry(kind: Any, text: str) -> Entry:
    """An entry of this kind, of whose text the end is kept."""
    return Entry(kind=kind, text=text if len(text) <= CHARS else f"… {text[-CHARS:]}")


def _entries(cell: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[Entry]:
    match ours.get("kind"):
        case "turn":
            if thought := str(ours["reply"].get("reasoning", "")):
                yield entry("thought", thought)
            if said := said_of(cell):
                yield entry("said", said)
        case "call" | "human":
            yield _code(cell)
            yield from _output(cell["outputs"])
            kind = "done" if ours["status"] == "ok" else "failed"
            yield entry(kind, f"{ours['status']} {ours['seconds']:.2f} s")
        case "message":
            yield entry("note", f"told: {source_of(cell)}")
        case "nudge" | "refused" | "note":
            yield entry("note", source_of(cell))


def _code(cell: Mapping[str, Any]) -> Entry:
    human = cell["metadata"][KEY]["kind"] == "human"
    return entry("human" if human else "code", source_of(cell))


def _output(outputs: Iterable[Output]) -> Iterator[Entry]:
    if text := "".join(map(_shown, outputs)):
        yield entry("output", text)


def _shown(output: Output) -> str:
    """An output as plain text; of one that is more, its kinds too."""
    match output["output_type"]:
        case "stream":
            return str(output["text"])
        case "error":
            return f"{output['ename']}: {output['evalue']}\n"
        case _:
            data = output["data"]
            other = ", ".join(mime for mime in data if mime != "text/plain")
            return f"{data.get('text/plain', '')}{f' [{other}]' if other else ''}\n"
