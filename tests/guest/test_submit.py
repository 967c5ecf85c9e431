"""`submit` as it runs in the sandbox: done, or one clear objection."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import lis_kernel

SOURCE = (Path(lis_kernel.__file__).parent / "guest" / "submit.py").read_text()


@pytest.fixture
def submit(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIS_TESTBED", str(tmp_path))
    namespace = {}
    exec(SOURCE, namespace)

    def call(*arguments):
        namespace["submit"](*arguments)
        return capsys.readouterr().out

    return call


def test_answer_given_in_the_call(submit, tmp_path):
    path = tmp_path / "output" / "answer.txt"
    assert submit("4 \r\n2") == f"submitted: the answer in {path}\n4 \r\n2\n"
    assert path.read_bytes() == b"4 \r\n2"
    assert submit(17).endswith("\n17\n")
    assert submit("  ").endswith("\n17\n")  # a blank answer replaces none


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8")).filter(lambda text: text.strip()))
def test_the_answer_is_written_as_it_is(submit, tmp_path, answer):
    submit(answer)
    assert (tmp_path / "output" / "answer.txt").read_bytes() == answer.encode()


def test_answer_in_a_file(submit, tmp_path):
    (tmp_path / "answer.txt").write_text("B\n")
    assert submit() == f"submitted: the answer in {tmp_path}/answer.txt\nB\n\n"
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "answer.txt").write_text("A" * 3_000)
    assert submit().endswith("/output/answer.txt\n" + "A" * 2_000 + "\n[... clipped]\n")


def test_files_without_an_answer(submit, tmp_path):
    output = tmp_path / "output"
    (output / "b").mkdir(parents=True)
    (output / "answer.txt").write_text(" \n")
    (output / "b" / "c.csv").write_text("")
    (output / "a\n.png").write_text("")
    assert submit() == f"submitted: the files in {output}\n'a\\n.png'\nb/c.csv\n"
    for n in range(60):
        (output / f"f{n}").write_text("")
    assert submit().count("\n") == 52 and submit().endswith("[... 12 more]\n")


def test_nothing_is_refused_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIS_TESTBED", str(tmp_path))
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config)

    def run(cell):
        capsys.readouterr()
        good = shell.run_cell(cell, store_history=True).success
        shown = capsys.readouterr()
        return good, shown.out + shown.err

    assert run(SOURCE) == (True, "")
    run("open = print = os = None")
    refusal = (
        f"NothingToSubmit: write the answer to {tmp_path}/output/answer.txt, then call submit "
        f"again; calling submit again at once ends the run with nothing\n"
    )
    assert run("submit()") == (False, refusal)
    assert run("x = 1") == (True, "")
    assert run("submit()") == (False, refusal)
    assert run("submit()") == (True, f"submitted (nothing in {tmp_path}/output)\n")
