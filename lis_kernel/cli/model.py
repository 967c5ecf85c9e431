"""`lis model`: the local models. What there is, fetching one ahead of time, serving one to others.

A sub-app of `lis`. Results go to standard output (`--json` for programs), everything about how it
is going to standard error.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from lis_kernel.models import weights
from lis_kernel.models.llama_server import CONTEXT, LlamaServer, require_llama_cpp
from lis_kernel.protocols import Progress as Report

__all__ = ["app"]

QUIET_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""

app = typer.Typer(no_args_is_help=True, help="Local models: list, pull, serve.")

Name = Annotated[str, typer.Argument(help="As in `lis model list`, or a path to a .gguf file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """The models that can run on this machine, and which of them are here already."""
    entries = [(entry, weights.local_path(entry)) for entry in weights.CATALOGUE.values()]
    if as_json:
        rows = [
            {
                "name": entry.name,
                "title": entry.title,
                "bytes": entry.size,
                "licence": entry.licence,
                "path": path and str(path),
                "default": entry.name == weights.DEFAULT,
            }
            for entry, path in entries
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "model", "size", "licence", "here", box=None, pad_edge=False)
    for entry, path in entries:
        here = "yes" if path else "no"
        table.add_row(entry.name, entry.title, _size(entry.size), entry.licence, here)
    console = Console()
    console.print(table)
    footer = f"Default: {weights.DEFAULT}. Kept in {weights.directory()}"
    console.print(footer, style="dim", soft_wrap=True, highlight=False)


@app.command()
def pull(
    name: Name = weights.DEFAULT,
    verify: Annotated[
        bool, typer.Option(help="Check the SHA-256 of a model that is here.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model, once. Interrupted, the next call goes on where this one stopped."""
    started = time.monotonic()
    with _progress(name) as report:
        path = weights.fetch(name, progress=report, verify=verify)
    seconds = time.monotonic() - started
    if as_json:
        result = {"name": name, "path": str(path), "bytes": path.stat().st_size}
        typer.echo(json.dumps(result | {"seconds": round(seconds, 1)}, indent=2))
    else:
        typer.echo(path)


@app.command()
def serve(
    name: Name = weights.DEFAULT,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Serve a model, OpenAI-compatible, to programs on this machine, until Ctrl-C."""
    require_llama_cpp()
    with _progress(name) as report:
        path = weights.fetch(name, progress=report)
    label = path.stem if name.endswith(".gguf") else name
    server = LlamaServer(path, label, CONTEXT, port=port)
    # A supervisor's SIGTERM ends this like Ctrl-C, not halfway.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        url = server.url()
        typer.echo(f"Base URL: {url}")
        typer.echo(f'Try:      lis run --base-url {url} --model openai/{label} "…"')
        typer.echo("Ctrl-C stops it.", err=True)
        status = server.wait()
        typer.echo(f"The server ended by itself (exit status {status}).", err=True)
        raise typer.Exit(1)
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


@contextmanager
def _progress(name: str) -> Iterator[Report]:
    """A bar on a terminal, a line now and then elsewhere; nothing if there is nothing to do."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task(name, visible=False)

    def report(done: int, total: int, label: str) -> None:
        bar.update(task, completed=done, total=total, description=f"{name}: {label}", visible=True)

    with bar:
        yield report


class _Lines:
    """Progress for logs: the first report, then one every `QUIET_SECONDS`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = 0.0

    def __call__(self, done: int, total: int, label: str) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + QUIET_SECONDS
            typer.echo(f"{self._name}: {_size(done)} of {_size(total)}, {label}", err=True)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
