"""Exhaustion, kernel channel, files out, persistence: on real sandboxes, and how they judge."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from lis_kernel.attacks import attack, exhaustion, persistence
from lis_kernel.attacks.ground import Ground, Outcome, judged, together
from lis_kernel.attacks.hands import Taken, hands
from lis_kernel.attacks.inside import driver
from lis_kernel.attacks.measure import Peak
from lis_kernel.attacks.readers import Cell, faults

NOT_EVERYWHERE = {
    "lock_memory",
    "raise_the_limits",
    "run_in_real_time",
    "leave_a_core_dump",
    "burn_the_processor",
    "read_a_device",
}
"""Canaries that only root with all capabilities, or not every host, can show."""
NAMES = {
    "exhaustion": {"fork_like_a_bomb", "start_ten_thousand_threads", "stop_itself", "fill_home"},
    "kernel channel": {"send_endless_parts", "end_in_name_only", "be_trusted", "never_answer"},
    "files out": {
        "take_a_hundred_thousand_files",
        "swap_a_file_for_a_link",
        "put_over_a_linked_file",
    },
    "persistence": {"leave_one_that_forks_on", "start_one_at_the_end", "leave_a_system_v_segment"},
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(b, marks=getattr(pytest.mark, m))
        for b, m in (("bubblewrap", "bwrap"), ("docker", "docker"))
    ],
)
@pytest.mark.parametrize(
    ("family", "least"),
    [("exhaustion", 33), ("kernel channel", 32), ("files out", 29), ("persistence", 20)],
)
async def test_nothing_gets_through(backend: str, family: str, least: int) -> None:
    findings = await attack(backend, families=[family])
    assert [f for f in findings if not f.good] == []
    assert {f.name for f in findings if not f.live} <= NOT_EVERYWHERE
    unheld = {exhaustion.IN_ITS_OWN, *exhaustion.OF_ALL}  # where there are no control groups
    assert {f.name for f in findings if f.result == "skipped"} <= unheld
    names = [f.name for f in findings]
    assert len(set(names)) == len(names) >= least
    assert set(names) >= NAMES[family]


@pytest.mark.bwrap
async def test_what_is_stopped_without_its_verdict_proves_nothing() -> None:
    async with Ground("bubblewrap") as ground:
        box = await ground.shared()
        stopped = Outcome("blocked", "stopped after 79 processes by EAGAIN", "limit on processes")
        named = exhaustion._named(stopped, "pids", "pids", box)
        assert (named.result, named.wall) == ("blocked", "limit on processes, verdict pids")
        held = box.facts["limits"]["pids"]["held_by"]
        unnamed = exhaustion._named(stopped, None, "pids", box)
        assert unnamed.result == ("broken" if "rlimit" not in str(held) else "blocked")


async def test_the_hosts_own_growth_is_seen() -> None:
    with Peak() as peak:
        piece = b"x" * (64 << 20)
    assert peak.grown > 60 << 20
    del piece
    with Peak() as peak:
        time.sleep(0.02)
    assert peak.grown < 8 << 20


def test_a_record_is_a_notebook_or_it_is_not() -> None:
    text = {"output_type": "stream", "name": "stdout", "text": "x"}
    assert faults(Cell([text], execution_count=1)) == ""
    assert "broke" in faults(Cell([text], broken="KeyError"))
    for wrong in ({"text": "\ud800"}, {"text": float("nan")}, {"name": 5}):
        assert "no valid notebook" in faults(Cell([{**text, **wrong}]))
    assert "no valid notebook" in faults(Cell([text], execution_count="one"))
    assert isinstance(nbformat.current_nbformat, int)


def test_a_breach_is_told_by_what_was_seen() -> None:
    assert judged("the secret lies in 'a'", "1 file", "a wall") == Outcome(
        "breached", "the secret lies in 'a'"
    )
    assert judged(True, "1 file", "a wall") == Outcome("breached", "1 file")
    assert judged("", "1 file", "a wall") == Outcome("blocked", "1 file", "a wall")


async def test_a_stolen_secret_and_a_mark_are_found(tmp_path: Path) -> None:
    async with Ground("local", canary=True) as ground:
        box = await ground.shared()
        at = hands(ground, box)
        await at.fresh()
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "a").write_text(f"-- {ground.word}")
        (tmp_path / "b").write_text("nothing")
        (tmp_path / "b").chmod(0o4755)
        taken = Taken()
        at._look(tmp_path, taken)
        assert taken.stolen == "the secret lies in 'deep/a'"
        assert 0o4755 in taken.modes
        assert at.marked("m") == ""
        (at.marks / "m").touch()
        assert "the host wrote" in at.marked("m")
        assert at.marked("m") == "", "it is taken away"


def test_what_lives_under_our_word_is_seen_and_ended() -> None:
    ground = Ground("local", canary=True)
    mark = f"{ground.word}-leave_a_daemon"
    process = subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(60)", mark])
    try:
        deadline = time.monotonic() + 5
        while not (found := persistence._living(ground.word)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found == {"leave_a_daemon": f"process {process.pid} lives"}
        persistence._tidy(ground)
        assert process.wait(5) == -9
        assert persistence._living(ground.word) == {}
    finally:
        process.kill()
        process.wait()


async def test_works_together_end_with_the_first_that_fails() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("waits")

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await together(waits(), fails())
    assert ended == ["waits"]

    async def one() -> int:
        return 1

    assert await together(one(), one()) == [1, 1]


@pytest.mark.parametrize(
    ("got", "number", "outcome"), [(5, 0, "got"), (3, 11, "refused"), (3, 0, "broken")]
)
def test_what_an_attempt_took_is_counted_outside_of_it(got: int, number: int, outcome: str) -> None:
    from lis_kernel.attacks.inside.taking import take

    def function(one: object) -> None:
        for _ in range(got):
            one()  # type: ignore[operator]
        if number:
            raise OSError(number, os.strerror(number))

    report = driver.in_child(lambda facts: take("things", 5, function), {})
    assert report["outcome"] == outcome
    assert str(got) in report["evidence"]
