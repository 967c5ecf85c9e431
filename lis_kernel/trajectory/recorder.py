"""Writes the trajectory notebook while the run goes on: append, fill, save after each.

Called by `agent/` before a cell runs (`begin`) and after (`finish`). A save writes a
temporary file beside the notebook, fsyncs it and renames it, so a kill at any instant leaves the
old or the new notebook, whole. Finished cells never change, so their text is made only once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lis_kernel.errors import TrajectoryError
from lis_kernel.trajectory.notebook import (
    KEY,
    Cell,
    Notebook,
    cell_id,
    chain,
    is_json,
    new_notebook,
    seal,
)

__all__ = ["Recorder"]


class Recorder:
    """The notebook at `path`, growing.

    Args:
        path: where it is written; its folder exists.
        metadata: the notebook's own `lis_kernel` metadata, completed by `close`.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.notebook: Notebook = new_notebook(metadata)
        self._texts: list[str] = []
        self._hash = ""
        self._ids: set[str] = set()
        self._open: Cell | None = None
        self._saved = 0

    def new_id(self, wanted: str) -> str:
        """A cell id that is free, as near to `wanted` as nbformat allows."""
        name = cell_id(wanted, self._ids)
        self._ids.add(name)
        return name

    def add(self, cell: Cell) -> None:
        """Append a finished cell; saved with the next `begin`, `finish`, `flush` or `close`."""
        self._close_cell(cell)
        self.notebook["cells"].append(cell)

    def begin(self, cell: Cell) -> None:
        """Append a cell that is about to run, and save."""
        self.notebook["cells"].append(cell)
        self._open = cell
        self.save()

    def finish(self, **ours: Any) -> Cell:
        """Complete the cell that ran: outputs and count are set by the caller, `ours` here."""
        cell, self._open = self._open, None
        if cell is None:
            raise RuntimeError("finish without begin")
        cell["metadata"][KEY].update(ours)
        self._close_cell(cell)
        self.save()
        return cell

    def flush(self) -> None:
        """Save if cells were added since the last time; called before what may take long."""
        if self._saved < len(self._texts):
            self.save()

    @property
    def running(self) -> Cell | None:
        """The cell between `begin` and `finish`."""
        return self._open

    def close(self, **ours: Any) -> None:
        """Add the run's outcome to the notebook's metadata, seal the chain, save."""
        self.notebook["metadata"][KEY].update(ours)
        self.notebook["metadata"][KEY]["head"] = seal(self.notebook, self._hash)
        self.save()

    def _close_cell(self, cell: Cell) -> None:
        self._hash = chain(self._hash, cell)
        cell["metadata"][KEY]["hash"] = self._hash
        self._texts.append(_text(cell))

    def save(self) -> None:
        """Write the notebook as nbformat would, atomically.

        Raises:
            TrajectoryError: it cannot be written; what was written before stays as it is.
        """
        cells = list(self._texts)
        if self._open is not None:
            cells.append(_text(self._open))
        rest = {k: v for k, v in self.notebook.items() if k != "cells"}
        body = json.dumps(rest, indent=1, sort_keys=True, ensure_ascii=False)
        listed = ",\n".join(cells)
        text = '{\n "cells": [\n' + listed + "\n ],\n" + body.removeprefix("{\n") + "\n"
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise TrajectoryError(
                f"{self.path} cannot be written: {error.strerror}. It ends with the cell before."
            ) from error
        self._saved = len(self._texts)


def _text(cell: Cell) -> str:
    """The cell's JSON, laid out as nbformat lays it out inside a notebook."""
    split = dict(cell, source=_lines(cell["source"]))
    if "outputs" in cell:
        split["outputs"] = [_split(output) for output in cell["outputs"]]
    text = json.dumps(split, indent=1, sort_keys=True, ensure_ascii=False)
    return "  " + text.replace("\n", "\n  ")  # not textwrap: it splits inside strings too


def _split(output: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(output)
    if isinstance(plain.get("text"), str):
        plain["text"] = _lines(plain["text"])
    if isinstance(plain.get("data"), dict):
        plain["data"] = {
            mime: _lines(item) if isinstance(item, str) and not is_json(mime) else item
            for mime, item in plain["data"].items()
        }
    return plain


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
