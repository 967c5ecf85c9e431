"""A run that goes on in the background, for tests that meddle with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from story import CheckedModel, check_notebook

from lis_kernel.agent import Agent, events
from lis_kernel.config import Budget, Limits, ModelConfig, RunConfig
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import Task


class Story:
    """A run that goes on in the background, and what has happened in it."""

    def __init__(self, out: Path, *replies: dict[str, Any], **how: Any) -> None:
        self.model = CheckedModel.from_replies(replies)
        config = RunConfig(
            model=ModelConfig(name="scripted:replies"),
            limits=Limits(grace_seconds=3.0),
            budget=Budget(**how.pop("budget", {})),
        )
        self.seen: list[events.Event] = []
        self._changed = asyncio.Event()
        self.agent = Agent(config, out=out, model=self.model, on_event=self._hear, **how)
        self.on_event: Callable[[events.Event], None] = lambda _: None
        self.run: asyncio.Task[Trajectory] | None = None

    def _hear(self, event: events.Event) -> None:
        self.seen.append(event)
        self.on_event(event)
        self._changed.set()

    def begin(self, prompt: str = "Do it.", **how: Any) -> None:
        self.run = asyncio.create_task(self.agent.arun(Task(prompt=prompt), **how))

    async def until(self, kind: type) -> Any:
        """The first event of this kind."""
        async with asyncio.timeout(30):
            while not (found := [e for e in self.seen if isinstance(e, kind)]):
                self._changed.clear()
                await self._changed.wait()
        return found[0]

    async def end(self) -> Trajectory:
        assert self.run is not None
        async with asyncio.timeout(60):
            trajectory = await self.run
        return check_notebook(trajectory.path, trajectory)


def pause_at(story: Story, kind: type) -> None:
    """Ask for a pause when the first event of this kind comes."""

    def hear(event: events.Event) -> None:
        if isinstance(event, kind):
            story.on_event = lambda _: None
            story.agent.pause()

    story.on_event = hear
