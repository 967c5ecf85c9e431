"""What comes out of a sandbox's folder: plain files only, whatever the sandbox left there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from lis_kernel.errors import SandboxError
from lis_kernel.sandbox import state as state_module
from lis_kernel.sandbox.state import StateDir


@pytest.fixture
def state(monkeypatch, tmp_path):
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(tmp_path / "rt"))
    made = StateDir()
    yield made
    made.remove()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("the host's own")
    return path


def output(state: StateDir) -> Path:
    return state.root / "testbed" / "output"


def test_files_go_in_and_out(state, tmp_path) -> None:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a b'.txt").write_bytes(b"\x00\r\n")
    state.put(source, "/testbed/input/in")
    assert state.read("/testbed/input/in/sub/a b'.txt", 100) == b"\x00\r\n"
    (output(state) / "d").mkdir()
    (output(state) / "d" / "x").write_bytes(b"x" * 10)
    taken, refused = state.collect("/testbed/output", tmp_path / "out", 100)
    assert (taken, refused) == (["d/x"], [])
    assert (tmp_path / "out" / "d" / "x").read_bytes() == b"x" * 10


def test_nothing_but_plain_files_comes_out(state, tmp_path, secret) -> None:
    out = output(state)
    (out / "link").symlink_to(secret)
    (out / "folder").symlink_to(tmp_path)
    os.link(secret, out / "hard")
    os.mkfifo(out / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(out / "sock"))
    (out / "new\nline\x1b[31m").write_text("odd name")
    with (out / "sparse").open("wb") as file:
        file.truncate(10**12)
    taken, refused = state.collect("/testbed/output", tmp_path / "out", 1000)
    listening.close()
    assert taken == ["new\nline\x1b[31m"]
    assert len(refused) == 6
    assert all("\x1b" not in line and "\n" not in line for line in refused)
    assert "the host's own" not in "".join(
        path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )


def test_a_symlink_anywhere_on_the_way_is_not_followed(state, tmp_path, secret) -> None:
    answer = output(state) / "answer.txt"
    answer.symlink_to(secret)
    assert state.read("/testbed/output/answer.txt", 100) is None
    output(state).rename(state.root / "testbed" / "moved")
    (state.root / "testbed" / "output").symlink_to(tmp_path)
    assert state.read("/testbed/output/secret", 100) is None
    assert state.collect("/testbed/output", tmp_path / "out", 100) == ([], [])


def test_a_fifo_does_not_block(state) -> None:
    os.mkfifo(output(state) / "answer.txt")
    assert state.read("/testbed/output/answer.txt", 100) is None


def test_too_many_files_are_bounded(state, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(state_module, "MAX_FILES", 3)
    for n in range(6):
        (output(state) / str(n)).write_text("x")
    taken, refused = state.collect("/testbed/output", tmp_path / "out", 100)
    assert len(taken) == 3
    assert "more than 3 files" in refused[0]


@pytest.mark.parametrize("path", ["/etc/passwd", "/testbed/../etc/passwd", "relative", "/"])
def test_paths_outside_the_writable_folders_are_refused(state, path) -> None:
    with pytest.raises(SandboxError):
        state.read(path, 10)


def test_folders_of_the_dead_are_swept_and_of_the_living_kept(state, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lis_kernel.sandbox.state._swept", {})  # as of a process that just began
    dead = tmp_path / "rt" / "0000dead"
    (dead / "testbed").mkdir(parents=True)
    (dead / "owner").write_text("1")
    locked = dead / "testbed" / "locked"
    locked.mkdir()
    (locked / "f").write_text("x")
    locked.chmod(0)
    other = StateDir()
    assert not dead.exists()
    assert state.root.exists()
    other.remove()
    assert not other.root.exists()
    other.remove()  # twice is fine


def test_a_runtime_folder_of_somebody_else_is_refused(monkeypatch, tmp_path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(link))
    with pytest.raises(SandboxError, match="LIS_RUNTIME_DIR"):
        StateDir()
