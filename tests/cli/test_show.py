"""`lis show` of a stranger's notebook: it says what it likes, and does nothing to the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_cli import lis

from lis_kernel.trajectory import Recorder
from lis_kernel.trajectory.notebook import code_cell, markdown_cell
from lis_kernel.types import Reply

EVIL = "ev\x1b]0;PWN\x07il\x1b[2J\u202eback\u2066wards\u200f"
TWO = "one\nrecord    unchanged, 99 cells checked"


def hostile(folder: Path, evil: str) -> Path:
    """A run of one turn and a person's cell, in which every text is `evil`."""
    recorder = Recorder(
        folder / "trajectory.ipynb",
        {
            "created": "2026-11-27T12:00:00Z",
            "task": {"prompt": f"task {evil}", "files": []},
            "config": {"model": {"name": f"model {evil}"}},
        },
    )
    reply = Reply(text=f"text {evil} &#x202e; &rlm; &amp;").model_dump(mode="json")
    recorder.add(markdown_cell("turn", "", kind="turn", turn=1, reply=reply))
    output = {"output_type": "stream", "name": "stdout", "text": f"output {evil}"}
    data = {f"mime {evil}": "x", "text/plain": f"value {evil}"}
    value = {"output_type": "display_data", "data": data, "metadata": {}}
    error = {"output_type": "error", "ename": evil, "evalue": evil, "traceback": [f"tb {evil}"]}
    ours = {
        "call": {"kind": "call", "call_id": evil, "tool": f"tool {evil}", "arguments": {}},
        "human": {"kind": "human", "turn": 1},
    }
    for name, facts in ours.items():
        cell = code_cell(name, f"# {name} {evil}", **facts)
        cell["outputs"] = [output, value, error]
        recorder.begin(cell)
        told = {"status": f"status {evil}", "verdict": f"verdict {evil}", "limit": f"limit {evil}"}
        recorder.finish(seconds=0.1, **told)
    recorder.close(
        stop_reason="submitted",
        detail=f"detail {evil}",
        answer=f"answer {evil}",
        files=[f"file {evil}"],
        seconds=1.0,
    )
    recorder.save()
    return recorder.path


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_no_value_of_a_notebook_reaches_the_terminal_as_it_is(
    tmp_path: Path, full: list[str]
) -> None:
    shown = lis("show", hostile(tmp_path, EVIL), *full, COLUMNS="200")
    assert (shown.returncode, shown.stderr) == (0, "")
    text = shown.stdout
    assert (
        re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
        == []
    )
    assert "PWN" not in text
    kinds = "task model text output mime value tb tool status verdict detail answer file"
    for kind in kinds.split():
        assert f"{kind} evilbackwards" in text, kind
    assert "# call evilbackwards" in text and "# human evilbackwards" in text
    assert "� � &" in text


def test_no_value_poses_as_a_row_of_the_outcome(tmp_path: Path) -> None:
    for columns in ("60", "100", "200"):
        text = lis("show", hostile(tmp_path, TWO), COLUMNS=columns).stdout
        outcome = text[text.index("╭─ outcome") :]
        assert outcome.count("99 cells") >= 4
        assert re.findall(r"│ record +(\S.*?) +│", outcome) == ["unchanged, 3 cells checked"]


def test_a_record_that_was_changed_says_so_in_one_line(tmp_path: Path) -> None:
    path = hostile(tmp_path, TWO)
    path.write_text(path.read_text().replace("# call one", "# call two"))
    text = lis("show", path).stdout
    outcome = text[text.index("╭─ outcome") :]
    (record,) = re.findall(r"│ record +(\S.*?) +│", outcome)
    assert record.startswith("CHANGED: ")
