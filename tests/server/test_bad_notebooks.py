"""One notebook that is bad in whatever way is one bad row: all others are listed as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_server import Server, strict

from lis_kernel.tools.strict_json import json_text

pytestmark = pytest.mark.bwrap


def call(tool: str, **arguments: object) -> dict[str, object]:
    return {"tool_calls": [{"name": tool, "arguments": arguments}]}


@pytest.fixture(scope="module")
def good(server: Server) -> Path:
    """The notebook of a finished run."""
    path = server.root / "good.json"
    path.write_text(json.dumps([call("submit", answer="42")]))
    name = server.start(task="Be good.", model=f"scripted:{path}")
    return Path(server.becomes(name, "submitted")["path"])


@pytest.fixture
def bad(server: Server) -> Iterator[Path]:
    """A run's folder, which is gone afterwards."""
    folder = server.runs / "bad"
    yield folder
    if folder.is_symlink():
        folder.unlink()
    else:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def listed(server: Server, good: Path) -> dict[str, Any]:
    """The row of the bad run: in the list, and at its own address."""
    answer = server.ask("lis/api/runs")
    assert answer.status == 200, answer.text
    rows = {row["id"]: row for row in answer.json["runs"]}
    assert rows[good.parent.name]["answer"] == "42"
    one = server.ask("lis/api/runs/bad")
    assert (one.status, one.json) == (200, rows["bad"])
    assert server.ask("lis/api/runs/bad/stop", {}).status == 409
    row: dict[str, Any] = rows["bad"]
    return row


def test_a_notebook_that_is_a_loop_of_links(server: Server, good: Path, bad: Path) -> None:
    bad.mkdir()
    (bad / "trajectory.ipynb").symlink_to("trajectory.ipynb")
    assert listed(server, good)["state"] == "damaged"


def test_a_folder_that_is_a_loop_of_links(server: Server, good: Path, bad: Path) -> None:
    bad.symlink_to("bad")
    assert listed(server, good)["state"] == "damaged"


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "-1", "1" + "0" * 300])
def test_numbers_that_no_run_has(server: Server, good: Path, bad: Path, number: str) -> None:
    notebook = json.loads(good.read_text())
    notebook["metadata"]["lis_kernel"]["seconds"] = 123.25
    bad.mkdir()
    text = json.dumps(notebook, indent=1).replace("123.25", number)
    (bad / "trajectory.ipynb").write_text(text)
    row = listed(server, good)
    assert (row["state"], row["seconds"]) == ("damaged", 0.0)
    assert "seconds" in row["detail"] or len(number) > 100


def test_the_second_guard() -> None:
    assert strict(json_text([float("nan"), float("inf"), -float("inf"), 1])) == [None] * 3 + [1]
    value: Any = float("nan")
    for _ in range(900):
        value = [value]
    assert json_text(value) == "[" * 900 + "null" + "]" * 900
    assert json_text({"a": 1.5}, indent=2) == '{\n  "a": 1.5\n}'
