"""`lis doctor`: what works on this machine, and why the rest does not."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lis_kernel import registry
from lis_kernel.config import DEFAULT_BACKEND, Limits, SandboxConfig
from lis_kernel.errors import LisKernelError

__all__ = ["doctor"]


class Finding(NamedTuple):
    """One row: `ok` is True, False, or None for something that is optional and absent."""

    name: str
    ok: bool | None
    detail: str


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="A list of {name, ok, detail}.")] = False,
    attack: Annotated[
        bool, typer.Option("--attack", help="Try to break out of a sandbox instead.")
    ] = False,
    backend: Annotated[
        str, typer.Option(help="Attacked sandbox.", rich_help_panel="With --attack")
    ] = DEFAULT_BACKEND,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Only this family; repeatable.", rich_help_panel="With --attack"),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="docker, podman: an OCI runtime.", rich_help_panel="With --attack"),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every attempt.", rich_help_panel="With --attack")
    ] = False,
) -> None:
    """Say what works here and why not. Exit code 1 if no sandbox or no model can be used.

    With --attack: try to break out of a sandbox. Exit code 1 if anything got through. With --json
    a list of {name, family, backend, result, stopped_by, canary}.
    """
    if attack:
        from lis_kernel.cli.attack import attack_backend

        options = {"runtime": runtime} if runtime else {}
        attack_backend(backend, family or (), options, as_json, every)
    findings = [_row(name, check) for name, check in CHECKS.items()]
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for finding in findings:
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]--[/]"}[finding.ok]
            table.add_row(mark, finding.name, escape(finding.detail))
        Console(soft_wrap=True, emoji=False).print(table)
    good = {finding.name for finding in findings if finding.ok}
    models = {"anthropic", "openai", "local model"}
    raise typer.Exit(0 if "sandbox" in good and good & models else 1)


def _row(name: str, check: Callable[[], tuple[bool | None, str]]) -> Finding:
    try:
        return Finding(name, *check())
    except LisKernelError as error:
        return Finding(name, False, str(error))
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {error}")


def _python() -> tuple[bool | None, str]:
    parts = [f"{name} {version(name)}" for name in ("jupyter_client", "ipykernel", "nbformat")]
    here = f"Python {platform.python_version()} on {platform.system()} {platform.release()}"
    return sys.version_info >= (3, 11), ", ".join(
        [f"lis-kernel {version('lis-kernel')}", here, *parts]
    )


def _bubblewrap() -> tuple[bool | None, str]:
    from lis_kernel.sandbox import bubblewrap

    return True, f"{bubblewrap.check()} at {bubblewrap.find_bwrap()}"


def _image() -> tuple[bool | None, str]:
    from lis_kernel.sandbox import image

    built = image.find()
    if built is None:
        return None, "not built yet: `lis image build`, or the first run does it"
    return True, f"Python {built.python}, {len(built.packages)} packages, {built.digest[:19]}"


def _sandbox() -> tuple[bool | None, str]:
    from lis_kernel.sandbox import image

    if image.find() is None:
        return None, "not tried: the image is not built yet"
    return True, asyncio.run(_try_sandbox())


def _zygote() -> tuple[bool | None, str]:
    from lis_kernel.sandbox import image

    if image.find() is None:
        return None, "not tried: the image is not built yet"
    asyncio.run(_try_sandbox(DEFAULT_BACKEND))  # starts the zygote, if need be
    said = asyncio.run(_try_sandbox(DEFAULT_BACKEND))
    return None if "cold" in said else True, said


async def _try_sandbox(backend: str = "bubblewrap") -> str:
    """Start a real sandbox, run a cell, and see that it has no network and no host files."""
    from lis_kernel.kernel.session import KernelSession

    limits = Limits(cell_seconds=20)
    sandbox = registry.load(registry.SANDBOXES, backend, "--backend")(SandboxConfig(), limits)
    started = time.monotonic()
    await sandbox.start()
    session = KernelSession(sandbox, limits, "pass")
    try:
        await session.start()
        seconds = time.monotonic() - started
        home = os.path.expanduser("~")
        result = await session.execute(PROBE.format(home=home))
        if result.status != "ok":
            raise LisKernelError(f"the probe failed: {result.outputs}")
    finally:
        await session.close()
        await sandbox.stop()
    cold = str(sandbox.describe().get("started", ""))
    why = f", {cold}" if cold.startswith("cold") else ""
    return f"kernel ready in {1000 * seconds:.0f} ms{why}; no network, no host files"


def _limits() -> tuple[bool | None, str]:
    from lis_kernel.sandbox import image, limits
    from lis_kernel.sandbox.zygote import ZygoteSandbox

    if image.find() is None:
        return None, "not tried: the image is not built yet"

    async def facts() -> Mapping[str, Any]:
        sandbox = ZygoteSandbox(SandboxConfig(), Limits())
        try:
            await sandbox.start()
            return sandbox.describe()
        finally:
            await sandbox.stop()

    all_held, said = limits.in_words(asyncio.run(facts()))
    return (True if all_held else None), said


PROBE = """
import os, socket
try:
    socket.create_connection(("192.0.2.1", 53), 1)
except OSError as error:
    assert error.errno == 101, error
else:
    raise AssertionError("the network can be reached")
assert not os.path.exists({home!r} + "/.bashrc") or {home!r} == "/home/user", "host files"
assert os.getuid() == 1000
"""


def _docker() -> tuple[bool | None, str]:
    from lis_kernel.cli import doctor_engines

    return doctor_engines.docker()


def _podman() -> tuple[bool | None, str]:
    from lis_kernel.cli import doctor_engines

    return doctor_engines.podman()


def _anthropic() -> tuple[bool | None, str]:
    return _key("ANTHROPIC_API_KEY", "--model anthropic/MODEL")


def _openai() -> tuple[bool | None, str]:
    if url := os.environ.get("OPENAI_BASE_URL"):
        return True, f"OPENAI_BASE_URL={url}"
    return _key("OPENAI_API_KEY", "--model openai/MODEL")


def _key(name: str, use: str) -> tuple[bool | None, str]:
    if os.environ.get(name):
        return True, f"{name} is set: {use}"
    return None, f"{name} is not set"


def _local() -> tuple[bool | None, str]:
    if find_spec("xllamacpp") is None:
        return None, "not installed: pip install 'lis-kernel[local]'"
    from lis_kernel.models.weights import CATALOGUE, local_path

    here = [name for name, weights in CATALOGUE.items() if local_path(weights)]
    return True, "weights: " + (", ".join(here) or "none yet, the first run fetches them (1.1 GB)")


CHECKS: dict[str, Callable[[], tuple[bool | None, str]]] = {
    "python": _python,
    "bubblewrap": _bubblewrap,
    "image": _image,
    "sandbox": _sandbox,
    "zygote": _zygote,
    "limits": _limits,
    "docker": _docker,
    "podman": _podman,
    "anthropic": _anthropic,
    "openai": _openai,
    "local model": _local,
}
