"""`kill -9` at 50 random moments: what had finished is in the notebook, and nothing lives on.

Several victims run at once, each with an output and a runtime folder of its own, by whose names
its processes are found on this machine (see `leftovers.processes_of`).
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from leftovers import left_within, processes_of
from story import check_notebook
from victim import digest

from lis_kernel.sandbox.state import StateDir
from lis_kernel.trajectory.notebook import KEY
from lis_kernel.types import StopReason

pytestmark = [pytest.mark.bwrap, pytest.mark.slow]

VICTIM = Path(__file__).with_name("victim.py")
MOMENTS = 50
STARTS = 12
"""How many of them fall into the start, which takes most of a short run's time."""
AT_ONCE = 4


@dataclass
class Victim:
    """One run in a process of its own."""

    home: Path
    state: Path
    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, home: Path, state: Path) -> Victim:
        home.mkdir()
        state.mkdir()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(VICTIM),
            str(home / "runs"),
            str(home / "log"),
            env={"LIS_RUNTIME_DIR": str(state), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return cls(home, state, process)

    @property
    def marker(self) -> str:
        """What stands in the mounts of each of its jailed processes."""
        return f"{self.state.parent.name}/{self.state.name}/"

    def finished(self) -> dict[str, str]:
        """The cells that the victim says it has finished: id to hash of the outputs."""
        log = self.home / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return dict(line.split() for line in lines)

    def check_notebook(self) -> int:
        """The number of finished cells that the notebook holds; at least those of the log."""
        finished = self.finished()
        notebooks = list(self.home.glob("runs/*/trajectory.ipynb"))
        if not notebooks:
            assert not finished
            return 0
        read = check_notebook(notebooks[0])
        assert read.stop_reason in (None, StopReason.SUBMITTED)
        kept = {
            cell["id"]: digest(cell["outputs"])
            for cell in read.notebook["cells"]
            if cell["metadata"][KEY]["kind"] == "call" and "hash" in cell["metadata"][KEY]
        }
        finished.pop("end", None)
        assert kept.items() >= finished.items()
        if len(finished) > 3:  # a turn of words alone is no cell that ran, and is not lost either
            assert any(c["metadata"][KEY]["kind"] == "nudge" for c in read.notebook["cells"])
        return len(kept)

    def check_nothing_lives(self) -> None:
        left = left_within(5, self.marker) | left_within(5, f"{self.home}/")
        assert not left, f"alive 5 s after the kill: {left}"

    async def check_folder_goes(self, monkeypatch: pytest.MonkeyPatch) -> bool:
        """The folder goes, at the latest with the next start; whether it did by itself."""
        deadline = time.monotonic() + 5
        while (left := list(self.state.iterdir())) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        with monkeypatch.context() as context:
            context.setenv("LIS_RUNTIME_DIR", str(self.state))
            following = StateDir()
            assert [entry.name for entry in self.state.iterdir()] == [following.name]
            following.remove()
        assert not list(self.state.iterdir())
        return not left


@pytest.mark.timeout(900)
async def test_kill_at_random_moments(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await Victim.start(tmp_path / "whole", runtime / "w")
    while len(whole.finished()) < 10:
        await asyncio.sleep(0.05)
        assert whole.process.returncode is None
    alive = processes_of(whole.marker)
    assert sum("boot.py" in command for command in alive.values()) >= 2, "the jail and the kernel"
    assert sum("sleep 600" in command for command in alive.values()) >= 1, "children of cells"
    assert await whole.process.wait() == 0
    assert whole.check_notebook() == 43
    whole.check_nothing_lives()
    assert not list(whole.state.iterdir())

    dice = random.Random(20)
    gate = asyncio.Semaphore(AT_ONCE)
    results: list[tuple[int, bool]] = []

    async def kill_one(n: int, cells: int, pause: float) -> None:
        """Kill it `pause` seconds after it finished so many cells; none: after it was started."""
        async with gate:
            victim = await Victim.start(tmp_path / f"v{n}", runtime / f"v{n}")
            while len(victim.finished()) < cells and victim.process.returncode is None:
                await asyncio.sleep(0.002)
            await asyncio.sleep(pause)
            if victim.process.returncode is None:
                victim.process.send_signal(signal.SIGKILL)
            await victim.process.wait()
            await asyncio.to_thread(victim.check_nothing_lives)
            kept = victim.check_notebook()
            results.append((kept, await victim.check_folder_goes(monkeypatch)))
            victim.state.rmdir()

    starts = [(0, dice.uniform(0, 1.0)) for _ in range(STARTS)]
    middles = [(dice.randint(1, 40), dice.uniform(0, 0.1)) for _ in range(MOMENTS - STARTS)]
    await asyncio.gather(*(kill_one(n, *moment) for n, moment in enumerate(starts + middles)))
    whole.state.rmdir()
    assert len(results) == MOMENTS
    in_the_middle = [kept for kept, _ in results if 0 < kept < 43]
    assert len(in_the_middle) >= MOMENTS // 2, "the moments miss the run"
    by_itself = sum(gone for _, gone in results)
    assert by_itself >= MOMENTS - STARTS, f"only {by_itself} folders went without a next start"
