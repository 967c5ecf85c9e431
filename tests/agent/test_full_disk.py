"""The host's disk is full: the record ends with what was written, and the sandbox is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from story import bash, cells, reply, submit, tell

from lis_kernel.agent import events
from lis_kernel.config import SandboxConfig
from lis_kernel.errors import ConfigError, TrajectoryError
from lis_kernel.trajectory import load
from lis_kernel.types import StopReason

pytestmark = pytest.mark.bwrap


async def test_a_full_disk_ends_the_run_and_its_record_is_closed_if_room_comes_back(
    tmp_path: Path,
) -> None:
    def on_event(event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            on_event.partial = event.path.with_name(f".{event.path.name}.partial")
        if isinstance(event, events.CallOutput):
            on_event.partial.symlink_to("/dev/full")  # the failing save removes it

    run, _ = await tell(tmp_path, reply(bash("echo one")), reply(submit("42")), on_event=on_event)
    assert (run.stop_reason, run.answer) == (StopReason.SANDBOX_ERROR, None)
    assert "No space left on device" in run.detail
    assert len(cells(run)) == 1


async def test_a_disk_that_stays_full_is_said_and_the_notebook_before_it_stays(
    tmp_path: Path,
) -> None:
    seen: list[events.Event] = []

    def on_event(event: events.Event) -> None:
        seen.append(event)
        if isinstance(event, events.CallOutput):
            path = seen[0].path  # type: ignore[union-attr]
            path.with_name(f".{path.name}.partial").mkdir()

    with pytest.raises(TrajectoryError, match=r"trajectory\.ipynb cannot be written: Is a dir"):
        await tell(tmp_path, reply(bash("echo one")), reply(submit("42")), on_event=on_event)
    (path,) = tmp_path.glob("*/trajectory.ipynb")
    assert load(path).turns[0].calls[0].status == "unfinished"


async def test_files_that_cannot_fit_are_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b"):
        with (folder / name).open("wb") as file:
            file.truncate(3 << 20)
    with pytest.raises(ConfigError, match=r"--files: they take 6 MiB.* disk has 4 MiB.*--mount"):
        await tell(
            tmp_path / "runs",
            reply(submit("42")),
            files=[folder],
            limits={"disk_bytes": 4 << 20},
        )
    assert not (tmp_path / "runs").exists()


async def test_files_that_just_do_not_fit_are_named(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(32 << 20)
    limits = {"disk_bytes": 32 << 20}
    cold = SandboxConfig(backend="bubblewrap")
    run, _ = await tell(tmp_path, reply(submit("42")), files=[big], limits=limits, sandbox=cold)
    assert run.stop_reason is StopReason.SANDBOX_ERROR
    assert "big.bin could not be put into the sandbox" in run.detail


async def test_files_that_just_fit_leave_room_for_the_kernels_own(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(32 << 20)
    run, _ = await tell(tmp_path, reply(submit("42")), files=[big], limits={"disk_bytes": 32 << 20})
    assert run.stop_reason is StopReason.SUBMITTED
