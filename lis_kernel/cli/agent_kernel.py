"""`lis agent-kernel`: what the argv of the kernelspec `lis-agent` starts. Hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lis_kernel.cli.options import json_object

__all__ = ["agent_kernel"]


def agent_kernel(
    connection_file: Annotated[Path, typer.Option("-f", help="Jupyter's connection file.")],
    model: Annotated[str | None, typer.Option(help="Which model answers.")] = None,
    config: Annotated[
        str, typer.Option(help="RunConfig's keys (sandbox, limits, budget, …) as a JSON object.")
    ] = "{}",
) -> None:
    """Be a Jupyter kernel whose cells are tasks for a model in a sandbox."""
    from lis_kernel.agent_kernel.app import config_of, serve

    words = json_object(config, "--config")
    serve(connection_file, config_of(words, model))
