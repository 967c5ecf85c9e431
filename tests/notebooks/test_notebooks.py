"""The notebooks run from top to bottom, show what is stored in them, and leave nothing behind."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from books import FOLDER, NAMES, code_cells, execute, read, shown

pytestmark = [pytest.mark.bwrap, pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = {"00_quickstart"}
"""With the real local model, whose words nobody can foretell."""
MEASURED = {"06_performance"}
"""It shows the newest measurements, of whatever machine they are."""
LINK = re.compile(r"\]\(([^):#]+)\)")
"""To a file, out of Markdown."""


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lis-", dir="/tmp") as folder:
        yield Path(folder)


def listing() -> list[str]:
    return sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.localmodel] if n in MODEL else []) for n in NAMES],
)
def test_it_runs_and_shows_what_is_stored(name: str, short: Path) -> None:
    before = listing()
    book = execute(name, short)
    assert listing() == before, "it left something beside it"
    deadline = time.monotonic() + 20
    while (left := list((short / "r").glob("*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "a sandbox outlived the notebook's kernel"
    if name in MODEL | MEASURED:
        return
    for new, old in zip(code_cells(book), code_cells(read(name)), strict=True):
        if "varies" not in old.metadata.get("tags", []):
            assert shown(new) == shown(old), f"make notebooks NAMES={name}: {old.source}"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_as_a_page_to_read(name: str) -> None:
    book = read(name)
    first = book.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert any(cell.outputs for cell in code_cells(book))
    assert all(cell.execution_count for cell in code_cells(book))
    text = json.dumps(book.cells)
    host = socket.gethostname()
    here = [str(FOLDER.parent), "/tmp/tmp", f"{Path.home()}/", *([host] if len(host) > 6 else [])]
    told = [word for word in here if re.search(rf"(?<!\w){re.escape(word)}", text)]
    assert told == [], "it tells where it was made"


def test_links_between_them_lead_somewhere() -> None:
    for name in NAMES:
        for cell in read(name).cells:
            if cell.cell_type == "markdown":
                for link in LINK.findall(cell.source):
                    assert (FOLDER / link).exists(), f"{name} names {link}"
