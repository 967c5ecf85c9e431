"""What a run writes into its notebook, as texts: pure functions beside `agent/loop.py`.

The loop decides when something is recorded, `trajectory/` how a notebook is built and saved; here
is what a reader of the notebook sees: folded prompts, a turn and the outcome as headings, by which
JupyterLab makes its table of contents and folds what is below.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from lis_kernel.agent.budget import Meter
from lis_kernel.agent.prompts import PROMPT_VERSION
from lis_kernel.agent.workspace import Taken, given_name
from lis_kernel.config import DEFAULT_BACKEND, RunConfig
from lis_kernel.kernel import kernelspec
from lis_kernel.kernel.outputs import clean_text
from lis_kernel.tools import observation
from lis_kernel.trajectory.notebook import KEY
from lis_kernel.types import Message, Reply, StopReason, Task, ToolMessage

__all__ = [
    "breaches",
    "cleaned",
    "earlier",
    "kernel",
    "metadata",
    "opening",
    "outcome_text",
    "turn_text",
]

NESTING = 50
"""Levels of a reply's JSON that are kept as JSON; what lies deeper is kept as text."""
TITLES = {
    ("system", "system"): "System prompt",
    ("example", "user"): "Example, user",
    ("example", "assistant"): "Example, assistant",
}
"""Of the first messages that are folded in the notebook."""


def metadata(task: Task, config: RunConfig, protocol: str) -> dict[str, Any]:
    """The notebook's metadata as far as it is known before the run starts."""
    return {
        "version": version("lis-kernel"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "task": {
            "prompt": clean_text(task.prompt),
            "files": [clean_text(given_name(path)) for path in task.files],
        },
        "config": config.model_dump(mode="json"),
        "protocol": protocol,
        "prompt_version": PROMPT_VERSION,
        "observation_version": observation.OBSERVATION_VERSION,
    }


def earlier(cell: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A cell that ran in the sandbox before the run began, as the run's notebook holds it."""
    ours = {k: v for k, v in cell["metadata"][KEY].items() if k != "hash"}
    metadata = {
        "tags": sorted({*cell["metadata"]["tags"], "lis-earlier"}),
        "jupyter": {"source_hidden": True, "outputs_hidden": True},
        KEY: {**ours, "kind": "earlier"},
    }
    return {**cell, "id": name, "metadata": metadata}


def kernel(config: RunConfig) -> dict[str, str]:
    """The kernelspec in which a run's notebook opens: a sandbox of its kind, if one is shipped."""
    backend = config.sandbox.backend
    words = {"backend": backend if backend in kernelspec.SHIPPED else DEFAULT_BACKEND}
    described = kernelspec.describe(words)
    return {
        "name": kernelspec.default_name(words["backend"]),
        "display_name": described["display_name"],
        "language": described["language"],
    }


def opening(message: Message, *, last: bool) -> tuple[str, str, str]:
    """Of one of the first messages: its kind, its text, and the markdown that shows it."""
    kind = "task" if last else "system" if message.role == "system" else "example"
    text = "" if isinstance(message, ToolMessage) else message.text
    shown = f"## Task\n\n{text}" if last else _folded(TITLES[kind, message.role], text)
    return kind, text, shown


def outcome_text(
    reason: StopReason,
    detail: str,
    taken: Taken,
    meter: Meter,
    seconds: float,
    verdicts: Mapping[str, int],
) -> str:
    """How the run ended, for the notebook's last cell."""
    head = reason.value.replace("_", " ").capitalize()
    turns = f"{meter.turns} {'turn' if meter.turns == 1 else 'turns'}"
    answer, files, refused, _ = taken
    reached = ", ".join(f"{name} {count}×" for name, count in verdicts.items())
    lines = [
        f"## {head}",
        f"After {turns}, {meter.usage.total_tokens} tokens, {seconds:.1f} s. {detail}".strip(),
        *([f"Answer:\n\n{_fenced(answer[:2000], 'text')}"] if answer is not None else []),
        *([f"Files: {', '.join(map(_link, files[:50]))}"] if files else []),
        *([f"Limits reached: {reached}."] if reached else []),
        *(["Not taken out:\n\n" + "\n".join(f"- {line}" for line in refused[:50])] * bool(refused)),
    ]
    return "\n\n".join(lines)


def breaches(notebook: Mapping[str, Any]) -> dict[str, int]:
    """How many cells ran into which limit."""
    facts = (cell["metadata"][KEY] for cell in notebook["cells"])
    named = (ours.get("verdict") for ours in facts if ours.get("kind") != "earlier")
    return dict(Counter(verdict for verdict in named if verdict is not None))


def turn_text(turn: int, reply: Reply, said: str) -> str:
    """A turn's markdown cell: its cost, and what the model said beside its calls."""
    usage = reply.usage
    cost = f"{usage.input_tokens} → {usage.output_tokens} tokens · {reply.seconds:.1f} s"
    return f"### Turn {turn}\n\n*{cost}*\n\n{said}".rstrip()


def _name(name: str) -> str:
    """A file's name that cannot write lines of its own: it was chosen in the sandbox."""
    shown = name if name.isprintable() else name.encode("unicode_escape").decode()
    return shown.replace("`", "\\x60")


def _link(name: str) -> str:
    """A link to a file that was taken out: it lies beside the notebook."""
    return f"[`{_name(name)}`](files/{quote(name, errors='surrogatepass')})"


def _fenced(text: str, kind: str) -> str:
    """A code block that `text` cannot end."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=2) + 1)
    fence = fence if len(fence) > 3 else "```"
    return f"{fence}{kind}\n{text}\n{fence}"


def _folded(title: str, text: str) -> str:
    """Markdown that shows `title` and, once clicked, `text`."""
    return f"<details><summary>{title}</summary>\n\n{_fenced(text, 'text')}\n\n</details>"


def cleaned(value: Any, depth: int = NESTING) -> Any:
    """`value` as JSON that every reader takes: valid Unicode, finite numbers, bounded nesting."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping | list | tuple):
        if depth == 0:
            return clean_text(_flat(value))
        if isinstance(value, Mapping):
            return {clean_text(str(k)): cleaned(v, depth - 1) for k, v in value.items()}
        return [cleaned(item, depth - 1) for item in value]
    return value


def _flat(value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return "[nested too deeply]"
