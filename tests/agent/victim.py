"""A run to be killed: `python victim.py OUT LOG`, a child process of `test_kill.py`.

Each finished cell is written to LOG, with the hash of what the run says it gave, and synced to the
disk, so that the parent knows what a notebook must hold whatever happens next.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys

from lis_kernel.agent import Agent, events
from lis_kernel.config import ModelConfig, RunConfig, SandboxConfig
from lis_kernel.models.scripted import ScriptedModel
from lis_kernel.types import Task

TURNS = 14


def script() -> list[dict[str, object]]:
    """Cells of every tool, some slow, with a child of bash in the background and a pause each."""
    turns: list[dict[str, object]] = []
    for n in range(TURNS):
        made = [
            {"name": "execute_bash", "arguments": {"command": f"sleep 600 & echo {n}; sleep 0.05"}},
            {"name": "execute_python", "arguments": {"code": f"print('{n} ' * 1000)\n{n} * {n}"}},
            {
                "name": "str_replace_editor",
                "arguments": {"command": "create", "path": f"/testbed/{n}", "file_text": f"{n}\n"},
            },
        ]
        turns.append({"text": f"Turn {n}.", "tool_calls": made, "delay": 0.02})
        turns.append({"text": "Only words.", "delay": 0.02})
    return [*turns, {"tool_calls": [{"name": "submit", "arguments": {"answer": "42"}}]}]


def digest(outputs: object) -> str:
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def main(out: str, log: str) -> None:
    fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    running = ""

    def on_event(event: events.Event) -> None:
        nonlocal running
        if isinstance(event, events.CallStarted):
            running = event.call.id
            return
        if isinstance(event, events.CallFinished):
            line = f"{running} {digest(list(event.result.outputs))}\n"
        elif isinstance(event, events.RunEnded):
            line = f"end {event.stop_reason.value}\n"
        else:
            return
        os.write(fd, line.encode())
        os.fsync(fd)

    model = ScriptedModel.from_replies(script())
    agent = Agent(
        # cold: a zygote for each of so many runtime folders would be most of the test
        RunConfig(
            model=ModelConfig(name="scripted:victim"),
            sandbox=SandboxConfig(backend="bubblewrap"),
        ),
        out=out,
        model=model,
        on_event=on_event,
    )
    asyncio.run(agent.arun(Task(prompt="Be killed.")))


if __name__ == "__main__":
    main(*sys.argv[1:])
