"""`lis run` without a terminal: it outlives a hangup if it is told to, and its lines tell all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from homes import runtime_folder
from test_cli import LIS, call, lis

pytestmark = pytest.mark.bwrap


@pytest.fixture(autouse=True)
def runtime() -> Iterator[Path]:
    """Other tests' runs are not listed."""
    with runtime_folder(seconds=10) as folder:
        yield folder


class Running:
    """A run in a session of its own, whose lines go to a file."""

    def __init__(self, folder: Path, before: str, *replies: dict[str, Any], more: str = "") -> None:
        (folder / "script.json").write_text(json.dumps(replies))
        self.log = folder / "log"
        words = [*LIS, "run", "t", "-m", f"scripted:{folder}/script.json", "-o", f"{folder}/runs"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", f'{before} "$@" {more}', "sh", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def until(self, text: str) -> str:
        """All that it said, once `text` is in it."""
        return until(lambda: said if text in (said := self.log.read_text()) else "")

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(found: Callable[[], str]) -> str:
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


@pytest.mark.parametrize(
    ("before", "number"),
    [("exec nohup", signal.SIGHUP), ("trap '' INT; exec", signal.SIGINT)],
    ids=["nohup", "of a script"],
)
def test_what_is_ignored_for_it_ends_no_run(tmp_path: Path, before: str, number: int) -> None:
    replies = call("execute_bash", command="echo begun; sleep 3"), call("submit", answer="42")
    with Running(tmp_path, before, *replies) as run:
        run.until(">>> execute_bash")
        os.killpg(run.process.pid, number)
        assert run.process.wait(60) == 0
        assert "answer: 42" in run.log.read_text()


def test_its_lines_tell_what_people_do(tmp_path: Path) -> None:
    replies = [{**call("execute_bash", command="echo x"), "delay": 0.3}] * 200
    with Running(tmp_path, "exec", *replies) as run:
        run.until("<<< ok")
        lis("pause")
        run.until("paused: ")
        lis("say", "Mind the \x1b]0;PWN\x07header.")
        connection = json.loads(lis("attach", "--json").stdout)["connection_file"]
        _execute(connection, "print('from', 'a person')\n1 / 0")
        lis("resume")
        run.until("resumed: the model goes on")
        said = run.until("told: ")
        lis("stop")
        assert run.process.wait(60) == 130
    (after,) = said.split("paused: ")[1:]
    begun, shown = after.split(">>> a person\n")
    assert "lis resume" in begun
    assert shown.startswith("print('from', 'a person')\n1 / 0\nfrom a person\n")
    assert "ZeroDivisionError" in shown and "<<< error, " in shown
    assert "Mind the header." in said.split("told: ")[1]
    assert "\x1b" not in said


def _execute(connection_file: str, code: str) -> None:
    from jupyter_client.blocking import BlockingKernelClient

    client = BlockingKernelClient(connection_file=connection_file)
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        client.execute_interactive(code, output_hook=lambda _: None, timeout=30)
    finally:
        client.stop_channels()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_run_whose_notebook_is_lost(tmp_path: Path, as_json: bool) -> None:
    """Whatever becomes of its folder there is an object for --json, an exit code and a reason."""
    errors = tmp_path / "errors"
    more = f"{'--json' if as_json else ''} 2> '{errors}'"
    breach = call("execute_bash", command="touch /testbed/begun; sleep 2")
    with Running(tmp_path, "exec", breach, breach, more=more) as run:
        path = Path(until(lambda: "".join(map(str, tmp_path.glob("runs/*/trajectory.ipynb")))))
        until(lambda: "touch" if "touch /testbed" in path.read_text() else "")
        shutil.rmtree(path.parent)
        path.parent.write_text("in the way")
        assert run.process.wait(60) == 5
    said = errors.read_text()
    assert said.startswith(f"error: {path} cannot be written: Not a directory.")
    assert len(said.splitlines()) == 1
    if as_json:
        told = json.loads(run.log.read_text())
        assert (told["answer"], told["stop_reason"], told["files"]) == (None, "sandbox_error", [])
        assert told["trajectory"] == str(path) and told["detail"] in said
        assert told["usage"]["output_tokens"] > 0 and told["seconds"] > 0
