"""`lis run`: a task to an answer and a notebook, with a live view."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import typer

from lis_kernel.agent import events
from lis_kernel.cli import options as o
from lis_kernel.cli.view import view_for
from lis_kernel.config import DEFAULT_BACKEND, RunConfig, checked
from lis_kernel.errors import ConfigError, SandboxError, TrajectoryError
from lis_kernel.kernel.outputs import clean_text
from lis_kernel.tools.strict_json import json_text
from lis_kernel.trajectory import Trajectory
from lis_kernel.types import StopReason, Task, Usage

__all__ = ["exit_code", "run"]


def run(
    task: o.Prompt,
    more_files: o.MoreFiles = None,
    files: o.Files = None,
    out: o.Out = Path("runs"),
    as_json: o.AsJson = False,
    model: o.Name = None,
    base_url: o.BaseUrl = None,
    tools: o.Tools = "notebook",
    protocol: o.Protocol = None,
    temperature: o.Temperature = None,
    extra_body: o.ExtraBody = None,
    price: o.Price = None,
    backend: o.Backend = DEFAULT_BACKEND,
    network: o.Network = "none",
    mount: o.Mount = None,
    image: o.Image = None,
    runtime: o.Runtime = None,
    root: o.Root = False,
    rootfs: o.Rootfs = None,
    memory: o.Memory = o.MEMORY,
    disk: o.Disk = o.DISK,
    pids: o.Pids = o.USUAL.pids,
    cpus: o.Cpus = o.USUAL.cpus,
    cell_timeout: o.CellTimeout = o.USUAL.cell_seconds,
    sandbox_timeout: o.SandboxTimeout = None,
    max_turns: o.MaxTurns = 100,
    max_tokens: o.MaxTokens = None,
    max_cost: o.MaxCost = None,
    timeout: o.Timeout = None,
) -> None:
    """Let a model solve TASK in a sandbox.

    The answer, the files it made and the notebook of all it did are kept under --out.
    With --json: answer, stop_reason, detail, trajectory, files, verdicts, usage, seconds.
    """
    from lis_kernel.models import default_model

    words = {
        "model": {
            "name": model or ("openai/" if base_url else default_model(os.environ)),
            "base_url": base_url,
            "temperature": temperature,
            "extra_body": o.json_object(extra_body, "--extra-body", """Write '{"top_p": 0.9}'."""),
            "prices": o.price(price),
        },
        "sandbox": {
            "backend": backend,
            "network": network,
            "mounts": tuple(mount or ()),
            "image": image,
            "runtime": runtime,
            "root": root,
            "rootfs": rootfs,
        },
        "limits": {
            "memory_bytes": memory,
            "disk_bytes": disk,
            "pids": pids,
            "cpus": cpus,
            "cell_seconds": cell_timeout,
            "sandbox_seconds": sandbox_timeout,
        },
        "budget": {
            "turns": max_turns,
            "tokens": max_tokens,
            "cost_usd": max_cost,
            "seconds": timeout,
        },
        "tools": tools,
        "protocol": protocol,
    }
    config = checked(RunConfig, words, lambda name: o.FIELDS.get(name, name))
    prompt = clean_text(sys.stdin.read() if task == "-" else task)
    if not prompt.strip():
        raise ConfigError("TASK", "it is empty.", "Say what is to be done.")
    # a link keeps its own name, and `Path.resolve` raises RuntimeError for a loop of them
    paths = tuple(Path(os.path.abspath(path)) for path in [*(files or []), *(more_files or [])])
    told = _Told()
    try:
        with o.as_options(o.FIELDS):
            trajectory = asyncio.run(
                _run(config, Task(prompt=prompt, files=paths), out, as_json, told)
            )
    except TrajectoryError as error:  # there is no record that could say how it went
        if as_json:
            print(json_text(told.lost(str(error)), indent=2))
        raise SandboxError(str(error)) from error
    reason = trajectory.stop_reason or StopReason.SANDBOX_ERROR
    if as_json:
        summary = {
            "answer": trajectory.answer,
            "stop_reason": reason.value,
            "detail": trajectory.detail,
            "trajectory": str(trajectory.path),
            "files": [str(path) for path in trajectory.files],
            "verdicts": trajectory.verdicts,
            "usage": trajectory.usage.model_dump(),
            "seconds": round(trajectory.seconds, 3),
        }
        print(json_text(summary, indent=2))
    raise typer.Exit(exit_code(reason))


class _Told:
    """What a run told of itself, for when its notebook cannot."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._path: Path | None = None
        self._usage = Usage()
        self._verdicts: Counter[str] = Counter()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RunStarted(path):
                self._path = path
            case events.ReplyFinished(_, _, usage):
                self._usage = usage
            case events.CallFinished(result) if result.verdict is not None:
                self._verdicts[result.verdict] += 1

    def lost(self, detail: str) -> dict[str, Any]:
        """The object of --json for a run whose notebook could not be written to its end."""
        return {
            "answer": None,
            "stop_reason": StopReason.SANDBOX_ERROR.value,
            "detail": detail,
            "trajectory": None if self._path is None else str(self._path),
            "files": [],
            "verdicts": dict(self._verdicts),
            "usage": self._usage.model_dump(),
            "seconds": round(time.monotonic() - self._started, 3),
        }


async def _run(
    config: RunConfig, task: Task, out: Path, quiet: bool, told: events.OnEvent
) -> Trajectory:
    from lis_kernel.agent import Agent
    from lis_kernel.kernel.pool import Pool

    # begun before the model's SDK is loaded, which takes as long as a sandbox
    pool = Pool(1, config=config.sandbox, limits=config.limits, takes=1)
    with view_for(quiet) as view:

        def hear(event: events.Event) -> None:
            told(event)
            view(event)

        agent = Agent(config, out=out, on_event=hear, pool=pool, listen=True)
        loop = asyncio.get_running_loop()
        presses = 0

        def interrupted() -> None:
            # the second Ctrl-C does not wait for the cell's last words; the run still closes
            nonlocal presses
            presses += 1
            agent.stop() if presses == 1 else agent.abandon()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # as nohup, or a script for what it runs in the background, has ignored it
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, interrupted)
        async with pool:
            return await agent.arun(task)


def exit_code(reason: StopReason) -> int:
    """The command's exit code for a stop reason."""
    if reason is StopReason.SUBMITTED:
        return 0
    if reason.is_budget:
        return 3
    if reason is StopReason.MODEL_ERROR:
        return 4
    return 130 if reason is StopReason.INTERRUPTED else 5
