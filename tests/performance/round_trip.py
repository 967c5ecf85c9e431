"""Rows of the round trip: a cell and a shell command in a sandbox that is already there.

The rivals run the same command in a warm kernel of their own, and by `docker exec`. With `cell_rtt`
comes the plot's series "latency against concurrency": 1 to 64 sandboxes that all run `1+1` at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from statistics import median
from time import perf_counter

import rivals
from harness import Contender, Row, interleave, p95, say
from ours import ONE, SETUP, Settings, end, ms, ok, opened, start, text

NAMES = ("cell_rtt", "shell_rtt")
TOGETHER = (1, 2, 4, 8, 16, 32, 64)
SHELL = "%%bash\necho hi"
SHELL_RAW = "echo hi"
EXEC_ROUNDS = 30


def timed(call: Callable[[], Awaitable[str]], wanted: str) -> Contender:
    async def contender() -> dict[str, float]:
        began = perf_counter()
        said = await call()
        took = ms(began)
        if said.strip() != wanted:
            raise RuntimeError(f"{said!r} instead of {wanted!r}")
        return {"trip": took}

    return contender


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    rows = []
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(opened(settings.backend, setup=SETUP))
        plain = await stack.enter_async_context(rivals.Plain())
        notes, box, command = [], None, None
        if settings.docker and (reason := rivals.no_docker()):
            notes.append(f"no rival in a container: {reason}")
        elif settings.docker:
            box = await stack.enter_async_context(rivals.Container())
            command = await stack.enter_async_context(rivals.Exec())
        for name in names:
            cell = name == "cell_rtt"
            source, wanted = (ONE, "2") if cell else (SHELL, "hi")
            contenders = {
                "ours": timed(lambda s=source: _ours(session, s), wanted),
                "plain": timed(lambda s=source: plain.execute(s), wanted),
            }
            if box is not None and command is not None:
                words = "python3 -c 'print(1+1)'" if cell else SHELL_RAW
                contenders["docker"] = timed(lambda s=source: box.execute(s), wanted)
                contenders["docker exec"] = timed(lambda w=words: _exec(command, w), wanted)
            samples = await interleave(
                contenders, settings.rounds(200), at_most={"docker exec": EXEC_ROUNDS}
            )
            rows.append(
                Row(name, "ms", samples.of("ours", "trip"), samples.rivals("trip"), notes=notes)
            )
    if "cell_rtt" in names:
        together = TOGETHER[:2] if settings.quick else TOGETHER
        series = await concurrency(settings.backend, together)
        for row in rows:
            if row.name == "cell_rtt":
                row.series["concurrency"] = series
    return rows


async def _ours(session, source: str) -> str:
    return text(await ok(session, source))


async def _exec(box: rivals.Exec, command: str) -> str:
    return (await box.run(command)).decode()


async def concurrency(backend: str, together: Sequence[int]) -> dict[str, list[float]]:
    """Milliseconds of `1+1` where so many sandboxes are asked at once, and cells a second."""
    found: dict[str, list[float]] = {"sandboxes": [], "median": [], "p95": [], "cells_per_s": []}
    sessions = []
    try:
        for count in together:
            while len(sessions) < count:
                sessions.append(await start(backend))
            times: list[float] = []

            async def ask(session, times=times) -> None:
                for _ in range(5):
                    began = perf_counter()
                    await ok(session, ONE)
                    times.append(ms(began))

            began = perf_counter()
            await asyncio.gather(*map(ask, sessions))
            seconds = perf_counter() - began
            for key, value in (
                ("sandboxes", count),
                ("median", median(times)),
                ("p95", p95(times)),
                ("cells_per_s", len(times) / seconds),
            ):
                found[key].append(value)
            say(f"\r  {count} at once", end="")
        say("")
    finally:
        await asyncio.gather(*map(end, sessions))
    return found
