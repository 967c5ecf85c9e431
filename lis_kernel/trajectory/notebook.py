"""The format of a trajectory notebook: the only file that builds its cells and hashes.

nbformat 4.5; everything of ours is under one metadata key, `lis_kernel`, on the notebook and on
each cell. Order: system, task, setup; then per turn the assistant's text and one code cell per tool
call; last the outcome. Each finished cell's hash covers the hash before it, so that one changed
byte anywhere is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lis_kernel.errors import SchemaError, Tampered

__all__ = [
    "KEY",
    "SCHEMA",
    "cell_id",
    "chain",
    "code_cell",
    "fold",
    "is_json",
    "markdown_cell",
    "new_notebook",
    "seal",
    "source_of",
    "verify",
]

KEY = "lis_kernel"
SCHEMA = 1

Cell = dict[str, Any]
Notebook = dict[str, Any]


KERNEL = {"display_name": "Python 3 (sandbox)", "language": "python", "name": "lis-python"}
"""The kernelspec in which a trajectory opens, unless another is asked for."""
LANGUAGE = {
    "name": "python",
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
"""As the kernel describes it: JupyterLab then finds nothing to change, and nothing to save."""
LONG = 30
"""Lines of output beyond which Jupyter shows a cell's outputs in a box that scrolls."""


def new_notebook(metadata: Mapping[str, Any], kernel: Mapping[str, str] = KERNEL) -> Notebook:
    """An empty trajectory notebook whose `lis_kernel` metadata is `metadata`."""
    return {
        "cells": [],
        "metadata": {
            "kernelspec": dict(kernel),
            "language_info": dict(LANGUAGE),
            KEY: {"schema": SCHEMA, **metadata},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def markdown_cell(name: str, source: str, tags: Iterable[str] = (), **ours: Any) -> Cell:
    """A markdown cell; `ours` becomes its `lis_kernel` metadata."""
    return {
        "cell_type": "markdown",
        "id": name,
        "metadata": {"tags": sorted(tags), KEY: ours},
        "source": source,
    }


def code_cell(
    name: str, source: str, tags: Iterable[str] = (), *, folded: bool = False, **ours: Any
) -> Cell:
    """A code cell that has not run; `folded` hides its source in JupyterLab until clicked."""
    metadata: dict[str, Any] = {"tags": sorted(tags), KEY: ours}
    if folded:
        metadata["jupyter"] = {"source_hidden": True}
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": metadata,
        "outputs": [],
        "source": source,
    }


def fold(cell: Cell) -> None:
    """Have Jupyter show a code cell's outputs in a box that scrolls, if they are long."""
    lines = 0
    for output in cell["outputs"]:
        said = output.get("text") or output.get("data", {}).get("text/plain") or ""
        lines += len(said) if isinstance(said, list) else str(said).count("\n")
        lines += sum(1 + line.count("\n") for line in output.get("traceback", []))
    if lines > LONG:
        cell["metadata"]["scrolled"] = True


def cell_id(raw: str, taken: Iterable[str]) -> str:
    """A valid and unused cell id that is `raw` itself wherever that is possible.

    nbformat allows 1-64 of `[a-zA-Z0-9-_]`; some servers' call ids have dots, colons or more.
    """
    name = re.sub(r"[^a-zA-Z0-9_-]", "-", raw)
    if not name or len(name) > 64:
        name = (name[:47] + "-" if name else "call-") + hashlib.sha256(raw.encode()).hexdigest()[
            :16
        ]
    used, free, n = set(taken), name, 2
    while free in used:
        free, n = f"{name[:60]}-{n}", n + 1
    return free


def source_of(cell: Mapping[str, Any]) -> str:
    """A cell's source as one string; on disk it may be a list of lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _joined(value: Any) -> Any:
    """Whole floats as integers, which is what a JavaScript editor makes of them on saving."""
    if isinstance(value, dict):
        return {key: _joined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _output(output: Mapping[str, Any]) -> Any:
    plain = dict(output)
    if isinstance(plain.get("text"), list):
        plain["text"] = "".join(plain["text"])
    if isinstance(plain.get("data"), dict):
        plain["data"] = {
            mime: "".join(item) if isinstance(item, list) and not is_json(mime) else item
            for mime, item in plain["data"].items()
        }
    return _joined(plain)


def is_json(mime: str) -> bool:
    """True if nbformat keeps this type's data as JSON; all other data is text, or its lines."""
    return mime == "application/json" or (
        mime.startswith("application/") and mime.endswith("+json")
    )


def _digest(previous: str, content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def chain(previous: str, cell: Mapping[str, Any]) -> str:
    """The hash of a finished cell: over the hash before it, its source, outputs and metadata.

    Of the metadata only our key and the tags count: editors add others of their own.
    """
    ours = {k: v for k, v in cell["metadata"].get(KEY, {}).items() if k != "hash"}
    content = {
        "id": cell.get("id"),
        "type": cell.get("cell_type"),
        "source": source_of(cell),
        "outputs": [_output(output) for output in cell.get("outputs", [])],
        "execution_count": cell.get("execution_count"),
        "tags": cell["metadata"].get("tags", []),
        "metadata": _joined(ours),
    }
    return _digest(previous, content)


def seal(notebook: Notebook, last: str) -> str:
    """The chain's head: over the last cell's hash and the notebook's own metadata."""
    ours = {k: v for k, v in notebook["metadata"][KEY].items() if k != "head"}
    return _digest(last, _joined(ours))


def verify(notebook: Notebook) -> int:
    """Check every hash of the chain; the number of cells that were checked.

    A run that was killed has no head and, at its end, one cell without a hash; the rest is checked.

    Raises:
        Tampered: naming the first cell whose hash does not fit.
        SchemaError: not a trajectory notebook.
    """
    ours = notebook.get("metadata", {}).get(KEY)
    if not isinstance(ours, dict) or ours.get("schema") != SCHEMA:
        raise SchemaError(f"not a trajectory notebook of schema {SCHEMA}")
    previous, checked = "", 0
    for n, cell in enumerate(notebook["cells"]):
        recorded = cell["metadata"].get(KEY, {}).get("hash")
        if recorded is None:
            if "head" in ours or n + 1 < len(notebook["cells"]):
                raise Tampered(f"cell {n} ({cell.get('id')}) has no hash")
            break
        if chain(previous, cell) != recorded:
            raise Tampered(f"cell {n} ({cell.get('id')}) was changed after it was recorded")
        previous, checked = recorded, checked + 1
    if "head" in ours and seal(notebook, previous) != ours["head"]:
        raise Tampered("the notebook's metadata was changed, or cells were removed at its end")
    return checked
