"""The texts that a model is given first, as files beside this one.

`first_messages` puts them together: system prompt, one-shot example (code blocks only), the task
with a list of its files. Called once a run by `agent/loop.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal

from lis_kernel.types import (
    AssistantMessage,
    Attempt,
    Message,
    SystemMessage,
    Task,
    UserMessage,
)

__all__ = ["PROMPT_VERSION", "first_messages", "refused_hosts"]

PROMPT_VERSION = 1
"""Recorded in the notebook; goes up when a text here changes."""

PREVIEW_BYTES = 4_000
PREVIEW_CHARS = (400, 120, 120)
"""Of the first lines of a file; the first may hold the names of many columns."""
MAX_LISTED = 100


def first_messages(
    task: Task, protocol: Literal["tools", "blocks"], *, testbed: str, network: str
) -> list[Message]:
    """System prompt, example and task.

    `testbed` is the working directory as the sandbox sees it; `network` the sandbox's policy.
    """
    facts = {"testbed": testbed, "network": network_sentence(network)}
    text = _text("system.md" if protocol == "tools" else "blocks.md").format(**facts)
    messages: list[Message] = [SystemMessage(text=text.strip())]
    preview = protocol == "blocks"  # small models guess a file's layout unless they see it
    if protocol == "blocks":
        messages += _example(testbed)
    listing = file_list(task.files, testbed, preview=preview)
    messages.append(UserMessage(text=f"{task.prompt.strip()}{listing}"))
    return messages


NETWORK = {
    "none": "There is no network.",
    "open": "The network is open.",
}
SHOWN_HOSTS = 5


def network_sentence(policy: str) -> str:
    """What the model is told of the sandbox's network."""
    kind, _, listed = policy.partition("=")
    if kind != "allow":
        return NETWORK.get(policy, f"Network: {policy}.")
    hosts = [host.lstrip("!") for host in listed.split(",")]
    names = [host for host in hosts if host != "index"]
    if "index" in hosts:
        names.append("the package index (`pip install` works)")
    return (
        f"Of the network only this can be reached, over HTTP(S): {', '.join(names)}. "
        "Other hosts are refused."
    )


def refused_hosts(attempts: Iterable[Attempt]) -> str:
    """One sentence about what was refused while a cell ran, or an empty string."""
    refused = dict.fromkeys(f"{a.host}:{a.port}" for a in attempts if a.port and not a.allowed)
    if not refused:
        return ""
    more = f" and {len(refused) - SHOWN_HOSTS} more" if len(refused) > SHOWN_HOSTS else ""
    return f"refused by the network policy: {', '.join([*refused][:SHOWN_HOSTS])}{more}"


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _example(testbed: str) -> list[Message]:
    parts = re.split(r"^=== (user|assistant)\n", _text("blocks_example.md"), flags=re.MULTILINE)
    messages: list[Message] = []
    for role, text in zip(parts[1::2], parts[2::2], strict=True):
        said = text.strip().replace("/testbed", testbed)
        messages.append(UserMessage(text=said) if role == "user" else AssistantMessage(text=said))
    return messages


def file_list(paths: tuple[Path, ...], testbed: str, *, preview: bool) -> str:
    """The files of a task as the model is told of them, or an empty string."""
    rows: list[str] = []
    for path in paths:
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in found:
            name = file.relative_to(path.parent)
            row = f"- {name} ({_size(file.stat().st_size)})"
            if preview and (head := _head(file)):
                row += f", its first lines:\n{head}"
            rows.append(row)
    if not rows:
        return ""
    more = [f"- and {len(rows) - MAX_LISTED} more"] if len(rows) > MAX_LISTED else []
    return f"\n\nFiles in {testbed}/input:\n" + "\n".join(rows[:MAX_LISTED] + more)


def _head(path: Path) -> str:
    """The first lines of a text file, or nothing for a binary one."""
    with path.open("rb") as file:
        data = file.read(PREVIEW_BYTES)
    if b"\0" in data:
        return ""
    lines = data.decode("utf-8", "replace").splitlines()
    shown = [_clip(line, size) for line, size in zip(lines, PREVIEW_CHARS, strict=False)]
    if shown and (len(lines) > len(shown) or len(data) == PREVIEW_BYTES):
        shown.append("[...]")
    return "\n".join(f"    {line}" for line in shown)


def _clip(line: str, size: int) -> str:
    return line if len(line) <= size else f"{line[:size]} [...]"


def _size(size: int) -> str:
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
