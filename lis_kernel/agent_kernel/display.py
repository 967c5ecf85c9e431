"""What a cell of the agent kernel shows: the live view of a run, or what a person's code gives.

What comes out of the sandbox is hostile, and a page takes this kernel's outputs for its user's own:
so it passes `tools/clean.py` first. Made by `kernel.py` for each cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from lis_kernel.agent import events
from lis_kernel.agent_kernel.conversation import Conversation
from lis_kernel.tools.clean import safe_bundle, safe_metadata, safe_stream
from lis_kernel.tools.observation import befell
from lis_kernel.tools.terminal import plain_text
from lis_kernel.trajectory import Trajectory
from lis_kernel.trajectory.card import shown_path
from lis_kernel.types import CellResult, StopReason
from lis_kernel.ui import LiveView

__all__ = ["CellFailed", "Publish", "Screen", "plain"]

Publish = Callable[[str, dict[str, Any]], None]
"""Sends one message of the running cell: its kind and its content; from any thread."""
ERROR_CHARS = 10_000


class CellFailed(Exception):
    """A cell ends with an error, and this is all that is said of it."""

    def __init__(self, name: str, text: str, traceback: list[str] | None = None) -> None:
        super().__init__(text)
        self.name, self.text = name, text
        self.traceback = traceback or [f"\x1b[31m{name}\x1b[0m: {text}"]


class Screen:
    """Where one cell's outputs go.

    Args:
        parent: the request that the cell came with.
        count: the cell's number.
    """

    def __init__(self, publish: Publish, parent: Mapping[str, Any], count: int) -> None:
        self._publish = publish
        self._mode = front_end(parent)
        self._count = count
        self._view: LiveView | None = None
        self._record: str | None = None
        self._error: dict[str, Any] = {}

    def say(self, line: str) -> None:
        """A line of ours; while a run is shown, one of its notes."""
        if self._view is not None:
            self._view(events.Note(line))
        else:
            self._publish("stream", {"name": "stdout", "text": f"{plain_text(line)}\n"})

    # -- a person's code -------------------------------------------------------------------------

    def message(self, kind: str, content: dict[str, Any]) -> None:
        """A message of the sandbox's kernel, as `SharedSandbox.execute` gives it."""
        if kind == "error":
            self._error = content  # said once, as the cell's own
        elif kind == "stream":
            shown = {"name": content["name"], "text": safe_stream(content["text"])}
            self._publish(kind, shown)
        elif kind == "clear_output":
            self._publish(kind, {"wait": content["wait"]})
        else:
            shown = {
                "data": safe_bundle(content["data"]),
                "metadata": safe_metadata(content["metadata"]),
            }
            if kind == "execute_result":
                shown["execution_count"] = self._count
            else:  # a display of the sandbox's must be none of ours
                name = content.get("transient", {}).get("display_id")
                shown["transient"] = {"display_id": f"sandbox-{name}"} if name else {}
            self._publish(kind, shown)

    def ran(self, result: CellResult) -> None:
        """The code is over.

        Raises:
            CellFailed: with an error.
        """
        error, self._error = self._error, {}
        if error and result.status == "error":
            lines = [safe_stream(line)[:ERROR_CHARS] for line in error["traceback"]]
            name, text = plain_text(error["ename"])[:200], plain_text(error["evalue"])
            raise CellFailed(name, text[:ERROR_CHARS], lines)
        if what := befell(result.status, result.verdict, result.limit, result.restarted):
            interrupted = result.status == "interrupted"
            lost = "; its variables are gone, its files are there" if result.restarted else ""
            raise CellFailed("KeyboardInterrupt" if interrupted else "CellFailed", what + lost)
        if result.status != "ok":
            raise CellFailed("CellFailed", f"the cell ended with `{result.status}`")

    # -- a task ----------------------------------------------------------------------------------

    async def task(self, talk: Conversation, prompt: str) -> None:
        """Show a run while it goes on, and leave its record.

        Raises:
            CellFailed: it did not end with an answer.
            LisKernelError: as `Conversation.run_task`.
        """
        shared = talk.shared
        view = LiveView(
            budget=talk.config.budget,
            sandbox=lambda: shared.sandbox,
            publish=self._of_view,
            mode=self._mode,
        )
        self._view = view
        trajectory = None
        try:
            trajectory = await talk.run_task(prompt, view, lambda agent: _follow(view, agent))
        finally:
            self._view = None
            self._record = plain(trajectory) if trajectory is not None else ""
            view.close(trajectory)
        _judge(trajectory)

    def _of_view(self, kind: str, content: dict[str, Any]) -> None:
        """What the view sends; its last word is readable also where there is no HTML."""
        if self._record and content.get("data", {}).get("text/html"):
            content["data"]["text/plain"] = self._record
        self._publish(kind, content)


def _follow(view: LiveView, agent: Any) -> None:
    view.controls = agent


def front_end(parent: Mapping[str, Any]) -> Literal["widgets", "html", "lines"]:
    """What whoever sent this request can most likely show."""
    if "cellId" in parent.get("metadata", {}):  # JupyterLab and its like
        return "widgets"
    content, header = parent.get("content", {}), parent.get("header", {})
    return "lines" if content.get("allow_stdin") and header.get("username") else "html"


def plain(trajectory: Trajectory) -> str:
    """How a run ended, as text: its answer first."""
    usage = trajectory.usage
    turns = len(trajectory.turns)
    reason = trajectory.stop_reason or "unfinished"
    facts = [
        str(reason).replace("_", " "),
        f"{turns} turn{'' if turns == 1 else 's'}",
        f"{usage.total_tokens:,} tokens",
        *([f"${usage.cost_usd:.4f}"] if usage.cost_usd else []),
        f"{trajectory.seconds:.1f} s",
        shown_path(trajectory.path),
    ]
    lines = [f"[{' · '.join(facts)}]"]
    if names := [shown_path(path) for path in trajectory.files if path.name != "answer.txt"]:
        lines.append(f"[files: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}]")
    answer = [trajectory.answer, ""] if trajectory.answer else []
    return plain_text("\n".join([*answer, *lines]))


def _judge(trajectory: Trajectory) -> None:
    reason = trajectory.stop_reason
    detail = plain_text(trajectory.detail)
    if reason is StopReason.SUBMITTED:
        return
    if reason is StopReason.INTERRUPTED:
        raise CellFailed("KeyboardInterrupt", "the run was stopped; the next task goes on from it")
    if reason is StopReason.MODEL_ERROR:
        raise CellFailed("ModelError", detail)
    if reason in (StopReason.SANDBOX_ERROR, StopReason.SANDBOX_LOST):
        raise CellFailed("SandboxError", f"{detail} {NEW_SANDBOX}".strip())
    word = {
        StopReason.MAX_TURNS: "turns",
        StopReason.MAX_TOKENS: "tokens",
        StopReason.MAX_COST: "cost",
        StopReason.TIMEOUT: "seconds",
    }.get(reason or StopReason.SUBMITTED, "")
    if word:
        raise CellFailed(
            "BudgetSpent",
            f"the task's {word} are used up ({str(reason).replace('_', ' ')}). The next task goes "
            f"on from here; %budget {word}=N allows more.",
        )
    raise CellFailed("RunStopped", f"{reason}: {detail}".rstrip(": "))


NEW_SANDBOX = "%reset begins a new conversation in a new sandbox."
