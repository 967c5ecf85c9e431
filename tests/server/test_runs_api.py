"""Runs over REST: started, followed, held, spoken to, stopped; with a real sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_server import BASE, Server

from lis_kernel.server.starting import _refused
from lis_kernel.trajectory import load

pytestmark = pytest.mark.bwrap


def call(tool: str, delay: float = 0, **arguments: object) -> dict[str, object]:
    return {"tool_calls": [{"name": tool, "arguments": arguments}], "delay": delay}


SUBMIT = call("submit", answer="42")


def test_a_run_from_start_to_end(server: Server, script: Any) -> None:
    (server.root / "data").mkdir()
    (server.root / "data" / "in.txt").write_text("given\n")
    model = script(
        {**call("execute_bash", delay=1, command="cat /testbed/input/data/in.txt"), "text": "Hm."},
        call("execute_python", code="open('/testbed/output/b.txt', 'w').write('b')"),
        call("submit", delay=1, answer="6 letters\x1b[2J <b>"),
    )
    words = {"task": "Read -it\n$HOME", "files": ["data"], "max_turns": 9, "max_cost": 1.5}
    name = server.start(model=model, **words)
    assert server.run(name)["live"]
    events = list(server.events(name))
    names = [event["event"] for event in events]
    assert (names[0], names[-2:]) == ("status", ["run_ended", "end"])
    assert "call_finished" in names
    assert "given" in json.dumps(events)
    run = server.run(name)
    assert events[-1]["run"] == run
    assert (run["state"], run["answer"], run["live"]) == (
        "submitted",
        "6 letters\x1b[2J <b>",
        False,
    )
    assert (run["task"], run["turns"], run["model"]) == ("Read -it\n$HOME", 3, model)
    assert run["url"] == f"{BASE}lab/tree/runs/{name}/trajectory.ipynb"
    assert [file["name"] for file in run["files"]] == ["answer.txt", "b.txt"]
    assert run in server.ask("lis/api/runs").json["runs"]
    folder = server.runs / name
    assert Path(run["path"]) == folder / "trajectory.ipynb"
    read = load(run["path"])
    assert read.metadata["config"]["budget"]["turns"] == 9
    assert read.metadata["config"]["budget"]["cost_usd"] == 1.5
    assert "answer: 6 letters" in (folder / "run.log").read_text()
    assert list(server.runs.glob(".*")) == []
    assert list(server.events(name)) == [{"event": "end", "run": run}]


def test_a_run_that_is_over_at_once_has_an_id_too(server: Server, script: Any) -> None:
    started = time.monotonic()
    name = server.start(task="Be quick.", model=script(SUBMIT))
    assert server.becomes(name, "submitted")["answer"] == "42"
    assert time.monotonic() - started < 30


def test_hold_speak_and_hand_back(server: Server, script: Any) -> None:
    ask = server.ask
    name = server.start(
        task="Be held.", model=script(*[call("execute_bash", 0.3, command="echo x")] * 200)
    )
    at = f"lis/api/runs/{name}"
    server.becomes(name, "running")
    assert ask(f"{at}/pause", {}).json["state"] in ("pausing", "paused")
    held = server.becomes(name, "paused")
    said = ask(f"{at}/say", {"text": "Look for <b>duplicates</b>."})
    assert said.status == 200
    time.sleep(1)
    assert server.run(name)["turns"] == held["turns"]
    assert ask(f"{at}/resume", {}).json["state"] in ("running", "paused")
    while server.run(name)["turns"] <= held["turns"]:
        time.sleep(0.1)
    assert ask(f"{at}/stop", {}).status == 200
    ended = server.becomes(name, "interrupted")
    assert "Look for <b>duplicates</b>." in Path(ended["path"]).read_text()
    for action in ("pause", "resume", "stop", "attach", "say"):
        answer = ask(f"{at}/{action}", {"text": "x"})
        assert (answer.status, answer.message) == (409, f"the run {name} has ended: interrupted")


def test_attach_gives_a_console_and_a_notebook(server: Server, script: Any) -> None:
    model = script(*[call("execute_bash", 0.5, command="echo x")] * 200)
    name = server.start(task="Be joined.", model=model)
    server.becomes(name, "running")
    answer = server.ask(f"lis/api/runs/{name}/attach", {})
    assert answer.status == 200, answer.text
    assert json.loads(Path(answer.json["connection_file"]).read_text())["transport"] == "ipc"
    path = server.root / answer.json["notebook"]
    notebook = json.loads(path.read_text())
    assert path.name == f"attach-{name}.ipynb"
    assert notebook["metadata"]["kernelspec"]["name"] == "lis-attach"
    assert notebook["metadata"]["lis_kernel"] == {"attach": name}
    notebook["cells"][1]["source"] = "mine"
    path.write_text(json.dumps(notebook))
    again = server.ask(f"lis/api/runs/{name}/attach", {})
    assert again.json == answer.json
    assert "mine" in path.read_text(), "a notebook that people worked in stays as it is"
    session = {
        "path": answer.json["notebook"], "type": "notebook", "name": "",
        "kernel": {"name": "lis-attach"},
    }  # fmt: skip
    joined = server.ask("api/sessions", session).json["kernel"]["id"]
    before = len(server.log.read_text())
    server.ask(f"lis/api/runs/{name}/stop", {})
    server.becomes(name, "interrupted")
    deadline = time.monotonic() + 30
    while server.ask(f"api/kernels/{joined}").status != 404:  # it is dead, and no more listed
        assert time.monotonic() < deadline
        time.sleep(0.2)
    said = server.log.read_text()[before:]
    assert "Traceback" not in said and "no live run" not in said, said


def test_a_run_that_does_not_answer(server: Server, script: Any) -> None:
    name = server.start(task="Be still.", model=script(call("execute_bash", command="sleep 60")))
    pid = server.becomes(name, "running")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        run = server.run(name)
        assert (run["state"], run["live"], run["task"]) == ("silent", True, "Be still.")
    finally:
        os.kill(pid, signal.SIGCONT)
    server.ask(f"lis/api/runs/{name}/stop", {})
    server.becomes(name, "interrupted")


@pytest.mark.parametrize(
    ("words", "field", "said"),
    [
        ({}, "task", "empty"),
        ({"task": " \n"}, "task", "empty"),
        ({"task": 7}, "task", "empty"),
        ({"task": "x", "model": "nobody/x"}, "model", "unknown 'nobody'"),
        ({"task": "x", "model": ["a"]}, "model", "neither text nor a number"),
        ({"task": "x", "model": "runs.a.files.evil:Model/x"}, "model", "command line only"),
        ({"task": "x", "model": "local/runs/a/files/x.gguf"}, "model", "command line only"),
        ({"task": "x", "model": "scripted:/etc/passwd"}, "model", "not below"),
        ({"task": "x", "model": "scripted:out/passwd"}, "model", "not below"),
        ({"task": "x", "max_turns": 0}, "max_turns", "greater than 0"),
        ({"task": "x", "max_turns": True}, "max_turns", "neither text nor a number"),
        ({"task": "x", "max_turns": "abc"}, "max_turns", "'abc' is not a valid integer"),
        ({"task": "x", "max_turns": 2.5}, "max_turns", "2.5 is not a valid integer"),
        ({"task": "x", "max_tokens": 1e400}, "max_tokens", "inf is not a valid integer"),
        ({"task": "x", "cpus": "x"}, "cpus", "'x' is not a valid number"),
        ({"task": "x", "timeout": "1e400"}, "timeout", "finite"),
        ({"task": "x", "network": "a\0b"}, "network", "too long, or no text"),
        ({"task": "x", "network": "\ud800"}, "network", "too long, or no text"),
        ({"task": "x", "network": "x" * 200_000}, "network", "too long, or no text"),
        ({"task": "x", "model": "anthropic/x"}, "run", "run: No API key. Set the environment"),
        ({"task": "x", "network": "100% open"}, "network", "100% open"),
        ({"task": "x", "memory": "--root"}, "memory", "no size"),
        ({"task": "x", "backend": "local"}, "backend", "not to be had here"),
        ({"task": "x", "mount": "/:/host"}, "mount", "unknown setting"),
        ({"task": "x", "base_url": "http://x"}, "base_url", "unknown setting"),
        ({"task": "x", "files": "data"}, "files", "not a list"),
        ({"task": "x", "files": ["/etc/passwd"]}, "files", "not below"),
        ({"task": "x", "files": ["../server.log"]}, "files", "not below"),
        ({"task": "x", "files": ["out"]}, "files", "not below"),
        ({"task": "x", "files": ["a\0b"]}, "files", "not below"),
        ({"task": "x", "files": [""]}, "files", "whole root"),
        ({"task": "x", "files": [".kept"]}, "files", "hidden"),
        ({"task": "x", "files": ["holds-hidden"]}, "files", "hidden"),
        ({"task": "x", "files": ["links-hidden"]}, "files", "hidden"),
        ({"task": "x", "files": ["leads-out"]}, "files", "leads out"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_starts(
    server: Server, words: dict[str, Any], field: str, said: str
) -> None:
    if not (server.root / "out").is_symlink():
        (server.root / "out").symlink_to("/etc")
        (server.root / ".kept").write_text("mine")
        for name in ("holds-hidden", "links-hidden", "leads-out"):
            (server.root / name / "in").mkdir(parents=True)
        (server.root / "holds-hidden" / "in" / ".env").write_text("mine")
        (server.root / "links-hidden" / "in" / "plain").symlink_to(server.root / ".kept")
        (server.root / "leads-out" / "in" / "plain").symlink_to("/etc/passwd")
    before = sorted(server.runs.glob("*"))
    answer = server.ask("lis/api/runs", words)
    assert (answer.status, answer.json["field"]) == (400, field)
    assert said in answer.message
    assert sorted(server.runs.glob("*")) == before
    assert list(server.runs.glob(".*")) == []


def test_what_the_command_line_refuses_is_read_from_its_frame(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lis_kernel", "run", "-", "--cpus=x", f"--out={tmp_path}"]
    done = subprocess.run(command, input="x", capture_output=True, text=True, check=False)
    assert (done.returncode, "╰" in done.stderr) == (2, True)
    refused = _refused(done.stderr)
    assert refused.problem.startswith("Invalid value for '--cpus': ")
    assert not set("╭│╰") & set(str(refused))


def test_what_cannot_be_answered_is_explained(server: Server) -> None:
    ask = server.ask
    for body in (b"[1]", b"{", b'"x"'):
        assert ask("lis/api/runs", body).status == 400
    for name in ("nothing", "..", "%2e%2e", "..%2F..", "a%2Fb", "x" * 300, "%00"):
        for answer in (ask(f"lis/api/runs/{name}"), ask(f"lis/api/runs/{name}/stop", {})):
            assert answer.status in (403, 404), (name, answer)
        assert ask(f"lis/api/runs/{name}/events").status in (403, 404)
    assert ask("lis/api/runs/x/explode", {}).status == 404
    assert ask("lis/api/runs/x/stop").status == 405
    assert ask("lis/api/runs", {}, method="DELETE").status in (403, 405)


def test_a_damaged_notebook_is_listed(server: Server) -> None:
    folder = server.runs / "broken"
    folder.mkdir(parents=True)
    (folder / "trajectory.ipynb").write_text("[")
    (run,) = [run for run in server.ask("lis/api/runs").json["runs"] if run["id"] == "broken"]
    assert run["state"] == "damaged"
    assert "no notebook" in run["detail"]
    assert server.ask("lis/api/runs/broken/stop", {}).status == 409


def test_a_run_that_was_started_elsewhere(server: Server, script: Any, tmp_path: Path) -> None:
    model = script(*[call("execute_bash", 0.3, command="echo x")] * 200)
    command = [sys.executable, "-m", "lis_kernel", "run", "Be found.", "-m", model]
    process = subprocess.Popen([*command, "--out", str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (found := _of_process(server, process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert (found["task"], found["url"]) == ("Be found.", None)
        assert server.ask(f"lis/api/runs/{found['id']}/stop", {}).status == 200
        assert process.wait(30) == 130
        assert server.ask(f"lis/api/runs/{found['id']}").status == 404, "not in its folder"
    finally:
        process.kill()
        process.wait()


def _of_process(server: Server, pid: int) -> Any:
    runs = server.ask("lis/api/runs").json["runs"]
    return next((run for run in runs if run["pid"] == pid), None)


def test_sandboxes(server: Server, script: Any, runtime: Path) -> None:
    name = server.start(task="Have one.", model=script(call("execute_bash", command="sleep 60")))
    server.becomes(name, "running")
    rows = server.ask("lis/api/sandboxes").json["sandboxes"]
    (row,) = [row for row in rows if row["run"] == name]
    stop = f"lis/api/sandboxes/{row['id']}/stop"
    refused = server.ask(stop, {})
    assert refused.status == 409
    assert f"stop the run {name}" in refused.message
    assert server.run(name)["state"] == "running"
    server.ask(f"lis/api/runs/{name}/stop", {})
    server.becomes(name, "interrupted")
    assert server.ask(stop, {}).status == 404

    dead = runtime / "00c0ffee"  # as after a kill of its owner and of its keeper
    dead.mkdir()
    (dead / "owner").write_text("1")
    (dead / "state.json").write_text('{"backend": "bubblewrap", "owner": 1}')
    removed = server.ask("lis/api/sandboxes/00c0ffee/stop", {})
    assert (removed.status, removed.json["removed"]["alive"]) == (200, False)
    assert not dead.exists()


def test_the_base_url_is_everywhere(server: Server) -> None:
    assert BASE in server.ask("lis/runs").text
    assert server.ask("lis/api/runs").headers["Content-Security-Policy"].endswith("'none'")
