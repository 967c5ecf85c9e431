"""A run in a pool's sandbox is, but for times and ids, the run in one of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from story import CheckedModel, bash, check_notebook, python, reply, submit

from lis_kernel.agent import Agent, events
from lis_kernel.config import Limits, ModelConfig, RunConfig, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.pool import Pool
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import StopReason, Task

pytestmark = pytest.mark.bwrap

COLD = SandboxConfig(backend="bubblewrap")
STORY = [
    reply(bash("cat input/given.txt; ls -la /testbed | wc -l; cd /tmp"), text="I look."),
    reply(python("x = 6 * 7\nx")),
    reply(bash("pwd; false")),
    reply(python("1 / 0")),
    reply(bash(f"echo made > /testbed/output/made.txt; seq {100_000}")),
    reply(submit("42"), text="Done."),
]


async def run(tmp_path: Path, pool: Pool | None, seen: Callable[[Any], None]) -> Trajectory:
    given = tmp_path / "given.txt"
    given.write_text("GIVEN\n")
    config = RunConfig(model=ModelConfig(name="scripted:replies"), sandbox=COLD)
    model = CheckedModel.from_replies(STORY)
    agent = Agent(config, out=tmp_path / "runs", model=model, on_event=seen, pool=pool)
    trajectory = await agent.arun(Task(prompt="Do it.", files=(given,)))
    check_notebook(trajectory.path, trajectory)
    return trajectory


def timeless(trajectory: Trajectory) -> Any:
    """The notebook without what differs from run to run: times, hashes, uids and pids."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            varying = ("seconds", "created", "hash", "head", "host_uid", "observation_sha256")
            return {k: strip(v) for k, v in value.items() if k not in varying}
        if isinstance(value, list):
            return [strip(item) for item in value]
        return value

    text = json.dumps(strip(trajectory.notebook), sort_keys=True)
    return json.loads(re.sub(r"\d+\.\d s\b|lis-[0-9a-f]{8}|\b[0-9a-f]{8}\b", "-", text))


async def test_a_run_in_a_pools_sandbox_is_recorded_as_any_other(tmp_path: Path) -> None:
    plain: list[events.Event] = []
    pooled: list[events.Event] = []
    async with Pool(1, config=COLD, takes=2) as pool:
        first = await run(tmp_path, pool, pooled.append)
        second = await run(tmp_path, pool, lambda _: None)
    own = await run(tmp_path, None, plain.append)
    assert first.stop_reason is StopReason.SUBMITTED and first.answer == "42"
    assert timeless(first) == timeless(own) == timeless(second)
    assert [type(e) for e in pooled if type(e) is not events.CallOutput] == [
        type(e) for e in plain if type(e) is not events.CallOutput
    ]
    assert first.metadata["sandbox"]["limits"].keys() == own.metadata["sandbox"]["limits"].keys()


@pytest.mark.parametrize(
    ("config", "limits", "name"),
    [
        (SandboxConfig(backend="bubblewrap", network="open"), Limits(), "sandbox.network"),
        (COLD, Limits(pids=100), "limits.pids"),
    ],
)
def test_a_pool_of_another_kind_is_refused(
    config: SandboxConfig, limits: Limits, name: str
) -> None:
    asked = RunConfig(model=ModelConfig(name="scripted:x"), sandbox=COLD)
    with pytest.raises(ConfigError, match=name):
        Agent(asked, pool=Pool(0, config=config, limits=limits))
    caps = Pool(0, config=COLD, caps={"spill_lines": 1})
    with pytest.raises(ConfigError, match="output caps"):
        Agent(asked, pool=caps)
    with pytest.raises(ConfigError, match="the setup cell"):
        Agent(asked, pool=Pool(0, config=COLD, setup="pass"))


async def test_a_closed_pool_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    pool = Pool(0, config=COLD)
    async with pool:
        pass
    trajectory = await run(tmp_path, pool, lambda _: None)
    assert trajectory.stop_reason is StopReason.SANDBOX_ERROR
    assert "the pool is closed" in trajectory.detail
