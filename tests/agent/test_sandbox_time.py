"""A run whose sandbox's time is over: lost, with the verdict named, whoever ended the sandbox."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from leftovers import processes_of
from story import bash, cells, reply, submit, tell

from lis_kernel.agent import events
from lis_kernel.trajectory.notebook import KEY
from lis_kernel.types import StopReason

pytestmark = pytest.mark.bwrap

SECONDS = 3.0


@pytest.mark.parametrize("blocked", [False, True], ids=["by its owner", "by its keeper"])
async def test_the_run_is_lost_and_says_why(tmp_path: Path, runtime: Path, blocked: bool) -> None:
    left: dict[int, str] = {}

    def on_event(event: events.Event) -> None:
        if blocked and isinstance(event, events.CallOutput) and "now" in str(event.content):
            time.sleep(SECONDS + 2)  # the owner's loop stands still: only the keeper can act
            left.update(processes_of(runtime.name))

    run, _ = await tell(
        tmp_path,
        reply(bash("echo 42 > /testbed/output/answer.txt; echo now; sleep 60")),
        reply(submit("42")),
        limits={"sandbox_seconds": SECONDS},
        on_event=on_event,
    )
    assert run.stop_reason is StopReason.SANDBOX_LOST
    assert "3 s is over (limits.sandbox_seconds)" in run.detail
    (cell,) = cells(run)
    assert cell["metadata"][KEY]["verdict"] == "timeout"
    assert cells(run, "outcome")
    assert run.notebook["metadata"][KEY]["verdicts"] == {"timeout": 1}
    if blocked:
        assert [command for command in left.values() if "keeper.sh" not in command] == []
