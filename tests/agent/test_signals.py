"""Signals to the real command `lis run`: Ctrl-C once and twice, SIGTERM, SIGHUP, and a closed pipe.

Each leaves a valid notebook, no process and no sandbox folder; an interrupt is the exit code 130.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from leftovers import left_within
from story import bash, check_notebook, python, reply, submit

from lis_kernel.sandbox.state import StateDir
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import StopReason

pytestmark = pytest.mark.bwrap

STUBBORN = (
    "while True:\n    try:\n        import time; print('begun', flush=True); time.sleep(60)\n"
    "    except KeyboardInterrupt:\n        pass"
)
CELLS = {
    "bash": bash("echo 41 > output/answer.txt; sleep 600 & echo begun; sleep 60"),
    "python": python("print('begun', flush=True); import time; time.sleep(60)"),
    "stubborn": python(STUBBORN),
    "loop": bash("trap '' INT TERM; echo begun; while true; do :; done"),
}


async def lis_run(home: Path, *replies: object) -> asyncio.subprocess.Process:
    """`lis run` on a script, in a session of its own, with its lines on a pipe."""
    script = home / "script.json"
    script.write_text(json.dumps(replies))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lis_kernel", "run", "Wait.", "--model", f"scripted:{script}"),
        *("--out", str(home / "runs")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def line_with(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        if text in line.decode():
            return
    raise AssertionError(f"{text!r} was never printed: {await end_of(process)}")


async def end_of(process: asyncio.subprocess.Process) -> str:
    """Wait for the end; what was said on stderr."""
    _, said = await process.communicate()
    return said.decode()


def notebook(home: Path) -> Trajectory:
    (path,) = home.glob("runs/*/trajectory.ipynb")
    return check_notebook(path)


def check_closed(home: Path, runtime: Path) -> Trajectory:
    """The run was interrupted and took its time to close everything."""
    assert not left_within(5, runtime.name)
    assert not list(runtime.iterdir())
    read = notebook(home)
    assert read.stop_reason is StopReason.INTERRUPTED
    assert read.verify() == len(read.notebook["cells"])
    return read


@pytest.mark.parametrize(
    ("presses", "cell"),
    [*[(1, name) for name in CELLS], (2, "bash"), (2, "stubborn"), (4, "python"), (4, "loop")],
)
async def test_interrupt_in_a_cell(tmp_path: Path, runtime: Path, cell: str, presses: int) -> None:
    process = await lis_run(tmp_path, reply(CELLS[cell]), reply(submit("42")))
    await line_with(process, ">>> ")
    await asyncio.sleep(0.3)
    for _ in range(presses):
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.1)
    said = await end_of(process)
    # a press after the end of the run ends Python itself; a shell calls that 130 as well
    assert process.returncode in (130, -signal.SIGINT), said
    assert "Traceback" not in said
    read = check_closed(tmp_path, runtime)
    assert read.turns[0].calls[0].status == "interrupted"
    assert "begun" in str(read.turns[0].calls[0].outputs)
    if cell == "bash" and presses == 1:
        assert read.answer == "41"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupt_in_a_model_call(tmp_path: Path, runtime: Path, number: int) -> None:
    process = await lis_run(tmp_path, reply(bash("echo hi")), reply(submit("42"), delay=60))
    await line_with(process, "<<< ok")
    process.send_signal(number)
    said = await end_of(process)
    assert process.returncode == 130, said
    assert len(check_closed(tmp_path, runtime).turns) == 1


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.6, 0.8])
async def test_interrupt_while_it_starts(tmp_path: Path, runtime: Path, delay: float) -> None:
    """Whenever it comes, nothing is left, and there is no success."""
    process = await lis_run(tmp_path, reply(submit("42"), delay=60))
    await asyncio.sleep(delay)
    process.send_signal(signal.SIGINT)
    await end_of(process)
    assert process.returncode not in (0, None)
    assert not left_within(5, runtime.name)
    assert not list(runtime.iterdir())
    for path in tmp_path.glob("runs/*/trajectory.ipynb"):
        assert check_notebook(path).stop_reason is StopReason.INTERRUPTED


async def test_hangup(tmp_path: Path, runtime: Path) -> None:
    """The terminal was closed. Closed in order or not: no process, and a valid notebook."""
    process = await lis_run(tmp_path, reply(bash("echo hi")), reply(CELLS["bash"]))
    await line_with(process, "<<< ok")
    await line_with(process, ">>> ")
    process.send_signal(signal.SIGHUP)
    await end_of(process)
    assert process.returncode not in (0, None)
    assert not left_within(5, runtime.name)
    assert notebook(tmp_path).turns[0].calls[0].status == "ok"
    StateDir().remove()  # the next start sweeps what was left
    assert not list(runtime.iterdir())


async def test_nobody_reads_the_output(tmp_path: Path, runtime: Path) -> None:
    """`lis run … | head -1`: the run still comes to its end and its record."""
    process = await lis_run(tmp_path, reply(bash("echo hi"), delay=0.5), reply(submit("42")))
    assert process.stdout is not None
    await process.stdout.readline()
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    await process.wait()
    read = notebook(tmp_path)
    assert (read.stop_reason, read.answer) == (StopReason.SUBMITTED, "42")
    assert not list(runtime.iterdir())


@pytest.mark.parametrize("presses", [1, 2])
async def test_interrupt_of_the_python_function(
    tmp_path: Path, runtime: Path, presses: int
) -> None:
    """`lis_kernel.run` returns the trajectory after one Ctrl-C, and raises after two."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([reply(CELLS["bash"])]))
    code = (
        "import lis_kernel as lis\n"
        f"run = lis.run('Wait.', model={f'scripted:{script}'!r}, out={str(tmp_path / 'runs')!r}, "
        "on_event=lambda e: print(type(e).__name__, flush=True))\n"
        "assert run.stop_reason == 'interrupted'\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    await line_with(process, "CallOutput")
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.1)
    said = await end_of(process)
    if presses == 1:
        assert process.returncode == 0, said
    else:
        assert "KeyboardInterrupt" in said
    check_closed(tmp_path, runtime)
