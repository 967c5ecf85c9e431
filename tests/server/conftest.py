"""One server for a file's tests, in a runtime folder of its own; nothing may be left of either."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
from homes import runtime_folder
from run_server import Server

Script = Callable[..., str]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    with runtime_folder(seconds=10) as folder:
        yield folder


@pytest.fixture(scope="module")
def server(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Script:
    """Write a script of replies below the server's root; its name as a model."""
    shared = "server" in request.fixturenames
    root = request.getfixturevalue("server").root if shared else tmp_path / "work"

    def write(*replies: dict[str, object], name: str = "script.json") -> str:
        path = root / "scripts" / tmp_path.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(replies))
        return f"scripted:{path}"

    return write
