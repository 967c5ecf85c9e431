"""A pool hands out each sandbox once, lives through every failure, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from leftovers import left_within, processes_of

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import ConfigError, SandboxError, SandboxLost
from lis_kernel.kernel.memory import available
from lis_kernel.kernel.pool import Pool, Warm
from lis_kernel.protocols import KernelProcess
from lis_kernel.sandbox import cgroup
from lis_kernel.sandbox.bubblewrap import BubblewrapSandbox

pytestmark = pytest.mark.bwrap


class Watched(BubblewrapSandbox):
    """A real sandbox that counts how many of it start at once, and fails when it is told to."""

    starting: ClassVar[int] = 0
    most: ClassVar[int] = 0
    started: ClassVar[int] = 0
    failures: ClassVar[int] = 0

    async def start(self) -> None:
        Watched.started += 1
        Watched.starting += 1
        Watched.most = max(Watched.most, Watched.starting)
        self.say("about to start")
        try:
            if Watched.failures > 0:
                Watched.failures -= 1
                raise SandboxError("told to fail")
            await super().start()
        except BaseException:
            Watched.starting -= 1
            raise

    async def launch_kernel(self) -> KernelProcess:
        try:
            return await super().launch_kernel()
        finally:
            Watched.starting -= 1


WATCHED = SandboxConfig(backend="test_pool:Watched")
COLD = SandboxConfig(backend="bubblewrap")


@pytest.fixture(autouse=True)
def _anew(runtime: Path) -> None:
    Watched.starting = Watched.most = Watched.started = Watched.failures = 0


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def end(warm: Warm) -> None:
    await warm.session.close()
    await warm.sandbox.stop()


@asynccontextmanager
async def taken(pool: Pool) -> AsyncIterator[Warm]:
    warm = await pool.take()
    try:
        yield warm
    finally:
        await end(warm)


async def said(warm: Warm, code: str) -> str:
    result = await warm.session.execute(code)
    assert result.status == "ok", result
    return "".join(output["text"] for output in result.outputs)


# -- what it is for --------------------------------------------------------------------------


async def test_a_spare_is_handed_out_once_and_replaced(runtime: Path) -> None:
    async with Pool(1, config=COLD, starts=1) as pool:
        await until(lambda: pool.ready == 1)
        async with taken(pool) as first:
            assert first.setup_result.status == "ok"
            assert first.setup_result.execution_count == 1
            mark = "print(__import__('pathlib').Path('mark').write_text('x'))"
            assert await said(first, mark) == "1\n"
            await until(lambda: pool.ready == 1)
            async with taken(pool) as second:
                assert second.sandbox is not first.sandbox
                assert await said(second, "import os; print(os.path.exists('mark'))") == "False\n"
        await until(lambda: pool.ready == 1)
        assert len(list(runtime.iterdir())) == 1  # the spare; what was used is gone


async def test_without_spares_each_take_starts_one_and_few_start_at_once() -> None:
    async with Pool(0, config=WATCHED, starts=2) as pool:
        warms = await asyncio.gather(*(pool.take() for _ in range(8)))
        assert Watched.most == 2
        assert len({id(warm.sandbox) for warm in warms}) == 8
        assert pool.ready == 0
        await asyncio.gather(*(end(warm) for warm in warms))


async def test_forty_takes_of_a_pool_with_two_starts() -> None:
    async def use(n: int) -> str:
        async with taken(pool) as warm:
            return await said(warm, f"print({n})")

    async with Pool(2, config=WATCHED, starts=2, takes=40) as pool:
        texts = await asyncio.gather(*(use(n) for n in range(40)))
    assert texts == [f"{n}\n" for n in range(40)]
    assert (Watched.most, Watched.started) == (2, 40)


async def test_what_a_start_says_reaches_its_taker_once() -> None:
    early: list[str] = []
    async with Pool(2, config=WATCHED, starts=2) as pool:
        warm = await pool.take(early.append)
        await until(lambda: pool.ready == 2)
        late: list[str] = []
        other = await pool.take(late.append)
        assert early == late == ["about to start"]
        other.sandbox.say("later")
        assert (early, late) == (["about to start"], ["about to start", "later"])
        await asyncio.gather(end(warm), end(other))


# -- what goes wrong -------------------------------------------------------------------------


async def test_a_spare_whose_kernel_was_killed_is_replaced(runtime: Path) -> None:
    async with Pool(1, config=WATCHED) as pool:
        await until(lambda: pool.ready == 1)
        kernels = [p for p, said in processes_of(runtime).items() if "boot.json" in said]
        os.kill(max(kernels), signal.SIGKILL)
        await until(lambda: Watched.started == 2 and pool.ready == 1)
        async with taken(pool) as warm:
            assert await said(warm, "print(1)") == "1\n"
        await until(lambda: len(list(runtime.iterdir())) == pool.ready)


async def test_a_failing_start_is_one_takers_and_not_the_pools_end() -> None:
    Watched.failures = 1
    async with Pool(0, config=WATCHED, starts=1) as pool:
        outcomes = await asyncio.gather(pool.take(), pool.take(), return_exceptions=True)
        assert isinstance(outcomes[0], SandboxError) and isinstance(outcomes[1], Warm)
        await end(outcomes[1])


async def test_failing_spares_rest_and_a_taker_need_not() -> None:
    Watched.failures = 4
    async with Pool(1, config=WATCHED, starts=1) as pool:
        await until(lambda: Watched.started == 2)
        await asyncio.sleep(0.1)
        assert Watched.started == 2  # the third rests
        with pytest.raises(SandboxError, match="told to fail"):
            await pool.take()
        assert Watched.started == 3
        Watched.failures = 0
        async with taken(pool):
            pass


async def test_a_cancelled_take_keeps_its_sandbox_for_the_next(runtime: Path) -> None:
    async with Pool(1, config=WATCHED, starts=1) as pool:
        taking = [asyncio.create_task(pool.take()) for _ in range(3)]
        await asyncio.sleep(0.05)
        for task in taking:
            task.cancel()
        await asyncio.wait(taking)
        await until(lambda: pool.ready == 1)
        assert Watched.started == 1
    async with Pool(0, config=WATCHED, starts=1) as pool:
        lone = asyncio.create_task(pool.take())
        await asyncio.sleep(0.05)
        lone.cancel()
        await asyncio.wait([lone])
        await until(lambda: not list(runtime.iterdir()))


# -- its end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 0.02, 0.1, 0.2, 0.3])
async def test_a_close_during_starts_leaves_nothing(runtime: Path, seconds: float) -> None:
    async with Pool(3, config=COLD, starts=3) as pool:
        taking = asyncio.create_task(pool.take())
        await asyncio.sleep(seconds)
    outcome = (await asyncio.gather(taking, return_exceptions=True))[0]
    if isinstance(outcome, Warm):
        await end(outcome)
    else:
        assert isinstance(outcome, SandboxLost)
    assert not list(runtime.iterdir())
    with pytest.raises(SandboxLost):
        await pool.take()


async def test_a_cancelled_close_closes_all_the_same(runtime: Path) -> None:
    pool = await Pool(2, config=COLD, starts=2).__aenter__()
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(pool.aclose())
    for seconds in (0, 0.01, 0.01):  # the first one before it can be over
        await asyncio.sleep(seconds)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not list(runtime.iterdir())
    await pool.aclose()


FORGETFUL = """
import asyncio, sys
from lis_kernel.config import SandboxConfig
from lis_kernel.kernel.pool import Pool

async def main():
    config = SandboxConfig(backend="bubblewrap")
    pool = await Pool(2, config=config, starts=1).__aenter__()
    while pool.ready < 1:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    if sys.argv[1] == "stay":
        await asyncio.sleep(60)

asyncio.run(main())
"""


def groups() -> set[Path]:
    return {path for at in cgroup.layout().folders.values() for path in at.glob("lis-*")}


@pytest.mark.parametrize("how", ["leave", "leave", "leave", "stay"])
def test_a_pool_that_nobody_closes_ends_with_its_process(runtime: Path, how: str) -> None:
    before = groups()
    with subprocess.Popen([sys.executable, "-c", FORGETFUL, how], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"ready\n"
        if how == "stay":
            owner.kill()
    assert not left_within(5, runtime)
    deadline = time.monotonic() + 5
    while (list(runtime.iterdir()) or groups() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(runtime.iterdir()) and not groups() - before


# -- time and memory -------------------------------------------------------------------------


async def test_after_a_while_without_a_take_spares_are_stopped(runtime: Path) -> None:
    async with Pool(1, config=WATCHED, idle_seconds=1.5) as pool:
        await until(lambda: pool.ready == 1)
        await until(lambda: pool.ready == 0 and not list(runtime.iterdir()))
        async with taken(pool):
            await until(lambda: pool.ready == 1)
        assert Watched.started == 3


async def test_starts_wait_for_memory_but_never_for_ever() -> None:
    free = [0]
    notes: list[str] = []
    pool = Pool(0, config=WATCHED, starts=4, say=notes.append, available=lambda: free[0])
    async with pool:
        takes = [asyncio.create_task(pool.take()) for _ in range(3)]
        first = await takes[0]  # nothing of ours runs, so one always may
        await asyncio.sleep(0.5)
        assert Watched.started == 1
        assert len(notes) == 1 and "wait for memory" in notes[0]
        await end(first)  # gives back what it has: the next may
        second = await takes[1]
        assert Watched.started == 2
        free[0] = 1 << 40
        await end(await takes[2])
        await end(second)
    assert len(notes) == 1


def test_free_memory_is_the_least_of_the_machines_and_the_groups(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    (proc / "self" / "cgroup").write_text("4:memory:/job\n0::/user/job\n")
    assert available(proc, groups) == 5000 * 1024
    job = groups / "user" / "job"
    job.mkdir(parents=True)
    for name, text in (("memory.max", "max"), ("memory.current", "7"), ("memory.stat", "")):
        (job / name).write_text(text)
    assert available(proc, groups) == 5000 * 1024
    for name, text in (("max", "3000000"), ("current", "2000000"), ("stat", "inactive_file 500\n")):
        (job.parent / f"memory.{name}").write_text(text)
    assert available(proc, groups) == 1_000_500
    old = groups / "memory" / "job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("900")
    (old / "memory.usage_in_bytes").write_text("800")
    (old / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 50\n")
    assert available(proc, groups) == 150
    assert available(tmp_path / "nothing", groups) > 1 << 60


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("size", {"size": -1}),
        ("size", {"size": 1.5}),
        ("starts", {"size": 1, "starts": 0}),
        ("takes", {"size": 1, "takes": -1}),
        ("reserve_bytes", {"size": 1, "reserve_bytes": -1}),
        ("idle_seconds", {"size": 1, "idle_seconds": 0}),
        ("--backend", {"size": 1, "config": SandboxConfig(backend="bubblewarp")}),
        ("image", {"size": 1, "config": SandboxConfig(image="alpine")}),
    ],
)
def test_wrong_settings_are_named(field: str, words: dict) -> None:
    with pytest.raises(ConfigError) as error:
        Pool(**words)
    assert field in error.value.field


async def test_a_pool_serves_only_the_loop_that_began_it() -> None:
    pool = Pool(0)
    with pytest.raises(ConfigError, match="not begun"):
        await pool.take()
    with pool, pytest.raises(ConfigError, match="another event loop"):
        await pool.take()


async def test_under_a_time_limit_of_the_sandbox_none_is_started_early() -> None:
    notes: list[str] = []
    limits = Limits(sandbox_seconds=60)
    async with Pool(2, config=WATCHED, limits=limits, say=notes.append) as pool:
        await asyncio.sleep(0.05)
        assert Watched.started == 0 and "sandbox_seconds" in notes[0]
        async with taken(pool):
            assert Watched.started == 1
