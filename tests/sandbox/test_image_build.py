"""The first build of the sandbox's environment, by real pip into an empty data folder.

It can be stopped at any moment, by Ctrl-C in `lis run` as well, and then has left nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from lis_kernel.errors import SandboxUnavailable
from lis_kernel.sandbox import image, image_build
from lis_kernel.trajectory import load
from lis_kernel.types import StopReason

pytestmark = pytest.mark.bwrap

PROMPT = 10.0
"""Seconds until an interrupted build is over, on a busy machine; a whole one takes longer."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder whose path is too long for the first line of a script."""
    folder = tmp_path / ("a long name, " * 10)
    monkeypatch.setenv("LIS_DATA_DIR", str(folder))
    return folder


def left(data: Path) -> list[str]:
    """What stands beside the lock, and the programs that still work on it."""
    entries = [path.name for path in (data / "images").glob("*") if path.suffix != ".lock"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(data) in command:
            entries.append(command.decode("utf-8", "replace"))
    return entries


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0, 4.0])
async def test_a_cancelled_build_ends_at_once_and_leaves_nothing(data: Path, delay: float) -> None:
    building = asyncio.create_task(image_build.prepare())
    await asyncio.sleep(delay)
    building.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert time.monotonic() - started < PROMPT
    assert left(data) == []
    assert image.find() is None


async def test_waiting_for_another_builder_can_be_cancelled(data: Path) -> None:
    place = image.place()
    place.parent.mkdir(parents=True)
    said: list[str] = []
    with FileLock(place.with_name(f"{place.name}.lock")):
        building = asyncio.create_task(image_build.prepare(said.append))
        await asyncio.sleep(1)
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
    assert [line for line in said if "another process" in line] == said != []


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIS_DATA_DIR", "/proc/nowhere")
    with pytest.raises(SandboxUnavailable, match=r"/proc/nowhere.*LIS_DATA_DIR"):
        image_build.build()


async def lis_run(home: Path) -> asyncio.subprocess.Process:
    script = home / "script.json"
    call = {"name": "execute_bash", "arguments": {"command": "f2py -v"}}
    done = {"name": "submit", "arguments": {"answer": "42"}}
    script.write_text(json.dumps([{"text": "", "tool_calls": [call]}, {"tool_calls": [done]}]))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lis_kernel", "run", "Wait.", "--model", f"scripted:{script}"),
        *("--out", str(home / "runs")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_ctrl_c_in_the_first_run_and_then_a_second_run(data: Path, tmp_path: Path) -> None:
    first = await lis_run(tmp_path)
    assert first.stdout is not None
    async for line in first.stdout:
        if b"packages found" in line:
            break
    await asyncio.sleep(0.5)
    pressed = time.monotonic()
    first.send_signal(signal.SIGINT)
    said, _ = await first.communicate()
    assert (first.returncode, b"Traceback" in said) == (130, False), said
    assert time.monotonic() - pressed < PROMPT
    assert left(data) == []
    (notebook,) = tmp_path.glob("runs/*/trajectory.ipynb")
    assert load(notebook).stop_reason is StopReason.INTERRUPTED

    killed = image.place().with_name(f"{image.place().name}.left.partial")
    killed.mkdir()
    second = await lis_run(tmp_path)
    said, _ = await second.communicate()
    assert second.returncode == 0, said
    assert b"packages found" in said
    assert left(data) == [image.place().name]
    ran = load(max(tmp_path.glob("runs/*/trajectory.ipynb"))).turns[0].calls[0]
    assert ran.status == "ok", ran
    for script in (image.place() / "bin").iterdir():
        if not script.is_symlink() and script.read_bytes().startswith(b"#!"):
            assert os.fsencode(data) not in script.read_bytes()[:4096], script
