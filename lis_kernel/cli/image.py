"""`lis image`: what every sandbox sees: the Python environment, or the container image with it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lis_kernel import registry
from lis_kernel.agent.events import Fetching
from lis_kernel.cli.view import fetching
from lis_kernel.errors import ConfigError
from lis_kernel.sandbox import container_image, image
from lis_kernel.sandbox.bubblewrap import image_for

__all__ = ["app"]

app = typer.Typer(help="The sandbox's Python environment or image.", no_args_is_help=True)

CONTAINERS = ("docker", "podman")

Backend = Annotated[
    str, typer.Option("--backend", "-b", help="bubblewrap (and zygote), docker or podman.")
]
Tag = Annotated[str | None, typer.Option("--tag", help="docker, podman: the image's name.")]

Rootfs = Annotated[
    Path | None,
    typer.Option(
        "--rootfs", help="zygote, bubblewrap: a folder with an unpacked image to stand on."
    ),
]


@app.command()
def build(
    backend: Backend = "bubblewrap",
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="docker, podman: build from this image; it needs Python 3.11 or newer. "
            f"{container_image.BASE} if left out.",
        ),
    ] = None,
    tag: Tag = None,
    rootfs: Rootfs = None,
) -> None:
    """Build it; a --rootfs is read anew.

    The first run builds bubblewrap's as well; a container's is built only here.
    """
    if rootfs is not None and backend not in ("bubblewrap", "zygote"):
        raise ConfigError("--rootfs", f"backend `{backend}` cannot take one.", "Use bubblewrap.")
    if backend in CONTAINERS:
        client = _class(backend).connect(seconds=1800)
        made = container_image.build(client, base=base, tag=tag, backend=backend, say=print)
        print(f"{made['image_name']}\n{made['image']}")
        return
    if base or tag:
        raise ConfigError("--base, --tag", "only container images have them.", "Add -b docker.")
    console = Console(stderr=True, highlight=False)
    with console.status("") as moving:

        def progress(done: int, total: int, what: str) -> None:
            moving.update(fetching(Fetching(done, total, what, "parts")))

        tree, built = asyncio.run(image_for(rootfs, console.print, progress, again=True))
    if tree is not None:
        print(f"{tree.root}: {tree.system}, {len(tree.packages)} packages\n{tree.digest}")
    print(f"{built.root}\n{built.digest}")


@app.command("show")
def show_image(
    backend: Backend = "bubblewrap",
    tag: Tag = None,
    rootfs: Rootfs = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="root or image, digest, python, packages.")
    ] = False,
) -> None:
    """Say what is in it."""
    if backend in CONTAINERS:
        facts: dict[str, Any] | None = _container(backend, tag)
    else:
        facts = _environment() if rootfs is None else _on(rootfs)
    if as_json:
        print(json.dumps(facts, indent=2))
    elif facts is None:
        print("not built yet: lis image build")
    else:
        where = facts.get("root") or facts["name"]
        print(f"{where}\n{facts['digest']}\nPython {facts['python']}")
        print("\n".join(facts["packages"] or ["packages: not known, another program built it"]))


def _environment() -> dict[str, Any] | None:
    built = image.find()
    if built is None:
        return None
    return {
        "root": str(built.root),
        "digest": built.digest,
        "python": built.python,
        "packages": list(built.packages),
    }


def _on(root: Path) -> dict[str, Any]:
    """Of a tree of the user's own; prepared if it was not yet."""
    tree, built = asyncio.run(image_for(root, lambda _: None))
    return {
        "root": str(built.root),
        "digest": built.digest,
        "python": built.python,
        "packages": list(built.packages),
        "rootfs": tree.facts() if tree else None,
    }


def _container(backend: str, tag: str | None) -> dict[str, Any]:
    name = tag or container_image.default_tag()
    facts = container_image.facts(_class(backend).connect(), name, backend)
    return {
        "name": name,
        "digest": facts["image"],
        "base": facts.get("base"),
        "python": facts.get("python"),
        "packages": facts["packages"],
    }


def _class(backend: str) -> Any:
    return registry.load(registry.SANDBOXES, backend, "--backend")
