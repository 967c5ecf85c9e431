"""The verbs of the public face: `run` and `load`, in ordinary Python and under Jupyter's loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from lis_kernel._sync import run_sync
from lis_kernel.agent import Agent
from lis_kernel.agent.events import Event
from lis_kernel.config import DEFAULT_BACKEND, Budget, Limits, RunConfig, checked
from lis_kernel.models import default_model
from lis_kernel.trajectory import Trajectory, load
from lis_kernel.types import Task

__all__ = ["load", "run"]


def run(
    task: str,
    *,
    model: str | None = None,
    files: Iterable[str | Path] = (),
    out: str | Path = "runs",
    backend: str = DEFAULT_BACKEND,
    network: str = "none",
    mounts: Iterable[str] = (),
    image: str | None = None,
    runtime: str | None = None,
    root: bool = False,
    rootfs: str | Path | None = None,
    tools: Literal["paper", "notebook"] = "notebook",
    protocol: Literal["tools", "blocks"] | None = None,
    budget: Budget | None = None,
    limits: Limits | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
    **model_settings: Any,
) -> Trajectory:
    """Let a model solve `task` in a sandbox; blocks until it is done.

    Args:
        task: what is asked, in plain words.
        model: `anthropic/<model>`, `openai/<model>`, `local/<name>` or `scripted:<file>`; None
            takes Anthropic or OpenAI if a key is set, else the local model.
        files: host files and folders that appear in /testbed/input.
        out: folder under which the run's own folder is made.
        backend: `zygote`, `bubblewrap`, `docker`, `podman`, or `local`, which is no isolation.
        network: `none`, `open`, or e.g. `allow=index,example.org:443,*.example.com`.
        mounts: `HOST_PATH:SANDBOX_PATH`, read-only unless `:rw` follows.
        image, runtime, root: of docker and podman, see `SandboxConfig`.
        rootfs: of bubblewrap, see there.
        limits: of the sandbox and of one cell, e.g. `Limits(memory_bytes=4 << 30)`.
        model_settings: other fields of `ModelConfig`, e.g. base_url, temperature, extra_body.

    An interrupt (Ctrl-C, or Jupyter's stop button) ends the run with the stop reason
    `interrupted`; the trajectory is returned all the same.

    Raises:
        ConfigError: a setting or file is wrong; nothing was started.
    """
    words = {
        "model": {"name": model or default_model(os.environ), **model_settings},
        "sandbox": {
            "backend": backend,
            "network": network,
            "mounts": tuple(mounts),
            "image": image,
            "runtime": runtime,
            "root": root,
            "rootfs": rootfs,
        },
        "budget": budget or Budget(),
        "limits": limits or Limits(),
        "tools": tools,
        "protocol": protocol,
    }
    config = checked(RunConfig, words)
    agent = Agent(config, out=out, on_event=on_event)
    asked = Task(prompt=task, files=tuple(Path(path) for path in files))
    return run_sync(agent.arun(asked), on_interrupt=agent.stop)
