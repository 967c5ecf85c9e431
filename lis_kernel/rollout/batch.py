"""Many runs in one event loop: tasks in, rollouts out, in the same order.

Floor 4, above `agent/loop.py`, which carries out each; called by `lis.run_many`. A rollout that
fails is a result like any other and cancels no sibling. Sandboxes come from a pool, so that a
thousand tasks on a small machine wait for their turn instead of bringing it down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lis_kernel.agent import Agent
from lis_kernel.agent.events import Event
from lis_kernel.config import RunConfig
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.pool import Pool, default_starts
from lis_kernel.kernel.setup import Kind
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import Task

__all__ = ["Batch", "Rollout"]


@dataclass(frozen=True)
class Rollout:
    """What became of one task: its trajectory, or why there is none."""

    task: Task
    trajectory: Trajectory | None = None
    """Whatever its stop reason; also of a run that the model or the sandbox failed."""
    error: Exception | None = None
    """E.g. a file that does not exist; None too if the batch was stopped before this began."""

    @property
    def answer(self) -> str | None:
        """What the run handed over, submitted or not; see `Trajectory.stop_reason`."""
        return None if self.trajectory is None else self.trajectory.answer


class Batch:
    """Runs of many tasks with the same settings.

    Args:
        config: of every run.
        out: folder under which each run gets a folder of its own.
        concurrency: most runs at a time.
        pool: where they take their sandboxes; None makes one for this batch.
        on_event: told what happens, with the task's place in the batch first.

    Raises:
        ConfigError: a setting is wrong, or the pool's sandboxes are not what `config` asks for.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        out: Path | str = "runs",
        concurrency: int = 8,
        pool: Pool | None = None,
        on_event: Callable[[int, Event], None] = lambda *_: None,
    ) -> None:
        if type(concurrency) is not int or concurrency < 1:
            raise ConfigError("concurrency", f"{concurrency!r} is no number of runs.", "1 or more.")
        if pool is not None:
            pool.kind.fit(Kind(config.sandbox, config.limits))
        self.config = config
        self.out = Path(out)
        self.concurrency = concurrency
        self._pool = pool
        self._on_event = on_event
        self._running: set[Agent] = set()
        self._stopped = False

    def stop(self) -> None:
        """End soon: what runs ends with `interrupted`, what has not begun does not begin.

        Call it from the batch's own event loop.
        """
        self._stopped = True
        for agent in self._running:
            agent.stop()

    async def arun(self, tasks: Sequence[Task]) -> list[Rollout]:
        """Run all of `tasks`; their rollouts, in the same order.

        Raises:
            CancelledError: the caller gave up; every notebook is closed, and every sandbox gone.
        """
        done = [Rollout(task) for task in tasks]
        left = iter(enumerate(tasks))
        async with AsyncExitStack() as stack:
            if (pool := self._pool) is None:
                pool = self._own_pool(len(tasks))
                await stack.enter_async_context(pool)
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.concurrency, len(tasks))):
                    workers.create_task(self._work(left, done, pool))
        return done

    def _own_pool(self, tasks: int) -> Pool:
        starts = default_starts()
        return Pool(
            min(starts, self.concurrency),
            config=self.config.sandbox,
            limits=self.config.limits,
            starts=starts,
            takes=tasks,
        )

    async def _work(
        self, left: Iterator[tuple[int, Task]], done: list[Rollout], pool: Pool
    ) -> None:
        """One worker: task after task until none is left."""
        for n, task in left:
            if self._stopped:
                return
            agent = Agent(self.config, out=self.out, on_event=partial(self._on_event, n), pool=pool)
            self._running.add(agent)
            try:
                done[n] = Rollout(task, trajectory=await agent.arun(task))
            except Exception as error:
                done[n] = Rollout(task, error=error)
            finally:
                self._running.discard(agent)
