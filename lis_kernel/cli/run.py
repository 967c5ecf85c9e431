"""`lis run`: a task to an answer and a notebook, with a live view."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from lis_kernel.cli.view import view_for
from lis_kernel.config import Budget, Limits, ModelConfig, RunConfig, SandboxConfig
from lis_kernel.errors import ConfigError
from lis_kernel.kernel.outputs import clean_text
from lis_kernel.types import StopReason, Task

__all__ = ["exit_code", "run"]

C = TypeVar("C", bound=BaseModel)
Text = Annotated[str, typer.Argument(help="What is asked, in plain words; - reads it from stdin.")]


def run(
    task: Text,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="anthropic/MODEL, openai/MODEL, local/NAME or scripted:FILE. "
            "Default: Anthropic or OpenAI if a key is set, else the local model.",
        ),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="A compatible server: vLLM, SGLang, llama.cpp, a proxy.")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--files", "-f", help="File or folder for /testbed/input; may be given several times."
        ),
    ] = None,
    more_files: Annotated[
        list[Path] | None, typer.Argument(help="More files, as after --files *.csv.", hidden=True)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs' own folders.")] = Path("runs"),
    backend: Annotated[
        str, typer.Option(help="Sandbox: bubblewrap; local is no isolation at all.")
    ] = "bubblewrap",
    network: Annotated[
        str,
        typer.Option(
            help="none, open, or allow= and a list of HOST[:PORT], *.DOMAIN, !PRIVATE_HOST and "
            "index (what pip installs from), e.g. allow=index,example.org."
        ),
    ] = "none",
    tools: Annotated[
        str, typer.Option(help="notebook: bash, python, editor, submit. paper: without python.")
    ] = "notebook",
    protocol: Annotated[
        str | None,
        typer.Option(help="tools: native calls. blocks: code blocks. Default: by model."),
    ] = None,
    max_turns: Annotated[int, typer.Option(help="Most model calls.")] = 100,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most prompt and reply tokens in all.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Most US dollars in all.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Most seconds in all.")] = None,
    cell_timeout: Annotated[float, typer.Option(help="Most seconds of one cell.")] = 120.0,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature.")] = None,
    extra_body: Annotated[
        str | None, typer.Option(help="JSON object sent with every request, e.g. top_p.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="INPUT,OUTPUT in USD per million tokens.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and no view.")
    ] = False,
) -> None:
    """Let a model solve TASK in a sandbox.

    The answer, the files it made and the notebook of all it did are kept under --out.
    With --json: answer, stop_reason, detail, trajectory, files, usage, seconds.
    """
    from lis_kernel.models import default_model

    config = settings(
        model=_model(
            name=model or ("openai/" if base_url else default_model(os.environ)),
            base_url=base_url,
            temperature=temperature,
            extra_body=_json_object(extra_body),
            prices=_price(price),
        ),
        sandbox=SandboxConfig(backend=backend, network=network),
        limits=_checked(Limits, {"cell_seconds": "--cell-timeout"}, cell_seconds=cell_timeout),
        budget=_checked(
            Budget,
            BUDGET_OPTIONS,
            turns=max_turns,
            tokens=max_tokens,
            cost_usd=max_cost,
            seconds=timeout,
        ),
        tools=tools,
        protocol=protocol,
    )
    prompt = clean_text(sys.stdin.read() if task == "-" else task)
    if not prompt.strip():
        raise ConfigError("TASK", "it is empty.", "Say what is to be done.")
    paths = tuple(path.resolve() for path in [*(files or []), *(more_files or [])])
    trajectory = asyncio.run(_run(config, Task(prompt=prompt, files=paths), out, as_json))
    reason = trajectory.stop_reason or StopReason.SANDBOX_ERROR
    if as_json:
        summary = {
            "answer": trajectory.answer,
            "stop_reason": reason.value,
            "detail": trajectory.detail,
            "trajectory": str(trajectory.path),
            "files": [str(path) for path in trajectory.files],
            "usage": trajectory.usage.model_dump(),
            "seconds": round(trajectory.seconds, 3),
        }
        print(json.dumps(summary, indent=2))
    raise typer.Exit(exit_code(reason))


BUDGET_OPTIONS = {
    "turns": "--max-turns",
    "tokens": "--max-tokens",
    "cost_usd": "--max-cost",
    "seconds": "--timeout",
}


async def _run(config: RunConfig, task: Task, out: Path, quiet: bool) -> Any:
    from lis_kernel.agent import Agent

    with view_for(quiet) as view:
        agent = Agent(config, out=out, on_event=view)
        loop = asyncio.get_running_loop()
        presses = 0

        def interrupted() -> None:
            # the second Ctrl-C does not wait for the cell's last words; the run still closes
            nonlocal presses
            presses += 1
            agent.stop() if presses == 1 else agent.abandon()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, interrupted)
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


def settings(**fields: Any) -> RunConfig:
    """The run's settings. Raises: ConfigError: naming the option and the fix."""
    return _checked(RunConfig, {"tools": "--tools", "protocol": "--protocol"}, **fields)


def _model(**fields: Any) -> ModelConfig:
    return _checked(ModelConfig, {"temperature": "--temperature"}, **fields)


def _checked(kind: type[C], options: dict[str, str], **fields: Any) -> C:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        raise ConfigError(options.get(field, field), f"{first['msg']}.") from error


def _json_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(
            "--extra-body", f"not JSON: {error}.", """Write '{"top_p": 0.9}'."""
        ) from error
    if not isinstance(value, dict):
        raise ConfigError("--extra-body", "not a JSON object.", """Write '{"top_p": 0.9}'.""")
    return value


def _price(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        given, taken = (float(part) for part in text.split(","))
        return given, taken
    except ValueError as error:
        raise ConfigError(
            "--price", f"cannot read {text!r}.", "Write e.g. --price 3,15."
        ) from error
