"""The server's end is not the agent's: what it started goes on, and is found again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from run_server import Server

from lis_kernel.trajectory import load

pytestmark = pytest.mark.bwrap


OPTIONS = ("--LisServer.runs_dir=kept/here", "--LisServer.keep_alive=0.3")


def test_a_restart_does_not_end_a_run(runtime: Path, script: Any, tmp_path: Path) -> None:
    waits = {"name": "execute_bash", "arguments": {"command": "sleep 1; echo waited"}}
    submit = {"name": "submit", "arguments": {"answer": "42"}}
    model = script(*[{"tool_calls": [waits]}] * 8, {"tool_calls": [submit]})

    first = Server(tmp_path, *OPTIONS)
    name = first.start(task="Outlive it.", model=model)
    pid = first.becomes(name, "running")["pid"]
    seen: list[str] = []

    def follow() -> None:
        for event in first.events(name):
            seen.append(event["event"])

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    while "call_started" not in seen:
        follower.join(0.1)
    first.end()  # with a stream open
    follower.join(30)
    assert not follower.is_alive()
    assert "end" not in seen
    assert Path(f"/proc/{pid}").exists(), "the run went with the server"
    assert first.comments > 0
    kept = first.root / "kept" / "here" / name
    then = load(kept / "trajectory.ipynb")
    assert then.stop_reason is None

    second = Server(tmp_path, *OPTIONS)
    try:
        run = second.becomes(name, "submitted")
        assert (run["answer"], run["turns"]) == ("42", 9)
        assert len(then.turns) < 9
        log = (kept / "run.log").read_text()
        assert log.count("waited") == 16  # each as source and as output
    finally:
        second.stop()
