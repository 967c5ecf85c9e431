"""A limit that a cell ran into is seen by everybody: model, notebook, `lis show`, view, --json."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from test_cli import CSI, LIS, call, lis

pytestmark = pytest.mark.bwrap

SHOWN = {
    "oom": (
        call("execute_python", code="x = bytearray(800_000_000)"),
        ["--memory", "200M"],
        "the memory limit of 200 MiB was reached and a process was killed; "
        "the kernel was restarted",
        "The sandbox's memory limit of 200 MiB was reached",
    ),
    "disk_full": (
        call("execute_bash", command="head -c 200M /dev/zero > /testbed/big"),
        ["--disk", "32M"],
        "the disk limit of 32 MiB is reached",
        "The sandbox's disk limit of 32 MiB is reached: delete files",
    ),
    "pids": (
        call("execute_bash", command="for i in $(seq 99); do sleep 9 & done; kill $(jobs -p)"),
        ["--pids", "40"],
        "the limit of 40 processes and threads was reached",
        "The sandbox's limit of 40 processes and threads was reached",
    ),
    "timeout": (
        call("execute_bash", command="sleep 60"),
        ["--cell-timeout", "1"],
        "the time limit of 1 s was reached",
        "[timed out after 1 s: the cell was stopped",
    ),
    "killed": (
        call("execute_python", code="import os; os.kill(os.getpid(), 9)"),
        [],
        "the kernel was killed by a signal; the kernel was restarted",
        "The kernel was killed by a signal (SIGKILL).",
    ),
}


@pytest.mark.parametrize("verdict", SHOWN)
def test_a_breached_limit_is_seen_by_everybody(tmp_path: Path, verdict: str) -> None:
    breach, options, for_people, for_the_model = SHOWN[verdict]
    room = call("execute_bash", command="rm -f /testbed/big")  # or there is none for the answer
    script = tmp_path / "script.json"
    script.write_text(json.dumps([breach, room, call("submit", answer="on it went")]))
    command = ["run", "t", "-m", f"scripted:{script}", "--out", str(tmp_path / "runs"), *options]

    shown = flat(in_a_terminal(command))
    assert for_people in shown
    assert f"limits reached: {verdict} 1×" in shown

    done = lis(*command, "--json")
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["answer"]) == (0, "on it went"), done.stderr
    assert summary["verdicts"] == {verdict: 1}

    path = Path(summary["trajectory"])
    read = flat(lis("show", path).stdout)
    assert for_people in read
    assert f"limits {verdict} 1×" in read

    cells = json.loads(path.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert f"{for_people[0].upper()}{for_people[1:]}." in sources
    assert f"Limits reached: {verdict} 1×." in sources[-1]
    observation = told(path, breach)
    assert for_the_model in observation
    cell = next(cell for cell in cells if cell["metadata"]["lis_kernel"].get("verdict"))
    hashed = hashlib.sha256(observation.encode()).hexdigest()
    assert cell["metadata"]["lis_kernel"]["observation_sha256"] == hashed, "this it was told"


def told(path: Path, breach: dict) -> str:
    """What the model was told of the first call: made again from the notebook's outputs."""
    from lis_kernel.tools.toolset import toolset
    from lis_kernel.trajectory import load
    from lis_kernel.types import CellResult

    made = load(path).turns[0].calls[0]
    result = CellResult.model_validate(
        {name: getattr(made, name) for name in ("outputs", "status", "verdict", "limit")}
        | {"restarted": made.restarted}
    )
    return toolset("notebook")[breach["tool_calls"][0]["name"]].to_observation(result).text


def in_a_terminal(command: list[str]) -> str:
    """What a person sees of it, 200 columns wide."""
    parent, child = pty.openpty()
    env = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    with subprocess.Popen(
        [*LIS, *command], stdin=child, stdout=child, stderr=child, env=env
    ) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                shown += os.read(parent, 65536)
            except OSError:
                break
        assert process.wait(60) == 0, shown.decode()
    os.close(parent)
    return CSI.sub("", shown.decode())


def flat(text: str) -> str:
    return re.sub(r"[\s│]+", " ", text)
