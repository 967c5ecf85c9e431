"""`lis runs`, attach, pause, resume, say and stop, as a person meets them: subprocesses."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from homes import runtime_folder

from lis_kernel.cli.runs import OTHERS

pytestmark = pytest.mark.bwrap

LIS = [sys.executable, "-m", "lis_kernel"]
CSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(autouse=True)
def runtime() -> Iterator[Path]:
    """Other tests' runs are not listed."""
    with runtime_folder(seconds=10) as folder:
        yield folder


def lis(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LIS, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
        cwd=cwd,
    )  # fmt: skip


def on_terminal(width: int, *arguments: str, cwd: Path) -> str:
    """What a person sees, without the colours."""
    parent, child = pty.openpty()
    env = {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}
    shown = b""
    with subprocess.Popen([*LIS, *arguments], stdin=child, stdout=child, env=env, cwd=cwd):
        os.close(child)
        try:
            while piece := os.read(parent, 65536):
                shown += piece
        except OSError:
            pass
    os.close(parent)
    return CSI.sub("", shown.decode()).replace("\r\n", "\n")


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """Write a script of replies; its `--model` value."""

    def write(*replies: dict[str, object]) -> str:
        path = tmp_path / "script.json"
        path.write_text(json.dumps(replies))
        return f"scripted:{path}"

    return write


def call(tool: str, delay: float = 0, **arguments: object) -> dict[str, object]:
    return {"tool_calls": [{"name": tool, "arguments": arguments}], "delay": delay}


class Live:
    """`lis run` in the background, at work for a minute."""

    def __init__(self, script: Any, folder: Path, task: str = "Be long.") -> None:
        model = script(*[call("execute_bash", 0.2, command="echo x")] * 300)
        self.folder = folder
        self.process = subprocess.Popen(
            [*LIS, "run", task, "-m", model, "-o", folder / "runs"], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while self.row.get("state") != "running":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        self.id = str(self.row["id"])

    @property
    def row(self) -> dict[str, Any]:
        rows = json.loads(lis("runs", "--json", "-o", self.folder / "nothing").stdout)
        return next((row for row in rows if row["pid"] == self.process.pid), {})

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)


def test_nothing_to_list(tmp_path: Path) -> None:
    assert lis("runs", cwd=tmp_path).stdout == "no runs in runs\n"
    assert json.loads(lis("runs", "--json", cwd=tmp_path).stdout) == []


def test_finished_runs_one_a_line(script: Any, tmp_path: Path) -> None:
    lis(
        "run", "[red]t[/]", "-m",
        script(call("submit", answer="\x1b]0;evil\x07two\nlines :x: [b]bold[/b] " + "long " * 99)),
        cwd=tmp_path,
    )  # fmt: skip
    lis("run", "second", "-m", script(), cwd=tmp_path)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "trajectory.ipynb").write_text("[")
    done = lis("runs", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    titles, *lines = done.stdout.splitlines()
    assert titles.split() == [
        "RUN", "STATE", "MODEL", "TURNS", "TOKENS", "COST", "TIME", "ANSWER",
    ]  # fmt: skip
    broken, second, first = sorted(lines, key=lambda text: ("red-t" in text, "second" in text))
    assert "damaged" in broken and "it is no notebook" in broken
    assert "model error" in second and "the script has 0 replies" in second
    assert "two lines :x: [b]bold[/b] long" in first and "…" in first
    assert first.startswith("runs/2") and "scripted:script.json" in first
    rows = json.loads(lis("runs", "--json", cwd=tmp_path).stdout)
    assert {row["state"] for row in rows} == {"damaged", "model_error", "submitted"}
    assert {row["path"] for row in rows} == {
        str(path.relative_to(tmp_path)) for path in tmp_path.glob("runs/*/trajectory.ipynb")
    }
    wide = on_terminal(120, "runs", cwd=tmp_path)
    assert max(map(len, wide.splitlines())) <= 120
    narrow = on_terminal(60, "runs", cwd=tmp_path)
    assert "  1 turn · " in narrow
    assert "two lines :x: [b]bold[/b]" in narrow


@pytest.mark.parametrize("number", ["Infinity", "NaN", "-1", "1e999", "1" + "0" * 300])
def test_one_bad_notebook_is_one_bad_line(script: Any, tmp_path: Path, number: str) -> None:
    lis("run", "good", "-m", script(call("submit", answer="fine")), cwd=tmp_path)
    (good,) = (tmp_path / "runs").glob("*/trajectory.ipynb")
    for name in ("seconds", "turns", "cost_usd"):
        notebook = json.loads(good.read_text())
        ours = notebook["metadata"]["lis_kernel"]
        (ours["usage"] if name == "cost_usd" else ours)[name] = 123.25
        (tmp_path / "runs" / name).mkdir()
        text = json.dumps(notebook, indent=1).replace("123.25", number)
        (tmp_path / "runs" / name / "trajectory.ipynb").write_text(text)
    (tmp_path / "runs" / "loop").mkdir()
    (tmp_path / "runs" / "loop" / "trajectory.ipynb").symlink_to("trajectory.ipynb")
    (tmp_path / "runs" / "itself").symlink_to("itself")
    done = lis("runs", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == 6 and sum("damaged" in line for line in lines) == 5
    assert sum("fine" in line for line in lines) == 1
    done = lis("runs", "--json", cwd=tmp_path)
    rows = {row["id"]: row for row in json.loads(done.stdout, parse_constant=pytest.fail)}
    bad = {name for name, row in rows.items() if row["state"] == "damaged"}
    assert bad == {"seconds", "turns", "cost_usd", "loop", "itself"}


def test_only_the_last_are_shown_unless_all_are_asked_for(tmp_path: Path) -> None:
    for n in range(30):
        folder = tmp_path / "runs" / f"run-{n}"
        folder.mkdir(parents=True)
        (folder / "trajectory.ipynb").write_text("{}")
    shown = lis("runs", cwd=tmp_path).stdout.splitlines()
    assert len(shown) == 1 + 20 + 1
    assert shown[-1] == "and 10 older: --all"
    assert len(lis("runs", "--all", cwd=tmp_path).stdout.splitlines()) == 1 + 30
    assert len(json.loads(lis("runs", "--json", cwd=tmp_path).stdout)) == 30


def test_hold_speak_hand_back_and_stop(script: Any, tmp_path: Path) -> None:
    with Live(script, tmp_path) as live:
        row = live.row
        assert (row["live"], row["task"], row["max_turns"]) == (True, "Be long.", 100)
        listed = lis("runs", cwd=tmp_path).stdout.splitlines()
        assert len(listed) == 2, "its own notebook does not list it again"
        assert "running" in listed[1]
        assert lis("pause").stdout.strip() in (f"{live.id}: pausing", f"{live.id}: paused")
        while live.row["state"] != "paused":
            time.sleep(0.1)
        said = lis("say", "Look for duplicates.")
        assert said.stdout == f"{live.id}: told, paused\n"
        resumed = json.loads(lis("resume", "--json", tmp_path / "runs" / live.id).stdout)
        assert resumed["run"] == live.id
        assert lis("stop", Path(row["path"])).stdout == f"{live.id}: stopping\n"
        assert live.process.wait(60) == 130
        assert "Look for duplicates." in Path(row["path"]).read_text()


def test_attach_says_how_to_join(script: Any, tmp_path: Path) -> None:
    with Live(script, tmp_path) as live:
        said = lis("attach", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        (file,) = re.findall(r"jupyter console --existing (\S+)", said.stdout)
        assert json.loads(Path(file).read_text())["transport"] == "ipc"
        assert f"lis pause {live.id}" in said.stdout
        facts = json.loads(lis("attach", live.id, "--json", "--notebook", cwd=tmp_path).stdout)
        assert facts == {
            "run": live.id,
            "connection_file": file,
            "console": ["jupyter", "console", "--existing", file, OTHERS],
            "notebook": f"attach-{live.id}.ipynb",
        }
        notebook = json.loads((tmp_path / facts["notebook"]).read_text())
        assert notebook["metadata"]["kernelspec"]["name"] == "lis-attach"
        assert notebook["metadata"]["lis_kernel"] == {"attach": live.id}
        (tmp_path / facts["notebook"]).write_text("mine")
        lis("attach", "--notebook", cwd=tmp_path)
        assert (tmp_path / facts["notebook"]).read_text() == "mine"


def test_attach_opens_a_console(script: Any, tmp_path: Path) -> None:
    pytest.importorskip("jupyter_console", reason="jupyter_console is not installed")
    with Live(script, tmp_path) as live:
        lis("pause")
        while live.row["state"] != "paused":
            time.sleep(0.1)
        console = subprocess.run(
            [*LIS, "attach", "--console"], input="40 + 2\nexit\n", capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert "42" in console.stdout, console.stdout + console.stderr
        lis("resume")


def test_several_runs_must_be_named(script: Any, tmp_path: Path) -> None:
    with Live(script, tmp_path, "One.") as one, Live(script, tmp_path, "Two.") as two:
        done = lis("pause")
        assert done.returncode == 2
        assert one.id in done.stderr and two.id in done.stderr
        assert lis("stop", two.id).returncode == 0
        assert two.process.wait(60) == 130
        assert one.row["state"] == "running"


def test_an_empty_name_is_no_run(script: Any, tmp_path: Path) -> None:
    """`lis stop "$RUN"` where RUN is not set, in whatever folder."""
    with Live(script, tmp_path) as live:
        for words in (["stop", ""], ["say", "", "text"], ["attach", ""]):
            done = lis(*words, cwd=tmp_path / "runs" / live.id)
            assert (done.returncode, done.stdout) == (2, "")
            assert "RUN: it is empty. Name a run, or leave RUN out" in done.stderr
        assert live.row["state"] == "running"
        (tmp_path / "loop").symlink_to("loop")
        for name in ("x" * 5000, "loop"):
            done = lis("stop", name, cwd=tmp_path)
            assert done.returncode == 2 and "no live run is called" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["pause"], "RUN: no run is live. `lis runs` lists them."),
        (["attach", "--console"], "RUN: no run is live."),
        (["stop", "nothing"], "RUN: no live run is called 'nothing'."),
        (["say", "x", "  "], "TEXT: it is empty. Write what the model should be told."),
    ],
)
def test_errors_name_the_field_and_the_fix(arguments: list[str], field: str) -> None:
    done = lis(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert field in done.stderr
    assert "Traceback" not in done.stderr
