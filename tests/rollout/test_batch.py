"""Many runs at a time: in order, bounded, and none is another's trouble."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lis_kernel as lis
from lis_kernel.agent import events
from lis_kernel.config import ModelConfig, RunConfig, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.rollout import Batch
from lis_kernel.types import StopReason, Task

pytestmark = pytest.mark.bwrap


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Iterator[Path]:
    """The folder of this test's sandboxes, empty again at its end."""
    folder: Path = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("LIS_RUNTIME_DIR", str(folder))
    yield folder
    assert not list(folder.iterdir())


def story(path: Path, *commands: str) -> str:
    """A scripted model's name; it submits after these shell commands."""
    calls = [("execute_bash", {"command": command}) for command in commands]
    replies = [
        {"text": "", "tool_calls": [{"name": name, "arguments": arguments}]}
        for name, arguments in [*calls, ("submit", {})]
    ]
    path.write_text(json.dumps(replies))
    return f"scripted:{path}"


ECHO = "cp /testbed/input/* /testbed/output/answer.txt"


def tasks(folder: Path, count: int) -> list[Task]:
    """Each is given its number in a file, which is its answer."""
    made = []
    for n in range(count):
        file = folder / f"{n}.txt"
        file.write_text(str(n))
        made.append(Task(prompt="Say it.", files=(file,)))
    return made


async def test_rollouts_come_in_order_and_a_bad_one_cancels_no_sibling(tmp_path: Path) -> None:
    asked = tasks(tmp_path, 7)
    asked[3] = Task(prompt="None.", files=(tmp_path / "missing",))
    running = most = 0

    def told(n: int, event: events.Event) -> None:
        nonlocal running, most
        running += type(event) is events.RunStarted
        most = max(most, running)
        running -= type(event) is events.RunEnded

    rollouts = await lis.arun_many(
        asked,
        concurrency=3,
        model=story(tmp_path / "s.json", ECHO),
        backend="bubblewrap",
        out=tmp_path / "runs",
        on_event=told,
    )
    assert [rollout.task for rollout in rollouts] == asked
    assert [r.answer for r in rollouts] == ["0", "1", "2", None, "4", "5", "6"]
    assert isinstance(rollouts[3].error, ConfigError) and rollouts[3].trajectory is None
    assert most == 3
    assert len({r.trajectory.path for r in rollouts if r.trajectory}) == 6


def test_a_pool_serves_runs_and_batches_of_the_sync_face(tmp_path: Path) -> None:
    name = story(tmp_path / "s.json", "echo 7 > /testbed/output/answer.txt")
    out = tmp_path / "runs"
    with lis.Pool(1, config=SandboxConfig(backend="bubblewrap")) as pool:
        one = lis.run("Say 7.", model=name, out=out, pool=pool)
        many = lis.run_many(["a", "b"], model=name, out=out, pool=pool, concurrency=2)
        assert [one.answer, *(r.answer for r in many)] == ["7"] * 3
        with pytest.raises(ConfigError, match=r"sandbox\.network"):
            lis.run("Say 7.", model=name, out=out, pool=pool, network="open")


async def test_a_stopped_batch_ends_what_runs_and_begins_nothing(tmp_path: Path) -> None:
    name = story(tmp_path / "s.json", "sleep 100")
    config = RunConfig(model=ModelConfig(name=name), sandbox=SandboxConfig(backend="bubblewrap"))
    begun = asyncio.Event()

    def told(n: int, event: events.Event) -> None:
        if type(event) is events.CallStarted:
            begun.set()

    batch = Batch(config, out=tmp_path / "runs", concurrency=1, on_event=told)
    work = asyncio.create_task(batch.arun([Task(prompt="Wait."), Task(prompt="Never.")]))
    await begun.wait()
    batch.stop()
    first, second = await work
    assert first.trajectory is not None
    assert first.trajectory.stop_reason is StopReason.INTERRUPTED
    assert second.trajectory is None and second.error is None


def test_wrong_settings_are_named_before_anything_starts(tmp_path: Path) -> None:
    for words, name in (
        ({"concurrency": 0}, "concurrency"),
        ({"netwrk": "none"}, "model.netwrk"),
        ({"network": "maybe"}, "network"),
    ):
        with pytest.raises(ConfigError) as error:
            lis.run_many(["x"], model="scripted:x", out=tmp_path, **words)
        assert name in error.value.field
