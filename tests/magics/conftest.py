"""A notebook of a user's: a real ipykernel in which the magics are loaded. Nothing may be left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from homes import runtime_folder
from user_notebook import Notebook


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    with runtime_folder("ipython") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        yield folder


@pytest.fixture(scope="module")
def started(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One kernel for the tests of a file."""
    work = tmp_path_factory.mktemp("work")
    with Notebook(work) as made:
        assert made.run("%load_ext lis_kernel").ok
        yield made


@pytest.fixture
def notebook(started: Notebook) -> Iterator[Notebook]:
    """The file's kernel, without sandboxes of other tests."""
    yield started
    started.run("%sandbox stop --all")


@pytest.fixture
def other(runtime: Path, tmp_path: Path) -> Iterator[Notebook]:
    """A kernel of the test's own."""
    with Notebook(tmp_path) as made:
        assert made.run("%load_ext lis_kernel").ok
        yield made


@pytest.fixture
def script(started: Notebook) -> Callable[..., str]:
    """Writes a script for the model beside the notebook; the model's name."""

    def write(*replies: dict[str, Any], name: str = "replies.json") -> str:
        (started.folder / name).write_text(json.dumps(replies))
        return f"scripted:{name}"

    return write
