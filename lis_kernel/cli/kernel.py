"""`lis kernel`: what a kernelspec's argv starts in tools that know no provisioner. Hidden."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from lis_kernel.cli.options import json_object

__all__ = ["kernel"]


def kernel(
    connection_file: Annotated[Path, typer.Option("-f", help="Jupyter's connection file.")],
    backend: Annotated[str | None, typer.Option(help="The sandbox's backend.")] = None,
    config: Annotated[
        str, typer.Option(help="SandboxConfig's keys, and `limits`, as a JSON object.")
    ] = "{}",
) -> None:
    """Be a Jupyter kernel that lives in a sandbox of its own."""
    from lis_kernel.kernel.launcher import serve

    words = json_object(config, "--config")
    if backend is not None:
        words["backend"] = backend
    say = logging.getLogger(__name__).info
    status = asyncio.run(serve(connection_file, words, say))
    raise typer.Exit(status if status >= 0 else 128 - status)
