"""Does scripted rollouts, so many at once, in a process of its own: `BACKEND TOGETHER` as words.

A line on stdin is a number of rollouts; the answer is a line of JSON, {"seconds", "slowest"} or
{"error"}. The first line, unasked, comes when one rollout has warmed everything up. Sandboxes
come from a pool of this process's own. Also the soak's engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import traceback
from pathlib import Path
from time import perf_counter
from typing import Any

import workload
from ours import pool_of, rollout

TURNS = 6
POOL = 4


class Crew:
    """`together` rollouts at once of one backend; an async context manager."""

    def __init__(self, backend: str, together: int) -> None:
        self.backend = backend
        self.together = together
        self.script = workload.script(TURNS)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Crew:
        folder = tempfile.TemporaryDirectory(prefix="lis-bench-")
        self.out = Path(self._stack.enter_context(folder))
        pool = pool_of(self.backend, min(POOL, self.together))
        self._pool = await self._stack.enter_async_context(pool)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def one(self) -> float:
        """Milliseconds of a rollout; its notebook is checked, and then removed."""
        with tempfile.TemporaryDirectory(dir=self.out) as folder:
            found = await rollout(self.backend, self.script, Path(folder), self._pool)
        return found["total"]

    async def do(self, rollouts: int) -> list[float]:
        """Milliseconds of each of so many."""
        left = iter(range(rollouts))
        times: list[float] = []

        async def member() -> None:
            for _ in left:
                times.append(await self.one())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.together, rollouts)):
                group.create_task(member())
        return times


async def main(backend: str, together: int) -> None:
    async with Crew(backend, together) as crew:
        try:
            await crew.one()
            reply: dict[str, Any] = {}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                began = perf_counter()
                times = await crew.do(int(line))
                reply = {"seconds": perf_counter() - began, "slowest": max(times)}
            except Exception:
                reply = {"error": traceback.format_exc()}
            print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
