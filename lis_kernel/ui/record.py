"""A run as its events tell it, in the words of its card; grows while the run goes on.

Pure: no display, no clock but the one that it is given. Each event says which parts of a view are
no longer what they were.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from lis_kernel import cards
from lis_kernel.agent import events
from lis_kernel.config import Budget
from lis_kernel.kernel.outputs import Shown
from lis_kernel.tools.observation import befell
from lis_kernel.trajectory.card import address, shown_path, tone_of
from lis_kernel.types import CellResult, Usage

__all__ = ["Controls", "Part", "Record"]

Part = Literal["head", "steps", "files", "foot"]
ALL: frozenset[Part] = frozenset(("head", "steps", "files", "foot"))
STEPS: frozenset[Part] = frozenset(("steps",))
HEAD: frozenset[Part] = frozenset(("head",))

TEXT_CHARS = 200_000
"""Of one text, and of what one cell printed, that is kept for the view."""
OUTPUTS = 500
NOTES = 50

_STATES: dict[str, tuple[str, Any]] = {
    "idle": ("starting", "active"),
    "starting": ("starting", "active"),
    "running": ("running", "active"),
    "pausing": ("pausing after this step", "warn"),
    "paused": ("paused: the sandbox is yours", "warn"),
}


class Controls(Protocol):
    """Who is at work, as `Agent` is: called on the run's event loop."""

    @property
    def state(self) -> str: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def say(self, text: str) -> None: ...

    def stop(self) -> None: ...


class Record:
    """What is known of a run.

    Args:
        budget: None takes it from the run.
        clock: seconds from some beginning.
    """

    def __init__(
        self, budget: Budget | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.run = cards.Run(state="starting", tone="active")
        self.run_id = ""
        self.path: Path | None = None
        self.begun = self.ended = False
        self.streaming: Literal["", "text", "reasoning"] = ""
        self.fetching: dict[str, events.Fetching] = {}
        self.network: dict[tuple[str, bool], int] = {}
        self.pending: list[str] = []
        """What the model will be told at its next turn."""
        self.paused = False
        self.listing: tuple[tuple[str, int], ...] = ()
        self._clock = clock
        self._budget = budget
        self._started: float | None = None
        self._paused_at: float | None = None
        self._waited = 0.0
        self._cell: cards.Call | None = None
        self._cell_since = 0.0
        self._shown = Shown()
        if budget is not None:
            self._take(budget)

    # -- what is asked of it ---------------------------------------------------------------------

    def tick(self) -> None:
        """Bring the times up to now."""
        now = self._clock()
        if self._started is not None and not self.ended:
            held = 0.0 if self._paused_at is None else now - self._paused_at
            self.run.seconds = now - self._started - self._waited - held
        if self._cell is not None:
            self._cell.seconds = now - self._cell_since

    def shows(self, state: str) -> None:
        """The agent's own state, where it is known sooner than an event can tell."""
        if self.ended or self.paused:
            return
        if state in ("starting", "pausing"):
            self.run.state, self.run.tone = _STATES[state]
        elif state == "running" and self.run.state == _STATES["pausing"][0]:
            self._working()  # the pause was taken back

    def snapshot(self) -> Record:
        """As it is now; what is still changed of it is copied, steps that are over are shared."""
        twin = copy.copy(self)
        twin.fetching, twin.network = dict(self.fetching), dict(self.network)
        twin.pending = list(self.pending)
        steps = list(self.run.steps)
        if steps:
            calls = [replace(call, outputs=list(call.outputs)) for call in steps[-1].calls]
            steps[-1] = replace(steps[-1], calls=calls, notes=list(steps[-1].notes))
        twin.run = replace(
            self.run, steps=steps, notes=list(self.run.notes), limits=dict(self.run.limits)
        )
        return twin

    def last(self) -> cards.Step:
        """The step that goes on now; one is made if there is none."""
        if not self.run.steps or self.run.steps[-1].kind != "turn":
            self.run.steps.append(cards.Step(number=self.run.turns))
        return self.run.steps[-1]

    # -- events ----------------------------------------------------------------------------------

    def feed(self, event: events.Event) -> frozenset[Part]:
        """Take one event; the parts that it changed."""
        match event:
            case events.RunStarted():
                return self._began(event)
            case events.Note(text):
                return self._noted(text)
            case events.Fetching(done, total, label):
                self.fetching[label] = event
                if done >= total:
                    del self.fetching[label]
                return HEAD
            case events.TurnStarted(turn):
                self.fetching.clear()
                self.run.turns = turn
                self.run.steps.append(cards.Step(number=turn))
                self.streaming = "text"
                self._working()
                return STEPS | HEAD
            case events.TextStreamed(channel, text):
                return self._streamed(channel, text)
            case events.ReplyFinished(reply, said, usage):
                step = self.last()
                step.text, step.reasoning = said[:TEXT_CHARS], reply.reasoning[:TEXT_CHARS]
                step.seconds, step.tokens = reply.seconds, reply.usage.total_tokens
                self.streaming = ""
                self._spent(usage)
                self._working()
                return STEPS | HEAD
            case events.CallStarted(call, source):
                self._cell_begins(cards.Call(call.name, source), self.last())
                return STEPS
            case events.CallOutput(kind, content):
                if self._cell is not None:
                    self._shown.feed(kind, content)
                    self._cell.outputs = self._shown.outputs
                return STEPS
            case events.CallFinished(result, observation, network):
                tried = [(f"{one.host}:{one.port}", one.allowed, one.reason) for one in network]
                for host, allowed, _ in tried:
                    key = (host, allowed)
                    self.network[key] = self.network.get(key, 0) + 1
                self._cell_ends(result, observation.exit_code, tried)
                self._working()
                return STEPS | HEAD | ({"foot"} if tried else frozenset())
            case events.OutputFiles(files):
                self.listing = tuple(
                    (name, length) for name, length in files if name != "answer.txt"
                )
                return frozenset(("files",))
            case _:
                return self._people(event)

    def _people(self, event: events.Event) -> frozenset[Part]:
        match event:
            case events.Paused():
                self.paused, self._paused_at = True, self._clock()
                self.run.state, self.run.tone = _STATES["paused"]
                return HEAD
            case events.Resumed():
                self._resume_clock()
                self._working()
                return HEAD
            case events.Said(text):
                self.pending.clear()
                self.run.steps.append(cards.Step(kind="message", text=text[:TEXT_CHARS]))
                return STEPS | HEAD
            case events.HumanStarted(source):
                step = cards.Step(kind="human")
                self.run.steps.append(step)
                bash = source.startswith("%%bash\n")
                tool = "execute_bash" if bash else "execute_python"
                self._cell_begins(cards.Call(tool, source), step)
                return STEPS
            case events.HumanFinished(result):
                self._cell_ends(result, None, [])
                return STEPS
            case events.RunEnded(reason, detail, answer, path):
                self.tick()
                self._resume_clock()
                self.ended, self.streaming, self._cell = True, "", None
                self.path = path
                self.run.state = str(reason).replace("_", " ")
                self.run.tone, self.run.detail = tone_of(str(reason)), detail
                self.run.answer, self.run.submitted = answer, str(reason) == "submitted"
                return ALL
            case _:
                return frozenset()

    def _began(self, event: events.RunStarted) -> frozenset[Part]:
        self.begun = True
        self._started = self._clock()
        self.path, self.run_id = event.path, event.run_id
        self.run.task = event.task.prompt
        self.run.model = event.config.model.name
        self.run.backend = event.config.sandbox.backend
        self.run.path, self.run.address = shown_path(event.path), address(event.path)
        self._take(self._budget or event.config.budget)
        return ALL

    def _take(self, budget: Budget) -> None:
        self.run.max_turns, self.run.max_tokens = budget.turns, budget.tokens
        self.run.max_cost, self.run.max_seconds = budget.cost_usd, budget.seconds

    def _spent(self, usage: Usage) -> None:
        self.run.tokens, self.run.cost = usage.total_tokens, usage.cost_usd

    def _working(self) -> None:
        if not self.paused:
            self.run.state, self.run.tone = _STATES["running"]

    def _resume_clock(self) -> None:
        if self._paused_at is not None:
            self._waited += self._clock() - self._paused_at
        self.paused, self._paused_at = False, None

    def _noted(self, text: str) -> frozenset[Part]:
        if self.run.steps and self.run.steps[-1].kind == "turn":
            notes = self.run.steps[-1].notes
            if len(notes) < NOTES:
                notes.append(text)
            return STEPS
        if len(self.run.notes) < NOTES:
            self.run.notes.append(text)
        return frozenset(("foot",))

    def _streamed(self, channel: Literal["text", "reasoning"], text: str) -> frozenset[Part]:
        step = self.last()
        self.streaming = channel
        if channel == "text":
            step.text = (step.text + text)[:TEXT_CHARS]
        else:
            step.reasoning = (step.reasoning + text)[:TEXT_CHARS]
        return STEPS

    # -- cells -----------------------------------------------------------------------------------

    def _cell_begins(self, cell: cards.Call, step: cards.Step) -> None:
        self._shown = Shown(OUTPUTS, TEXT_CHARS)
        self._cell, self._cell_since = cell, self._clock()
        step.calls.append(cell)

    def _cell_ends(
        self, result: CellResult, code: int | None, tried: list[tuple[str, bool, str]]
    ) -> None:
        if self._cell is None:
            return
        cell, self._cell = self._cell, None
        cell.outputs = list(result.outputs)[:OUTPUTS]
        cell.status, cell.seconds, cell.exit_code = result.status, result.seconds, code
        cell.note = befell(result.status, result.verdict, result.limit, result.restarted)
        cell.network = tried
        if result.verdict is not None:
            self.run.limits[result.verdict] = self.run.limits.get(result.verdict, 0) + 1
