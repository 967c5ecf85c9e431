"""The row of one idle sandbox's memory, everything of ours counted.

The value is PSS per sandbox: its kernel, init, jail and keeper, whatever it has of them, and its
part of what it shares with the zygote. Beside it each kind alone, and MemAvailable, which counts
the Linux kernel's own structures too, but also what else the machine does meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from statistics import median

import processes
import rivals
from harness import Contender, Row, interleave
from ours import Settings, end, start

NAMES = ("memory_idle_mb",)
EACH, EACH_RIVAL = 32, 8
"""Sandboxes of one contender; among few, a zygote's shared pages would count for more in each."""
SETTLE_SECONDS = 0.5


def several(backend: str, count: int) -> Contender:
    async def contender() -> dict[str, float]:
        sessions = [await start(backend)]  # a zygote is there before anything is counted
        known = {one.pid for one in processes.descendants()}
        free = processes.available_mb()
        try:
            for _ in range(count):
                sessions.append(await start(backend))
            await asyncio.sleep(SETTLE_SECONDS)
            new = [one for one in processes.descendants() if one.pid not in known]
            kinds = processes.pss_by_kind(new)
            taken = free - processes.available_mb()
        finally:
            await asyncio.gather(*map(end, sessions))
        return {
            "all": sum(kinds.values()) / count,
            **{kind: value / count for kind, value in kinds.items()},
            "available": taken / count,
            "processes": len(new) / count,
        }

    return contender


def several_plain(count: int) -> Contender:
    async def contender() -> dict[str, float]:
        free = processes.available_mb()
        kernels = [rivals.Plain() for _ in range(count)]
        try:
            for kernel in kernels:
                await kernel.__aenter__()
            await asyncio.sleep(SETTLE_SECONDS)
            total = sum(processes.pss_mb(kernel.pid) for kernel in kernels)
            taken = free - processes.available_mb()
        finally:
            for kernel in kernels:
                await kernel.__aexit__()
        return {"all": total / count, "available": taken / count}

    return contender


def several_containers(count: int) -> Contender:
    async def contender() -> dict[str, float]:
        free = processes.available_mb()
        kernels = [rivals.Container() for _ in range(count)]
        try:
            for kernel in kernels:
                await kernel.__aenter__()
            await asyncio.sleep(SETTLE_SECONDS)
            pids = [pid for kernel in kernels for pid in await kernel.pids()]
            total = sum(map(processes.pss_mb, pids))
            taken = free - processes.available_mb()
        finally:
            for kernel in kernels:
                await kernel.__aexit__()
        return {"all": total / count, "available": taken / count}

    return contender


async def measure(names: Collection[str], settings: Settings) -> list[Row]:
    row = Row("memory_idle_mb", "MB", [])
    each, each_rival = (2, 2) if settings.quick else (EACH, EACH_RIVAL)
    contenders: dict[str, Contender] = {
        "ours": several(settings.backend, each),
        "plain": several_plain(each_rival),
    }
    if settings.docker and (reason := rivals.no_docker()):
        row.notes.append(f"no rival in a container: {reason}")
    elif settings.docker:
        contenders["docker"] = several_containers(each_rival)
    rounds = 1 if settings.quick else settings.rounds(3)
    samples = await interleave(contenders, rounds, warm_up=False)
    row.values, row.rivals = samples.of("ours", "all"), samples.rivals("all")
    for measure, values in samples.values["ours"].items():
        if measure != "all":
            name = "processes" if measure == "processes" else f"{measure}_mb"
            row.also[name] = median(values)
    for rival in row.rivals:
        row.also[f"{rival}_available_mb"] = median(samples.of(rival, "available"))
    return [row]
