"""What a notebook says to a kernel that is started for it: anybody may have written it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lis_kernel.trajectory import opened as module
from lis_kernel.trajectory.notebook import code_cell, new_notebook
from lis_kernel.trajectory.opened import MOST_HELD, VARIABLE, Opened, opened


def read(path: Path) -> Opened | None:
    return opened({VARIABLE: str(path)})


def book(path: Path, *cells: Any, **ours: Any) -> Path:
    notebook = new_notebook(ours)
    notebook["cells"] = list(cells)
    path.write_text(json.dumps(notebook))
    return path


def test_a_trajectory_says_its_task_and_its_held_cells(tmp_path: Path) -> None:
    cells = [
        code_cell("a", "1", ["lis-call"], status="ok"),
        code_cell("b", "2", ["lis-call", "skip-execution"], status="timeout"),
        code_cell("c", "3", ["skip-execution"], status="whatever"),
    ]
    path = book(tmp_path / "run.ipynb", *cells, task={"prompt": "x"})
    found = read(path)
    assert found is not None
    assert (found.path, found.ours["task"]) == (path, {"prompt": "x"})
    assert found.held == {"b": "timeout", "c": ""}


def test_a_notebook_of_a_person_s_holds_no_cell(tmp_path: Path) -> None:
    """The tag is theirs there, and JupyterLab has always run such cells."""
    path = tmp_path / "mine.ipynb"
    cells = [code_cell("a", "1", ["skip-execution"])]
    path.write_text(json.dumps({"metadata": {"lis_kernel": {"attach": "run"}}, "cells": cells}))
    assert read(path) == Opened(path, {"attach": "run"}, {})
    path.write_text(json.dumps({"metadata": {}, "cells": cells}))
    assert read(path) is None


def test_the_held_cells_are_bounded(tmp_path: Path) -> None:
    tags = ["skip-execution"]
    odd = [code_cell(name, "", tags) for name in ("x" * 65, "", "a b", "a\n", "ä")]
    many = [code_cell(f"c{n}", "", tags) for n in range(5000)]
    found = read(book(tmp_path / "run.ipynb", *odd, *many))
    assert found is not None
    assert list(found.held) == [f"c{n}" for n in range(MOST_HELD)]
    # one message of `sandbox/init.py`, beside the rest of what a kernel is told
    assert MOST_HELD * len(json.dumps({"x" * 64: "interrupted"})) < 50_000


WRONG = [
    b"",
    b"no JSON, but lis_kernel",
    b'["lis_kernel"]' * 2,
    b'"lis_kernel"',
    b'{"metadata": "lis_kernel"}',
    b'{"metadata": {"lis_kernel": []}}',
    b'{"metadata": {"lis_kernel": {}}}',
    b'{"metadata": ["lis_kernel"]}',
    b'{"lis_kernel": ' + b"[" * 100_000,
    b'{"lis_kernel": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"lis_kernel": "\xff"}',
    b'{"lis_kernel": ' + b"9" * 10_000 + b"}",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_notebook_of_ours_says_nothing(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "some.ipynb"
    path.write_bytes(text)
    assert read(path) is None


@pytest.mark.timeout(10)
def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.ipynb")
    (tmp_path / "folder.ipynb").mkdir()
    (tmp_path / "loop.ipynb").symlink_to(tmp_path / "loop.ipynb")
    (tmp_path / "zero.ipynb").symlink_to("/dev/zero")
    names = ["fifo.ipynb", "folder.ipynb", "loop.ipynb", "zero.ipynb", "none.ipynb", "n\0ne.ipynb"]
    assert [read(tmp_path / name) for name in names] == [None] * len(names)
    assert opened({}) is opened({VARIABLE: ""}) is opened({VARIABLE: "console-1"}) is None


def test_a_notebook_that_is_too_large_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "NOTEBOOK_BYTES", 1000)
    said: list[str] = []
    path = book(tmp_path / "large\n.ipynb", code_cell("a", "x" * 1000))
    assert opened({VARIABLE: str(path)}, said.append) is None
    assert said == [r"'large\n.ipynb' is larger than 1000 bytes: what it asks is not read"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "metadata", "tags", "lis_kernel", "status", "cells", "schema"]),
            inner | st.just(["skip-execution"]) | st.just("skip-execution"),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(json_values, json_values)
def test_no_notebook_makes_it_fail(tmp_path_factory, cells, ours) -> None:
    path = tmp_path_factory.mktemp("any") / "any.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {"lis_kernel": ours}}))
    found = read(path)
    assert found is None or all(isinstance(name, str) for name in found.held)
