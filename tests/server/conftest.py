"""One server for a file's tests, in a runtime folder of its own; nothing may be left of either."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
from leftovers import left_within
from run_server import Server

Script = Callable[..., str]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    """The folder of the sandboxes. Short: a socket's path has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="lis-s-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LIS_RUNTIME_DIR", str(folder))
        yield folder
    live = folder.with_name(f"{folder.name}-runs")
    left = left_within(10, folder)
    entries = [entry.name for entry in folder.iterdir()]
    listening = [entry.name for entry in live.iterdir()] if live.exists() else []
    for place in (folder, live):
        shutil.rmtree(place, ignore_errors=True)
    assert not left, f"processes were left: {left}"
    assert not entries, f"sandbox folders were left: {entries}"
    assert not listening, f"sockets of runs were left: {listening}"


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
