"""Executes the notebooks of `notebooks/` and stores what they show: `make notebooks`.

    python tests/notebooks/books.py [NAME ...]      e.g. 03_trajectories; all of them without names

Each runs as in JupyterLab: in its own folder, in this Python's kernel. What is stored is free of
clock times, and outputs that differ from the stored ones in measured times alone are left as they
are, so that a diff shows what changed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

from lis_kernel.sandbox.berth import zygotes

__all__ = ["FOLDER", "NAMES", "code_cells", "execute", "read", "same", "shown"]

FOLDER = Path(__file__).parent.parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
CELL_SECONDS = 600
_FOLDER = re.compile(rf"{tempfile.gettempdir()}/tmp\w+/")
_VARIES = [
    (re.compile(r"\b\d+(\.\d+)?( ?)(ms|s|seconds)\b"), r"0\2\3"),
    (re.compile(r"\bseconds=[\d.e-]+"), "seconds=0"),
    (re.compile(r"\b\d{8}-\d{6}\b"), "<time>"),  # begins the name of a run's folder
    (re.compile(r"\blis-?[0-9a-f]{10,12}\b"), "<id>"),  # of what is shown, on a page
]


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name: str, runtime: Path) -> Any:
    """The notebook, run from its first cell to its last; nothing is written.

    Its sandboxes are listed in `runtime` alone, a folder with a short name, so that it sees none
    of other processes'.

    Raises:
        CellExecutionError: a cell failed that is not tagged `raises-exception`.
    """
    ours = {"LIS_RUNTIME_DIR": str(runtime / "r"), "LIS_ZYGOTE_DIR": str(zygotes())}
    book = read(name)
    client = NotebookClient(
        book,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        config=Config(KernelManager={"transport_encryption": "auto"}),
    )
    client.execute(env={**os.environ, **ours})
    for cell in code_cells(book):
        cell.outputs = _without_folder(cell.outputs)
    return book


def code_cells(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[tuple[str, str]]:
    """What a cell shows as plain text, without measured times; what has a better form is left."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.name, _steady(output.text)))
        elif output.output_type == "error":
            found.append((output.ename, _steady(output.evalue)))
        else:
            better = any(kind.startswith(("image/", "text/html")) for kind in output.data)
            found.append(("shown", "" if better else _steady(output.data.get("text/plain", ""))))
    return found


def same(new: Any, old: Any) -> bool:
    """Whether two runs of a cell differ in measured times at most."""
    one, other = (json.dumps(cell.outputs, sort_keys=True) for cell in (new, old))
    return _steady(one) == _steady(other)


def _steady(text: str) -> str:
    for pattern, word in _VARIES:
        text = pattern.sub(word, text)
    return text


def _without_folder(outputs: Any) -> Any:
    """Paths in a notebook's own temporary folder, as seen from there."""
    return nbformat.from_dict(json.loads(_FOLDER.sub("", json.dumps(outputs))))


def _store(name: str) -> None:
    old = read(name)
    with tempfile.TemporaryDirectory(prefix="lis-", dir="/tmp") as runtime:
        book = execute(name, Path(runtime))
    for new, before in zip(code_cells(book), code_cells(old), strict=True):
        if same(new, before):
            new.outputs = before.outputs
    for cell in book.cells:
        kept = {key: cell.metadata[key] for key in ("tags", "jupyter") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
    for n, cell in enumerate(code_cells(book), 1):
        cell.execution_count = n
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = n
    spec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    book.metadata = nbformat.from_dict({"kernelspec": spec, "language_info": {"name": "python"}})
    nbformat.write(book, FOLDER / f"{name}.ipynb")


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        print(name, flush=True)
        _store(name)


if __name__ == "__main__":
    main()
