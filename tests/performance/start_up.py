"""Rows of the start: from nothing, or from a pool, to the first cell's reply.

All contenders are in one interleaved run: a pool's hand-over, a zygote's fork, a cold jail, plain
ipykernel, and a kernel in a container. The time ends with the reply to `1+1`; what comes before
the first sandbox of a process (the zygote's own start) is in `first`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from time import perf_counter

import rivals
from harness import Contender, NotHere, Row, interleave
from ours import ONE, Settings, end, full, make, ms, ok, pool_of, start

from lis_kernel.kernel.pool import Pool

NAMES = ("warm_handover", "zygote_start", "bwrap_cold")
BACKEND = {"zygote_start": "zygote", "bwrap_cold": "bubblewrap"}
POOL = 1


def cold(backend: str) -> Contender:
    async def contender() -> dict[str, float]:
        began = perf_counter()
        session = await start(backend)
        took = ms(began)
        began = perf_counter()
        await end(session)
        return {"start": took, "stop": ms(began)}

    return contender


def warm(pool: Pool) -> Contender:
    async def contender() -> dict[str, float]:
        await full(pool, POOL)
        began = perf_counter()
        session = (await pool.take()).session
        try:
            await ok(session, ONE)
            return {"start": ms(began)}
        finally:
            await end(session)
            await full(pool, POOL)

    return contender


async def plain() -> dict[str, float]:
    async with rivals.Plain() as kernel:
        return {"start": kernel.start_ms}


async def container() -> dict[str, float]:
    async with rivals.Container() as kernel:
        return {"start": kernel.start_ms}


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    rows = {name: Row(name, "ms", []) for name in NAMES if name in names}
    notes: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for name, row in rows.items():
            try:
                if name == "warm_handover":
                    pool = pool_of(settings.backend, POOL)
                    contenders[name] = warm(await stack.enter_async_context(pool))
                else:
                    make(BACKEND[name])
                    contenders[name] = cold(BACKEND[name])
            except NotHere as missing:
                row.error = str(missing)
        if contenders:
            contenders["plain"] = plain
            if not settings.docker:
                pass
            elif reason := rivals.no_docker():
                notes.append(f"no rival in a container: {reason}")
            else:
                contenders["docker"] = container
            slow = {"plain": 20, "docker": 15}
            samples = await interleave(contenders, settings.rounds(30), at_most=slow)
    for name, row in rows.items():
        if name in contenders:
            row.values = samples.of(name, "start")
            row.first = samples.first[name]["start"]
            row.rivals = {
                {"bwrap_cold": "bubblewrap", "zygote_start": "zygote"}.get(other, other): values
                for other, values in samples.rivals("start", ours=name).items()
                if other != "warm_handover"
            }
            row.notes = notes
            row.series["starts"] = {who: samples.of(who, "start") for who in contenders}
            if "stop" in samples.values[name]:
                stops = sorted(samples.of(name, "stop"))
                row.also["stop_ms"] = stops[len(stops) // 2]
    return list(rows.values())
