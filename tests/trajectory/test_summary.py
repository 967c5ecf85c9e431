"""A list of runs: what it says of each is what the notebook says, read from the notebook's end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from lis_kernel.trajectory import Recorder, load
from lis_kernel.trajectory.notebook import code_cell, markdown_cell
from lis_kernel.trajectory.summary import Summary, summaries, summary
from lis_kernel.types import Reply, StopReason, Usage

METADATA: dict[str, Any] = {
    "created": "2026-11-27T12:00:00Z",
    "task": {"prompt": 'Say "42"\n "metadata": {', "files": []},
    "config": {"model": {"name": "scripted:x"}},
}
ONE = Usage(input_tokens=100, output_tokens=7, cost_usd=0.25)
OUTCOME: dict[str, Any] = {
    "stop_reason": "submitted",
    "detail": "",
    "answer": "42",
    "files": ["a/b.txt"],
    "usage": Usage(input_tokens=200, output_tokens=14, cost_usd=0.5).model_dump(),
    "turns": 2,
    "seconds": 3.5,
}


def record(folder: Path, *, printed: str = "", **changed: Any) -> Path:
    """A run of two turns, closed with OUTCOME and what is `changed`; `stop_reason=None`: killed."""
    folder.mkdir(parents=True)
    recorder = Recorder(folder / "trajectory.ipynb", METADATA)
    for turn in (1, 2):
        reply = Reply(text="Hm.", usage=ONE).model_dump(mode="json")
        recorder.add(markdown_cell(f"turn-{turn}", "Hm.", kind="turn", turn=turn, reply=reply))
    cell = code_cell("call", "print()", kind="call", call_id="c", tool="execute_python")
    cell["metadata"]["lis_kernel"]["arguments"] = {}
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": printed}]
    recorder.begin(cell)
    if changed.get("stop_reason", "") is not None:
        recorder.finish(status="ok", seconds=0.1)
        recorder.close(**{**OUTCOME, **changed})
    recorder.save()
    return recorder.path


def agrees(listed: Summary, path: Path) -> None:
    """The list says what reading the whole notebook says."""
    read = load(path)
    assert (listed.task, listed.model, listed.answer) == (read.task, read.model, read.answer)
    assert listed.stop_reason == read.stop_reason
    assert (listed.turns, listed.usage) == (len(read.turns), read.usage)
    assert [path.parent / "files" / name for name in listed.files] == read.files
    assert not listed.damage


def test_a_finished_run(tmp_path: Path) -> None:
    path = record(tmp_path / "20261127-120000-say", printed="x\n" * 200_000)
    (listed,) = summaries(tmp_path)
    agrees(listed, path)
    assert (listed.id, listed.path) == ("20261127-120000-say", path)
    assert (listed.created, listed.seconds) == (1795780800.0, 3.5)
    assert listed.stop_reason is StopReason.SUBMITTED


@pytest.mark.parametrize("length", [0, 63_000, 64_000, 65_000, 1_000_000])
def test_metadata_of_every_length(tmp_path: Path, length: int) -> None:
    path = record(tmp_path / "run", printed="x" * 100_000, answer='"\n' * (length // 2))
    agrees(summary(path), path)


def test_whoever_saved_it(tmp_path: Path) -> None:
    path = record(tmp_path / "run", printed="x\n" * 100_000)
    expected = summary(path)
    notebook = json.loads(path.read_text())
    nbformat.write(nbformat.from_dict(notebook), path)
    assert summary(path) == expected
    for layout in ({}, {"indent": 4}, {"indent": 0, "sort_keys": True}):
        path.write_text(json.dumps(notebook, **layout))
        assert summary(path) == expected
    path.write_text(json.dumps(dict(reversed(notebook.items())), indent=1))
    assert summary(path) == expected


def test_a_killed_run_tells_how_far_it_came(tmp_path: Path) -> None:
    path = record(tmp_path / "run", stop_reason=None)
    os.utime(path, (1795780812, 1795780812))
    listed = summary(path)
    agrees(listed, path)
    assert listed.stop_reason is None
    assert (listed.turns, listed.usage.total_tokens, listed.usage.cost_usd) == (2, 214, 0.5)
    assert listed.seconds == 12.0


def test_a_list_reads_what_changed(tmp_path: Path) -> None:
    path = record(tmp_path / "run", stop_reason=None)
    assert summary(path).stop_reason is None
    (tmp_path / "run").rename(tmp_path / "old")
    record(tmp_path / "run")
    assert summary(path).answer == "42"


def test_only_the_end_is_read_of_a_thousand(tmp_path: Path) -> None:
    path = record(tmp_path / "first", printed="x\n" * 300_000)
    size = path.stat().st_size
    for n in range(1000):
        folder = tmp_path / "runs" / f"run-{n:04}"
        folder.mkdir(parents=True)
        os.link(path, folder / "trajectory.ipynb")

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    listed = summaries(tmp_path / "runs")
    assert bytes_read() - before < 1000 * size / 5
    assert [run.id for run in listed] == [f"run-{n:04}" for n in reversed(range(1000))]
    assert {(run.answer, run.turns) for run in listed} == {("42", 2)}
    before = bytes_read()
    assert summaries(tmp_path / "runs") == listed
    assert bytes_read() - before < size


def test_newest_first_and_without_those_that_live(tmp_path: Path) -> None:
    for name, created in (("b", "2026-11-27T12:00:00Z"), ("c", "2026-11-28T12:00:00Z")):
        path = record(tmp_path / name)
        path.write_text(path.read_text().replace(METADATA["created"], created))
    record(tmp_path / "a")
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    assert [run.id for run in summaries(tmp_path)] == ["c", "b", "a"]
    lives = tmp_path / "link" / "c" / "trajectory.ipynb"
    assert [run.id for run in summaries(tmp_path, without=[lives])] == ["b", "a"]
    assert summaries(tmp_path / "nothing") == summaries(tmp_path / "file") == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no notebook"),
        ("[]", "no trajectory"),
        ("a:x:b", "no notebook"),
        ("\udcff", "no notebook"),
        ("[" * 100_000, "no notebook"),
        ('{"cells": [], "metadata": {}}', "no trajectory"),
        ('{"cells": [], "metadata": {"lis_kernel": 1}}', "no trajectory"),
        ('{"cells": [], "metadata": {"lis_kernel": {"schema": 99}}}', "schema is 99"),
        ('{"metadata": {"lis_kernel": {"schema": 1}}}', "no notebook"),
        ('{"cells": [], "metadata": {"lis_kernel": {"schema": 1}}}', "damaged (KeyError"),
        ('{"cells": 7, "metadata": {"lis_kernel": {"schema": 1, "created": 7}}}', "damaged"),
    ],
)
def test_what_is_no_trajectory_is_listed_with_the_reason(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trajectory.ipynb").write_bytes(text.encode("utf-8", "surrogateescape"))
    (listed,) = summaries(tmp_path)
    assert why in listed.damage
    assert (listed.id, listed.stop_reason, listed.turns) == ("run", None, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"stop_reason": "unheard of"},
        {"usage": None},
        {"usage": {"input_tokens": "many"}},
        {"answer": 42},
        {"turns": None},
        {"files": "all"},
        {"seconds": "long"},
    ],
)
def test_a_damaged_outcome_is_listed_with_the_reason(tmp_path: Path, changed: Any) -> None:
    assert "damaged" in summary(record(tmp_path / "run", **changed)).damage


NO_NUMBERS = [float("inf"), float("-inf"), float("nan"), -1, 10**400, 1e16]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_numbers_that_no_run_has(tmp_path: Path, number: float) -> None:
    """Python's JSON knows `Infinity` and `NaN`; who asks for the list might not."""
    for n, name in enumerate(("seconds", "turns", "cost_usd", "input_tokens", "output_tokens")):
        used = {"usage": {**OUTCOME["usage"], name: number}}
        changed = {name: number} if name in OUTCOME else used
        listed = summary(record(tmp_path / f"run-{n}", **changed))
        assert "metadata is damaged" in listed.damage
        assert (listed.seconds, listed.turns, listed.usage) == (0.0, 0, Usage())
    killed = record(tmp_path / "killed", stop_reason=None)
    text = killed.read_text()
    assert text.count('"cost_usd": 0.25') == 2
    killed.write_text(text.replace('"cost_usd": 0.25', f'"cost_usd": {json.dumps(number)}'))
    assert "metadata is damaged" in summary(killed).damage


def test_a_notebook_cut_anywhere(tmp_path: Path) -> None:
    path = record(tmp_path / "run", printed="y" * 500)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        assert "no notebook" in summary(path).damage


def test_what_is_no_file(tmp_path: Path) -> None:
    for name in ("folder", "pipe", "gone", "loop", os.fsdecode(b"n\xff")):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "trajectory.ipynb").mkdir()
    os.mkfifo(tmp_path / "pipe" / "trajectory.ipynb")
    (tmp_path / "gone" / "trajectory.ipynb").symlink_to("nowhere")
    (tmp_path / "loop" / "trajectory.ipynb").symlink_to("trajectory.ipynb")
    (tmp_path / os.fsdecode(b"n\xff") / "trajectory.ipynb").write_text("?")
    listed = {run.id: run.damage for run in summaries(tmp_path)}
    assert listed["folder"] == listed["pipe"] == "it is no plain file"
    assert set(listed) == {"folder", "pipe", "gone", "loop", "n\ufffd"}
    assert all(listed.values())
