"""The command `lis`. Each command is a file here; heavy parts are imported when a command runs.

Exit codes: 0 submitted or done, 2 wrong usage, 3 a budget stopped the run, 4 the model failed,
5 the sandbox failed, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from lis_kernel.cli import (
    agent_kernel,
    doctor,
    image,
    kernel,
    kernelspec,
    model,
    run,
    runs,
    sandboxes,
    show,
)
from lis_kernel.errors import ConfigError, LisKernelError, ModelError, SandboxError

__all__ = ["app", "main"]

app = typer.Typer(
    name="lis",
    help="Give any LLM a computer: sandboxed kernels, and every run an executable notebook.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("run", no_args_is_help=True)(run.run)
app.command("show", no_args_is_help=True)(show.show)
app.command("runs")(runs.runs)
for command in (runs.attach, runs.pause, runs.resume, runs.say, runs.stop):
    app.command()(command)
app.command("doctor")(doctor.doctor)
app.command("ps")(sandboxes.ps)
app.command("clean")(sandboxes.clean)
app.add_typer(model.app, name="model")
app.add_typer(image.app, name="image")
app.add_typer(kernelspec.app, name="kernelspec")
app.command("kernel", hidden=True)(kernel.kernel)
app.command("agent-kernel", hidden=True)(agent_kernel.agent_kernel)


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    """Give any LLM a computer: sandboxed kernels, and every run an executable notebook."""
    level = logging.DEBUG if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def main() -> None:
    """The console script: errors of ours become one clear line and an exit code."""
    _open_streams()
    try:
        app()
    except LisKernelError as error:
        _say(str(error))
        code = {ConfigError: 2, ModelError: 4, SandboxError: 5}
        sys.exit(next((n for kind, n in code.items() if isinstance(error, kind)), 1))
    except OSError as error:
        if error.filename is not None:
            raise
        _say(f"the output cannot be written: {error.strerror}")  # e.g. to a full disk
        sys.exit(1)


def _say(error: str) -> None:
    from lis_kernel.tools.terminal import for_people

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), for_people(error)))


def _open_streams() -> None:
    """Without `0<&-` and the like Python has files in these places; then so have we."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
