"""The verbs of the public face, in ordinary Python and under Jupyter: run one, run many, load."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from lis_kernel._sync import run_sync
from lis_kernel.agent import Agent
from lis_kernel.agent.events import Event
from lis_kernel.config import Budget, Limits, RunConfig, SandboxConfig, checked
from lis_kernel.kernel.pool import Pool
from lis_kernel.models import default_model
from lis_kernel.rollout import Batch, Rollout
from lis_kernel.trajectory import Trajectory, load
from lis_kernel.types import Task

__all__ = ["arun_many", "load", "run", "run_many"]

OURS = ("budget", "tools", "more_tools", "protocol")
"""Settings of `RunConfig`'s own."""


def run(
    task: str,
    *,
    model: str | None = None,
    files: Iterable[str | Path] = (),
    out: str | Path = "runs",
    backend: str | None = None,
    network: str | None = None,
    mounts: Iterable[str] = (),
    image: str | None = None,
    runtime: str | None = None,
    root: bool | None = None,
    rootfs: str | Path | None = None,
    tools: Literal["paper", "notebook"] = "notebook",
    more_tools: Iterable[str] = (),
    protocol: Literal["tools", "blocks"] | None = None,
    budget: Budget | None = None,
    limits: Limits | None = None,
    pool: Pool | None = None,
    on_event: Callable[[Event], None] | None = None,
    view: Literal["auto", False] = "auto",
    **model_settings: Any,
) -> Trajectory:
    """Let a model solve `task` in a sandbox; blocks until it is done.

    Args:
        task: what is asked, in plain words.
        model: `anthropic/<model>`, `openai/<model>`, `local/<name>` or `scripted:<file>`; None
            takes Anthropic or OpenAI if a key is set, else the local model.
        files: host files and folders that appear in /testbed/input.
        out: folder under which the run's own folder is made.
        backend: `zygote` (the default), `bubblewrap`, `docker`, `podman`, or `local`, which is no
            isolation at all.
        network: `none` (the default), `open`, or e.g. `allow=index,example.org:443,*.example.com`.
        mounts: `HOST_PATH:SANDBOX_PATH`, read-only unless `:rw` follows.
        image, runtime, root: of docker and podman, see `SandboxConfig`.
        rootfs: of zygote and bubblewrap, see there.
        more_tools: of yours, beside those: `module:Class`, or a name of the entry-point group
            `lis_kernel.tools`.
        limits: of the sandbox and of one cell, e.g. `Limits(memory_bytes=4 << 30)`.
        pool: begun by `with`; the sandbox is one of its, and what is not said here is as there.
        on_event: told what happens, see `agent/events.py`; there is no live view then.
        view: `auto` shows the run under the cell of a notebook while it goes on.
        model_settings: other fields of `ModelConfig`, e.g. base_url, temperature, extra_body.

    An interrupt (Ctrl-C, or Jupyter's stop button) ends the run with the stop reason
    `interrupted`; the trajectory is returned all the same.

    Raises:
        ConfigError: a setting or file is wrong; nothing was started.
    """
    named = model or default_model(os.environ, model_settings.get("base_url"))
    config = _config(
        pool,
        {
            "backend": backend,
            "network": network,
            "mounts": tuple(mounts) or None,
            "image": image,
            "runtime": runtime,
            "root": root,
            "rootfs": rootfs,
        },
        limits,
        model={"name": named, **model_settings},
        budget=budget or Budget(),
        tools=tools,
        more_tools=tuple(more_tools),
        protocol=protocol,
    )
    asked = Task(prompt=task, files=tuple(Path(path) for path in files))
    if on_event is None and view == "auto" and _in_notebook():
        return _viewed(config, asked, Path(out), pool)
    on_event = on_event or (lambda _: None)
    agent = Agent(config, out=out, on_event=on_event, pool=pool, listen=True)
    return run_sync(agent.arun(asked), on_interrupt=agent.stop)


def _in_notebook() -> bool:
    """Whether the running cell is one of a Jupyter front end."""
    if "IPython" not in sys.modules:
        return False
    from lis_kernel.ui import in_notebook

    return in_notebook()


def _viewed(config: RunConfig, task: Task, out: Path, pool: Pool | None) -> Trajectory:
    """As `run`, shown while it goes on."""
    from lis_kernel.ui import view_for_notebook

    with view_for_notebook(budget=config.budget) as view:
        agent = Agent(config, out=out, on_event=view, pool=pool, listen=True)
        view.follows(agent)
        trajectory = run_sync(agent.arun(task), on_interrupt=agent.stop)
        view.close(trajectory)
    return trajectory


def run_many(
    tasks: Iterable[str | Task],
    *,
    concurrency: int = 8,
    pool: Pool | None = None,
    out: str | Path = "runs",
    on_event: Callable[[int, Event], None] = lambda *_: None,
    **settings: Any,
) -> list[Rollout]:
    """Let a model solve each of `tasks` in a sandbox of its own; blocks until all are done.

    Args:
        tasks: plain words, or `Task("…", files=…)`.
        concurrency: most runs at a time. Sandboxes also wait for each other's start and for memory.
        pool: begun by `with`; None makes one for this batch.
        on_event: called with the task's place in `tasks` and what happened.
        settings: as of `run`: model, backend, network, tools, budget, limits, ….

    The rollouts come in the order of `tasks`. One that fails says so in its stop reason, or in
    `error` if it could not begin, and the others go on. An interrupt ends those that run.

    Raises:
        ConfigError: a setting is wrong; nothing was started.
    """
    batch, asked = _batch(tasks, concurrency, pool, out, on_event, settings)
    return run_sync(batch.arun(asked), on_interrupt=batch.stop)


async def arun_many(
    tasks: Iterable[str | Task],
    *,
    concurrency: int = 8,
    pool: Pool | None = None,
    out: str | Path = "runs",
    on_event: Callable[[int, Event], None] = lambda *_: None,
    **settings: Any,
) -> list[Rollout]:
    """As `run_many`, on the running event loop; a pool is begun by `async with`."""
    batch, asked = _batch(tasks, concurrency, pool, out, on_event, settings)
    return await batch.arun(asked)


def _batch(
    tasks: Iterable[str | Task],
    concurrency: int,
    pool: Pool | None,
    out: str | Path,
    on_event: Callable[[int, Event], None],
    settings: dict[str, Any],
) -> tuple[Batch, list[Task]]:
    words = dict(settings)
    sandbox = {name: words.pop(name, None) for name in SandboxConfig.model_fields}
    limits = words.pop("limits", None)
    ours = {name: words.pop(name) for name in OURS if name in words}
    name = words.pop("model", None) or default_model(os.environ, words.get("base_url"))
    config = _config(pool, sandbox, limits, model={"name": name, **words}, **ours)
    asked = [task if isinstance(task, Task) else Task(prompt=task) for task in tasks]
    batch = Batch(config, out=out, concurrency=concurrency, pool=pool, on_event=on_event)
    return batch, asked


def _config(
    pool: Pool | None, sandbox: dict[str, Any], limits: Limits | None, **words: Any
) -> RunConfig:
    """The run's settings; those of the sandbox that are None are the pool's, else the defaults."""
    base = {} if pool is None else pool.kind.config.model_dump()
    given = {name: value for name, value in sandbox.items() if value is not None}
    usual = Limits() if pool is None else pool.kind.limits
    words.update(sandbox={**base, **given}, limits=limits or usual)
    return checked(RunConfig, words)
