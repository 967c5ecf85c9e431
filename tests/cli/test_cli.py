"""The command `lis` as a person meets it: a subprocess, its output, its exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bwrap

LIS = [sys.executable, "-m", "lis_kernel"]
CSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def lis(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    return subprocess.run(
        [*LIS, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        env={**env, "COLUMNS": "100", **environment},
        timeout=120,
        check=False,
    )


@pytest.fixture
def script(tmp_path: Path):
    """Write a script of replies; its `--model` value."""

    def write(*replies: dict) -> str:
        path = tmp_path / "script.json"
        path.write_text(json.dumps(replies))
        return f"scripted:{path}"

    return write


def call(tool: str, **arguments: object) -> dict:
    return {"text": "", "tool_calls": [{"name": tool, "arguments": arguments}]}


def test_json_is_one_object_with_answer_and_files(script, tmp_path) -> None:
    (tmp_path / "SHA256-7.txt").write_text("42\n")
    (tmp_path / "in put.txt").symlink_to("SHA256-7.txt")  # a link keeps its own name
    model = script(
        call("execute_bash", command="cp '/testbed/input/in put.txt' /testbed/output/copy.txt"),
        call("submit", answer="42"),
    )
    done = lis(
        "run",
        "copy it",
        "--model",
        model,
        "--out",
        tmp_path,
        "--json",
        "-f",
        tmp_path / "in put.txt",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert set(summary) == {
        "answer", "stop_reason", "detail", "trajectory", "files", "verdicts", "usage", "seconds",
    }  # fmt: skip
    assert summary["answer"] == "42"
    copied = next(path for path in summary["files"] if path.endswith("copy.txt"))
    assert Path(copied).read_text() == "42\n"
    assert Path(summary["trajectory"]).is_file()


def test_the_task_can_come_from_stdin(script, tmp_path) -> None:
    model = script(call("submit", answer="x"))
    done = lis("run", "-", "-m", model, "--out", tmp_path, "--json", stdin='say "x" for $5\n')
    path = json.loads(done.stdout)["trajectory"]
    assert 'say "x" for $5' in json.dumps(json.loads(Path(path).read_text())).replace('\\"', '"')


def test_lines_without_a_terminal_and_no_escapes_of_the_sandbox(script, tmp_path) -> None:
    model = script(
        call("execute_bash", command=r"printf '\033]0;evil\007\033[31mred\033[0m\n'; exit 3"),
        call("submit", answer="done\x1b[2J"),
    )
    done = lis("run", "t", "-m", model, "--out", tmp_path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "red" in done.stdout
    assert "answer: done" in done.stdout


def test_a_terminal_shows_the_run(script, tmp_path) -> None:
    model = script(
        {**call("execute_bash", command="echo hello"), "text": "I look."},
        call("submit", answer="7"),
    )
    parent, child = pty.openpty()
    command = [*LIS, "run", "the task", "-m", model, "--out", str(tmp_path)]
    env = {**os.environ, "COLUMNS": "90", "TERM": "xterm"}
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=env) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        assert process.wait(60) == 0
    text = CSI.sub("", shown.decode())
    for expected in ("the task", "I look.", "echo hello", "submitted", "notebook:"):
        assert expected in text


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--model", "nobody/x"], "--model"),
        (["--model", "scripted:/nowhere.json"], "nowhere.json"),
        (["--files", "/nowhere"], "--files"),
        (["--files", "{loop}"], "--files"),
        (["--extra-body", "{"], "--extra-body"),
        (["--extra-body", "[1]"], "--extra-body"),
        (["--max-turns", "0"], "--max-turns"),
        (["--timeout", "-1"], "--timeout"),
        (["--tools", "all"], "--tools"),
        (["--protocol", "smoke"], "--protocol"),
        (["--backend", "moon"], "--backend"),
        (["--price", "cheap"], "--price"),
        (["--out", "/proc/nowhere"], "--out"),
        (["--memory", "lots"], "--memory: 'lots' is no size: write e.g. 512M or 2G."),
        (["--memory", "1M"], "--memory: 1 MiB is too little. At least 64 MiB."),
        (["--disk", "0"], "--disk: 0 bytes is too little. At least 1 MiB."),
        (["--pids", "1"], "--pids"),
        (["--cpus", "nan"], "--cpus"),
        (["--cell-timeout", "0"], "--cell-timeout"),
        (["--sandbox-timeout", "inf"], "--sandbox-timeout"),
        (["--network", "some"], "--network"),
        (["--mount", "/nowhere:/data"], "--mount: /nowhere does not exist on the host."),
        (["--root"], "--root: the backend zygote does not have it."),
        (["--runtime", "runsc"], "take backend docker or podman."),
        (["--image", "x", "--backend", "local"], "--image: the backend local does not have it."),
        (["--rootfs", "/tmp", "--backend", "podman"], "--rootfs: the backend podman"),
    ],
)
def test_bad_usage_names_the_option_and_exits_2(script, tmp_path, arguments, field) -> None:
    model = [] if "--model" in arguments else ["--model", script(call("submit", answer="1"))]
    out = [] if "--out" in arguments else ["--out", tmp_path / "runs"]
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    done = lis("run", "t", *model, *out, *(word.replace("{loop}", str(loop)) for word in arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    assert field in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("*")), "nothing was started"


def test_the_options_of_the_sandbox_reach_it(script, tmp_path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "file").write_text("of the host\n")
    command = "cat /data/file; touch /data/new; df -B1 --output=size /testbed | tail -1"
    model = script(
        call("execute_bash", command=command),
        call("execute_python", code="bytearray(300_000_000)"),
        call("submit", answer="1"),
    )
    done = lis(
        *("run", "t", "-m", model, "--out", tmp_path, "--json", "--mount", f"{given}:/data"),
        *("--memory", "200M", "--disk", "64MiB", "--pids", "40", "--cpus", "0.5"),
        *("--cell-timeout", "33", "--sandbox-timeout", "66"),
    )
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["trajectory"])
    ours = json.loads(path.read_text())["metadata"]["lis_kernel"]
    limits = {
        "memory_bytes": 200 << 20, "disk_bytes": 64 << 20, "pids": 40, "cpus": 0.5,
        "cell_seconds": 33.0, "sandbox_seconds": 66.0,
    }  # fmt: skip
    assert limits.items() <= ours["config"]["limits"].items()
    held = {name: row["limit"] for name, row in ours["sandbox"]["limits"].items()}
    assert limits.items() <= held.items()
    shown = lis("show", path).stdout
    assert "of the host" in shown
    assert "Read-only file system" in shown
    assert not (given / "new").exists()
    assert "oom" in ours["verdicts"] or "MemoryError" in shown


def test_an_empty_task_is_refused() -> None:
    done = lis("run", " ", "--model", "scripted:x")
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "replies", "reason", "code"),
    [
        (["--max-turns", "1"], [call("execute_bash", command="true")] * 3, "max_turns", 3),
        (["--max-tokens", "1"], [call("execute_bash", command="true")] * 3, "max_tokens", 3),
        (["--timeout", "2"], [call("execute_bash", command="sleep 60")], "timeout", 3),
        ([], [call("execute_bash", command="true")], "model_error", 4),
    ],
)
def test_exit_codes(script, tmp_path, arguments, replies, reason, code) -> None:
    done = lis("run", "t", "-m", script(*replies), "--out", tmp_path, "--json", *arguments)
    assert (json.loads(done.stdout)["stop_reason"], done.returncode) == (reason, code)


def test_a_sandbox_that_cannot_start_exits_5(script, tmp_path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    model = script(call("submit", answer="1"))
    done = lis("run", "t", "-m", model, "--out", tmp_path, "--json", LIS_RUNTIME_DIR=str(file))
    assert (json.loads(done.stdout)["stop_reason"], done.returncode) == ("sandbox_error", 5)


def test_the_local_backend_warns_and_works(script, tmp_path) -> None:
    model = script(
        call("execute_bash", command='echo ok > "$LIS_TESTBED/output/o.txt"; exit 0'),
        call("execute_python", code="1 + 1"),
        call("submit", answer="9"),
    )
    done = lis("run", "t", "-m", model, "--out", tmp_path, "--backend", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NO ISOLATION" in done.stdout + done.stderr


def test_show_tells_the_whole_story_and_finds_a_change(script, tmp_path) -> None:
    model = script(call("execute_bash", command="echo seen"), call("submit", answer="5"))
    path = json.loads(lis("run", "my task", "-m", model, "--out", tmp_path, "--json").stdout)[
        "trajectory"
    ]
    shown = lis("show", Path(path).parent)
    assert shown.returncode == 0
    for expected in ("my task", "echo seen", "submitted", "unchanged"):
        assert expected in shown.stdout
    Path(path).write_text(Path(path).read_text().replace("seen", "SEEN"))
    assert "CHANGED" in lis("show", path).stdout
    for name in ("nothing.ipynb", "x" * 5000):
        assert lis("show", tmp_path / name).returncode == 2


def test_show_names_what_it_cannot_show(script, tmp_path) -> None:
    ours = {"schema": 1}
    notebook = {"cells": [], "metadata": {"lis_kernel": ours}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "damaged.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "list.ipynb").write_text("[]")
    (tmp_path / "text.ipynb").write_text("a:x:b")
    for name in ("damaged", "list", "text"):
        done = lis("show", tmp_path / f"{name}.ipynb")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{name}.ipynb" in done.stderr
        assert "Traceback" not in done.stderr
        assert "❌" not in done.stderr  # rich's emoji for `:x:`
    assert "metadata is damaged" in lis("show", tmp_path / "damaged.ipynb").stderr
    lis("run", "t", "-m", script(call("submit", answer="5")), "-o", tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    assert f"such as {run}." in lis("show", tmp_path / "runs").stderr


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("<&-", 2, "TASK: it is empty"),
        ("<task >&-", 0, ""),
        ("<task 2>&-", 0, ""),
        ("<task >/dev/full", 0, ""),
        ("<task --json >/dev/full", 1, "error: the output cannot be written: No space left"),
    ],
)
def test_streams_that_are_closed_or_full(script, tmp_path, redirection, code, said) -> None:
    task = tmp_path / "task"
    task.write_text("t")
    redirection = redirection.replace("<task", f"<{task}")
    model = script(call("execute_bash", command="echo hello"), call("submit", answer="5"))
    out = tmp_path / "runs"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *LIS, "run", "-", "-m", model, "-o", out],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr
    if code != 2:
        (path,) = out.glob("*/trajectory.ipynb")
        assert json.loads(path.read_text())["metadata"]["lis_kernel"]["answer"] == "5"


def test_doctor_says_what_works() -> None:
    done = lis("doctor", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["bubblewrap"]["ok"] and rows["sandbox"]["ok"]
    assert "no network" in rows["sandbox"]["detail"]
    text = lis("doctor")
    assert "bubblewrap" in text.stdout


def test_doctor_explains_a_missing_sandbox() -> None:
    done = lis("doctor", "--json", LIS_RUNTIME_DIR="/dev/null")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["sandbox"]["ok"] is False
    assert done.returncode == 1


def test_help_is_there_for_every_command() -> None:
    for command in ([], ["run"], ["show"], ["doctor"], ["model"], ["image"]):
        done = lis(*command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout
