"""`lis image`: the Python environment that every sandbox sees."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lis_kernel.sandbox import image

__all__ = ["app"]

app = typer.Typer(help="The sandbox's Python environment.", no_args_is_help=True)


@app.command()
def build() -> None:
    """Build it, unless it is there. A run builds it by itself when it is missing."""
    built = image.build(say=print)
    print(f"{built.root}\n{built.digest}")


@app.command("show")
def show_image(
    as_json: Annotated[
        bool, typer.Option("--json", help="root, digest, python, packages.")
    ] = False,
) -> None:
    """Say what is in it."""
    built = image.find()
    if as_json:
        facts = None
        if built is not None:
            facts = {
                "root": str(built.root),
                "digest": built.digest,
                "python": built.python,
                "packages": list(built.packages),
            }
        print(json.dumps(facts, indent=2))
    elif built is None:
        print("not built yet: lis image build")
    else:
        print(f"{built.root}\n{built.digest}\nPython {built.python}")
        print("\n".join(built.packages))
