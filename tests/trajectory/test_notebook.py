"""The trajectory's file: valid, as nbformat writes it, atomic, and tamper-evident."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lis_kernel.errors import SchemaError, Tampered, TrajectoryError
from lis_kernel.trajectory import Recorder, load
from lis_kernel.trajectory.notebook import (
    KEY,
    cell_id,
    code_cell,
    markdown_cell,
    new_notebook,
    verify,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
METADATA = {"task": {"prompt": "p", "files": []}, "config": {"model": {"name": "scripted:x"}}}


def record(path: Path, sources: list[str], outputs: list[str]) -> Recorder:
    recorder = Recorder(path, METADATA)
    recorder.add(markdown_cell("task", "p", ["lis-task"], kind="task"))
    for n, (source, text) in enumerate(zip(sources, outputs, strict=True)):
        cell = code_cell(recorder.new_id(f"c{n}"), source, ["lis-call"], kind="call", turn=n)
        recorder.begin(cell)
        recorder.save()
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
        cell["execution_count"] = n + 1
        recorder.finish(seconds=1.0, status="ok")
        recorder.save()
    recorder.close(stop_reason="submitted", seconds=2.0)
    recorder.save()
    return recorder


@settings(
    max_examples=40,
    deadline=None,  # it waits for the disk at every save
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=4))
def test_what_is_written_is_what_nbformat_would_write(tmp_path: Path, cells) -> None:
    path = tmp_path / "t.ipynb"
    record(path, [c[0] for c in cells], [c[1] for c in cells])
    text = path.read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert nbformat.writes(notebook) + "\n" == text
    assert load(path).verify() == len(cells) + 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_is_found(tmp_path: Path, data) -> None:
    path = tmp_path / "t.ipynb"
    record(path, ["print(1)", "print(2)"], ["1\n", "2\n"])
    notebook = json.loads(path.read_text("utf-8"))
    cell = data.draw(st.sampled_from(range(3)))
    field = data.draw(st.sampled_from(["source", "outputs", "metadata", "removed"]))
    changed = copy.deepcopy(notebook)
    if field == "source":
        changed["cells"][cell]["source"].append("#")
    elif field == "outputs" and cell:
        changed["cells"][cell]["outputs"][0]["text"] = ["9\n"]
    elif field == "removed":
        del changed["cells"][cell]
    else:
        changed["cells"][cell]["metadata"][KEY]["kind"] = "other"
    with pytest.raises(Tampered):
        verify(changed)


def test_the_notebook_metadata_is_sealed(tmp_path: Path) -> None:
    path = tmp_path / "t.ipynb"
    record(path, ["1"], ["1"])
    notebook = json.loads(path.read_text("utf-8"))
    notebook["metadata"][KEY]["stop_reason"] = "max_turns"
    with pytest.raises(Tampered):
        verify(notebook)


def test_what_an_editor_does_on_saving_is_no_tampering(tmp_path: Path) -> None:
    """JupyterLab joins and splits lines, writes 1.0 as 1, and adds metadata of its own."""
    path = tmp_path / "t.ipynb"
    record(path, ["a\nb"], ["x\ny\n"])
    notebook = json.loads(path.read_text("utf-8"))
    notebook["cells"][1]["metadata"]["execution"] = {"iopub.execute_input": "now"}
    notebook["cells"][1]["metadata"][KEY]["seconds"] = 1
    notebook["cells"][1]["source"] = "a\nb"
    notebook["cells"][1]["outputs"][0]["text"] = "x\ny\n"
    notebook["metadata"][KEY]["seconds"] = 2
    assert verify(notebook) == 2


def test_a_killed_run_is_checked_up_to_its_last_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.ipynb"
    recorder = Recorder(path, METADATA)
    recorder.add(markdown_cell("task", "p", kind="task"))
    recorder.begin(code_cell("c", "1", kind="call"))
    recorder.save()
    trajectory = load(path)
    assert trajectory.verify() == 1
    assert trajectory.stop_reason is None


def test_a_failed_save_leaves_the_notebook_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "t.ipynb"
    recorder = Recorder(path, METADATA)
    recorder.save()
    before = path.read_bytes()
    recorder.add(markdown_cell("more", "x", kind="task"))
    partial = path.with_name(f".{path.name}.partial")
    partial.symlink_to("/dev/full")
    with pytest.raises(TrajectoryError, match="No space left"):
        recorder.save()
    assert path.read_bytes() == before
    recorder.save()  # there is room again
    assert len(load(path).notebook["cells"]) == 1


async def test_saves_that_are_cancelled_never_overtake_a_later_one(tmp_path: Path) -> None:
    path = tmp_path / "t.ipynb"
    recorder = Recorder(path, METADATA)
    for n in range(40):
        recorder.add(markdown_cell(f"c{n}", "x" * 1000, kind="task"))
        saving = asyncio.create_task(recorder.saved())
        await asyncio.sleep(0.0005 * (n % 3))
        saving.cancel()
        await asyncio.wait([saving])
    await recorder.saved()
    recorder.close(stop_reason="submitted", seconds=2.0)
    await recorder.saved()
    assert load(path).verify() == 40
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@given(st.text(max_size=200), st.lists(st.text(max_size=80), max_size=3))
def test_every_call_id_gives_a_valid_free_cell_id(raw: str, taken: list[str]) -> None:
    name = cell_id(raw, {cell_id(other, ()) for other in taken} | {raw})
    notebook = new_notebook({})
    notebook["cells"].append(markdown_cell(name, ""))
    nbformat.validate(nbformat.from_dict(notebook))
    assert name != raw


def test_a_good_call_id_is_the_cell_id() -> None:
    assert cell_id("toolu_01A09q90qw90lq917835lq9", ()) == "toolu_01A09q90qw90lq917835lq9"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("not json", "not a Jupyter notebook"),
        ("{}", "not a Jupyter notebook"),
        (nbformat.writes(nbformat.v4.new_notebook()), "not a trajectory"),
        (json.dumps({**new_notebook({}), "metadata": {KEY: {"schema": 99}}}), "schema 99"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "x.ipynb"
    path.write_text(content)
    with pytest.raises(SchemaError, match=problem):
        load(path)
