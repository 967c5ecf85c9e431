"""Writes the trajectory notebook while the run goes on: append, fill, save after each.

Called by `agent/`, which saves before a cell runs (after `begin`) and after it (`finish`). A save
writes a temporary file beside the notebook, fsyncs it and renames it, so a kill at any instant
leaves the old or the new notebook, whole. The disk is waited for in threads: many runs share an
event loop, and a fsync takes milliseconds. Finished cells never change, so their text is made once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from lis_kernel.errors import TrajectoryError
from lis_kernel.trajectory.notebook import (
    KERNEL,
    KEY,
    Cell,
    Notebook,
    cell_id,
    chain,
    fold,
    is_json,
    new_notebook,
    seal,
)

__all__ = ["Recorder"]

_writers = ThreadPoolExecutor(16, "lis-save")
"""The file system syncs several notebooks in about the time of one."""


class Recorder:
    """The notebook at `path`, growing.

    Args:
        path: where it is written; its folder exists.
        metadata: the notebook's own `lis_kernel` metadata, completed by `close`.
        kernel: the kernelspec in which Jupyter opens it.
    """

    def __init__(
        self, path: Path, metadata: Mapping[str, Any], kernel: Mapping[str, str] = KERNEL
    ) -> None:
        self.path = path
        self.notebook: Notebook = new_notebook(metadata, kernel)
        self._texts: list[bytes] = []
        self._hash = ""
        self._ids: set[str] = set()
        self._open: Cell | None = None
        self._changes = 1
        self._saved = 0
        self._saves = 0
        self._last = 0
        self._writing = threading.Lock()
        self._known, self._body = "", b""

    def new_id(self, wanted: str) -> str:
        """A cell id that is free, as near to `wanted` as nbformat allows."""
        name = cell_id(wanted, self._ids)
        self._ids.add(name)
        return name

    def add(self, cell: Cell) -> None:
        """Append a finished cell."""
        self._close_cell(cell)
        self.notebook["cells"].append(cell)

    def begin(self, cell: Cell) -> None:
        """Append a cell that is about to run; it may not before that is saved."""
        self.notebook["cells"].append(cell)
        self._open = cell
        self._changes += 1

    def finish(self, **ours: Any) -> Cell:
        """Complete the cell that ran: outputs and count are set by the caller, `ours` here."""
        cell, self._open = self._open, None
        if cell is None:
            raise RuntimeError("finish without begin")
        cell["metadata"][KEY].update(ours)
        fold(cell)
        self._close_cell(cell)
        return cell

    @property
    def running(self) -> Cell | None:
        """The cell between `begin` and `finish`."""
        return self._open

    def close(self, **ours: Any) -> None:
        """Add the run's outcome to the notebook's metadata and seal the chain."""
        metadata = self.notebook["metadata"]
        metadata[KEY].update(ours)
        if (version := metadata[KEY].get("sandbox", {}).get("python")) is not None:
            metadata["language_info"]["version"] = str(version)
        metadata[KEY]["head"] = seal(self.notebook, self._hash)
        self._changes += 1

    def _close_cell(self, cell: Cell) -> None:
        self._hash = chain(self._hash, cell)
        cell["metadata"][KEY]["hash"] = self._hash
        self._texts.append(_text(cell))
        self._changes += 1

    def save(self) -> None:
        """Write the notebook as nbformat would, atomically.

        Raises:
            TrajectoryError: it cannot be written; what was written before stays as it is.
        """
        changes = self._changes
        self._write(*self._snapshot())
        self._saved = changes

    async def saved(self) -> None:
        """As `save`, unless nothing changed; the event loop goes on meanwhile.

        Cancelled, it leaves a write that a later save waits for.
        """
        if (changes := self._changes) > self._saved:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(_writers, self._write, *self._snapshot())
            self._saved = changes

    def _snapshot(self) -> tuple[int, list[bytes]]:
        """The number of this save, and the notebook's text."""
        self._saves += 1
        cells = list(self._texts)
        if self._open is not None:
            cells.append(_text(self._open))
        rest = {k: v for k, v in self.notebook.items() if k != "cells"}
        known = json.dumps(rest)  # by far quicker than to lay it out, and it seldom changes
        if known != self._known:
            self._known = known
            self._body = (_laid_out(rest, "").removeprefix("{\n") + "\n").encode()
        return self._saves, [b'{\n "cells": [\n', b",\n".join(cells), b"\n ],\n", self._body]

    def _write(self, number: int, parts: list[bytes]) -> None:
        partial = self.path.with_name(f".{self.path.name}.partial")
        with self._writing:
            if number < self._last:  # a later one was quicker
                return
            try:
                with partial.open("wb") as file:
                    file.writelines(parts)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    partial.unlink()
                raise TrajectoryError(
                    f"{self.path} cannot be written: {error.strerror}. "
                    "It ends with the cell before."
                ) from error
            self._last = number


def _text(cell: Cell) -> bytes:
    """The cell's JSON, laid out as nbformat lays it out inside a notebook."""
    split = dict(cell, source=_lines(cell["source"]))
    if "outputs" in cell:
        split["outputs"] = [_split(output) for output in cell["outputs"]]
    return ("  " + _laid_out(split, "  ")).encode()


def _laid_out(value: Any, pad: str) -> str:
    """`json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)` below `pad`, 3x as fast.

    The standard library's encoder in C knows no indent.
    """
    if isinstance(value, str):
        return encode_basestring(value)
    inner = pad + " "
    if isinstance(value, dict) and value:
        items = [
            f"{inner}{encode_basestring(key)}: {_laid_out(value[key], inner)}"
            for key in sorted(value)
        ]
        return "{\n" + ",\n".join(items) + f"\n{pad}}}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join([inner + _laid_out(v, inner) for v in value]) + f"\n{pad}]"
    return json.dumps(value)


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
