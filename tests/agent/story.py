"""Telling a run as a story, and what must hold for every run whatever the story.

A model here is a real `ScriptedModel` that also shows each conversation it is given to the strict
checks of `wire.py`, in the words of both providers: an invalid conversation fails where it is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import nbformat
from wire import check_anthropic, check_openai

from lis_kernel.agent import Agent
from lis_kernel.config import Budget, Limits, ModelConfig, RunConfig
from lis_kernel.models import anthropic_messages, openai_messages
from lis_kernel.models.scripted import ScriptedModel
from lis_kernel.models.text import CallIds
from lis_kernel.protocols import OnText
from lis_kernel.trajectory import Trajectory, load
from lis_kernel.trajectory.notebook import KEY
from lis_kernel.types import (
    AssistantMessage,
    Message,
    Reply,
    StopReason,
    Task,
    ToolMessage,
    ToolSpec,
)

__all__ = [
    "CheckedModel",
    "bash",
    "call",
    "cells",
    "check_conversation",
    "check_notebook",
    "python",
    "reply",
    "shown",
    "submit",
    "tell",
]


# -- replies ---------------------------------------------------------------------------------


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def bash(command: str) -> dict[str, Any]:
    return call("execute_bash", command=command)


def python(code: str) -> dict[str, Any]:
    return call("execute_python", code=code)


def submit(answer: str | None = None) -> dict[str, Any]:
    return call("submit", **({} if answer is None else {"answer": answer}))


def reply(*calls: dict[str, Any], text: str = "", **more: Any) -> dict[str, Any]:
    return {"text": text, "tool_calls": list(calls), **more}


class CheckedModel(ScriptedModel):
    """Gives its replies in order and refuses an invalid conversation, as a strict API would."""

    def _set(self, name: str, replies: list[Reply]) -> None:
        super()._set(name, replies)
        self.prompts: list[list[Message]] = []

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        max_tokens: int | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        check_conversation(messages)
        self.prompts.append(list(messages))
        return await super().generate(messages, tools, max_tokens=max_tokens, on_text=on_text)


def check_conversation(messages: Sequence[Message]) -> None:
    """Both strict APIs take it, and every call is answered once, in order, by the next message."""
    anthropic = anthropic_messages.to_messages(messages)
    check_anthropic({"stream": True, "max_tokens": 1, "messages": anthropic}, {})
    openai = list(openai_messages.to_messages(messages, CallIds(longest=40)))
    check_openai({"stream": True, "messages": openai}, {})
    json.dumps([m.model_dump() for m in messages], ensure_ascii=False).encode("utf-8")
    used: set[str] = set()
    for message, answer in zip(messages, [*messages[1:], None], strict=True):
        if isinstance(message, AssistantMessage) and message.calls:
            ids = [c.id for c in message.calls]
            assert isinstance(answer, ToolMessage)
            assert [r.call_id for r in answer.results] == ids
            assert len({*ids} - used) == len(ids), "a call id was used twice"
            used.update(ids)
        elif isinstance(answer, ToolMessage):
            raise AssertionError("results without calls")


# -- runs ------------------------------------------------------------------------------------


async def tell(
    out: Path,
    *replies: dict[str, Any] | Reply,
    prompt: str = "Do it.",
    files: Sequence[Path] = (),
    limits: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
    on_event: Callable[[Any], None] = lambda _: None,
    model: Any = None,
    **settings: Any,
) -> tuple[Trajectory, CheckedModel]:
    """Run `replies` in a real sandbox; the trajectory, checked, and the model with its prompts."""
    used = model or CheckedModel.from_replies(replies)
    config = RunConfig(
        model=ModelConfig(
            name="scripted:replies", context_window=settings.pop("context_window", None)
        ),
        limits=Limits(**{"grace_seconds": 3.0, **(limits or {})}),
        budget=Budget(**(budget or {})),
        **settings,
    )
    agent = Agent(config, out=out, model=used, on_event=on_event)
    trajectory = await agent.arun(Task(prompt=prompt, files=tuple(files)))
    check_notebook(trajectory.path, trajectory)
    return trajectory, used


def cells(trajectory: Trajectory, kind: str = "call") -> list[dict[str, Any]]:
    """The notebook's cells of one kind."""
    return [c for c in trajectory.notebook["cells"] if c["metadata"][KEY]["kind"] == kind]


def shown(model: CheckedModel, prompt: int = -1) -> list[str]:
    """What the last message of a prompt told the model: one text per call."""
    last = model.prompts[prompt][-1]
    return [r.text for r in last.results] if isinstance(last, ToolMessage) else [last.text]


def check_notebook(path: Path, trajectory: Trajectory | None = None) -> Trajectory:
    """What holds for every notebook: strict JSON, nbformat, the chain, order, ids and outcome.

    `trajectory` is what the run returned; None is for a run that was killed.
    """
    text = path.read_text("utf-8")
    plain = json.loads(text, parse_constant=_not_json)
    nbformat.validate(plain, relax_add_props=False)
    read = load(path)
    nbformat.validate(read.notebook)
    checked = read.verify()
    kinds = [cell["metadata"][KEY]["kind"] for cell in read.notebook["cells"]]
    ids = [cell["id"] for cell in read.notebook["cells"]]
    assert len(ids) == len(set(ids))
    if trajectory is None:
        return read
    assert read.notebook == trajectory.notebook
    assert trajectory.verify() == checked == len(ids)
    assert kinds[-1] == "outcome"
    _check_order(kinds)
    assert isinstance(read.stop_reason, StopReason)
    assert not list(path.parent.glob(".*")), "a temporary file was left"
    return read


def _not_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def _check_order(kinds: list[str]) -> None:
    """system, examples, task, setup; turns with what follows each; the outcome."""
    if len(kinds) == 1:
        return  # stopped before it began
    start = kinds.index("task")
    assert kinds[0] == "system"
    assert set(kinds[1:start]) <= {"example"}
    body = kinds[start + 1 : -1]
    if body:
        assert body[0] == "setup"
        while body[1:] and body[1] in ("earlier", "setup"):  # in a sandbox that is shared
            del body[1]
        ran = {"turn", "call", "note", "refused", "nudge", "human", "message"}
        assert set(body[1:]) <= ran
        assert len(body) == 1 or body[1] in ("turn", "human", "message")
