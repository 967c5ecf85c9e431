"""`lis kernelspec`: put sandboxed kernels where Jupyter's tools find them, list and remove them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lis_kernel import registry
from lis_kernel.cli.options import as_options
from lis_kernel.config import DEFAULT_BACKEND
from lis_kernel.errors import ConfigError

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpecManager

__all__ = ["app"]

app = typer.Typer(help="Sandboxed kernels for Jupyter's launchers.", no_args_is_help=True)


@app.command()
def install(
    user: Annotated[bool, typer.Option("--user", help="For this user, all environments.")] = False,
    sys_prefix: Annotated[
        bool, typer.Option("--sys-prefix", help="In this Python environment (the default).")
    ] = False,
    prefix: Annotated[
        Path | None, typer.Option(help="In PREFIX/share/jupyter/kernels.", show_default=False)
    ] = None,
    backend: Annotated[str, typer.Option(help="Which kind of sandbox.")] = DEFAULT_BACKEND,
    name: Annotated[
        str | None, typer.Option(help="Name for launchers' options.", show_default="lis-python")
    ] = None,
    display_name: Annotated[
        str | None, typer.Option(help="Name in launchers.", show_default="Python 3 (sandbox)")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="none, open or allow=HOST,…", show_default="none")
    ] = None,
    mount: Annotated[
        list[str] | None,
        typer.Option(help="HOST_PATH:SANDBOX_PATH[:rw]; may be repeated.", show_default=False),
    ] = None,
    agent: Annotated[
        bool, typer.Option("--agent", help="One whose cells are tasks for a model: lis-agent.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="With --agent: which model answers.", show_default="by key, else local"),
    ] = None,
    config: Annotated[
        str, typer.Option(help="More settings (image, limits, …) as a JSON object.")
    ] = "{}",
    argv_only: Annotated[
        bool,
        typer.Option("--argv-only", help="For servers of an environment without lis_kernel."),
    ] = False,
) -> None:
    """Install one, replacing its namesake.

    `jupyter execute --kernel_name=NAME notebook.ipynb` then runs in it; without the underscore that
    program takes no notice, and runs the notebook outside.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    from lis_kernel.kernel import kernelspec

    if user + sys_prefix + (prefix is not None) > 1:
        raise ConfigError("--prefix", "--user, --sys-prefix and --prefix exclude each other.")
    if model is not None and not agent:
        raise ConfigError("--model", "is of an agent's kernel.", "Use it with --agent.")
    words = _words(backend, network, mount, config, agent=agent, model=model)
    how: dict[str, Any] = {"display_name": display_name, "python": sys.executable}
    if agent:
        spec = kernelspec.describe_agent(words, model=model, **how)
    else:
        spec = kernelspec.describe(words, provisioner=not argv_only, **how)
    with TemporaryDirectory() as folder:
        source = Path(folder) / "spec"
        kernelspec.write(source, spec, "logos-agent" if agent else "logos")
        try:
            place = KernelSpecManager().install_kernel_spec(
                str(source),
                name or (kernelspec.AGENT if agent else kernelspec.default_name(backend)),
                user=user,
                prefix=None if user else str(prefix or sys.prefix),
            )
        except ValueError as error:
            raise ConfigError("--name", f"{error}") from error
        except OSError as error:
            raise ConfigError(
                "--prefix", f"{error.filename}: {error.strerror}.", "Try --user."
            ) from error
    print(f"{spec['display_name']}: {place}")
    found = KernelSpecManager().find_kernel_specs().get(Path(place).name)
    if found is not None and Path(found) != Path(place):
        print(f"note: from here Jupyter takes {found}; give yours another --name", file=sys.stderr)


def _words(
    backend: str,
    network: str | None,
    mount: list[str] | None,
    config: str,
    *,
    agent: bool,
    model: str | None,
) -> dict[str, Any]:
    """The spec's settings, checked as far as they can be before a sandbox starts."""
    from lis_kernel.kernel.settings import parse
    from lis_kernel.models import split_name
    from lis_kernel.sandbox import fitting

    registry.load(registry.SANDBOXES, backend, "--backend")
    try:
        words = json.loads(config)
    except ValueError as error:
        raise ConfigError("--config", f"is not JSON: {error}.") from error
    if not isinstance(words, dict):
        raise ConfigError("--config", "is not a JSON object.")
    words["backend"] = backend
    if network is not None:
        words["network"] = network
    if mount:
        words["mounts"] = mount
    if agent:
        from lis_kernel.agent_kernel.app import config_of

        run = config_of(words, model)
        registry.load(registry.MODELS, split_name(run.model.name)[0], "--model")
        checked = run.sandbox
    else:
        checked, _ = parse(words, "--config")
    with as_options({"mounts": "--mount"}):
        fitting.check(checked, backend)
    return words


@app.command("list")
def list_specs(
    as_json: Annotated[
        bool, typer.Option("--json", help="name, display_name, config, folder.")
    ] = False,
) -> None:
    """Show those that Jupyter finds from here."""
    found = _ours(_manager())
    if as_json:
        print(json.dumps(found, indent=2))
    elif not found:
        print("none: lis kernelspec install")
    for spec in [] if as_json else found:
        settings = " ".join(f"{name}={value}" for name, value in spec["config"].items())
        print(f"{spec['name']:16} {spec['display_name']:30} {settings}\n  {spec['folder']}")


@app.command(no_args_is_help=True)
def remove(names: Annotated[list[str], typer.Argument(help="As `lis kernelspec list`.")]) -> None:
    """Remove some; other packages' kernels are left alone."""
    manager = _manager()
    known = {spec["name"] for spec in _ours(manager)}
    for name in names:
        if name not in known:
            raise ConfigError(
                "NAME", f"no sandboxed kernel {name!r}.", f"Known: {', '.join(sorted(known))}."
            )
    for name in names:
        print(f"removed {manager.remove_kernel_spec(name)}")


def _manager() -> KernelSpecManager:
    from jupyter_client.kernelspec import KernelSpecManager

    return KernelSpecManager(ensure_native_kernel=False)


def _ours(manager: KernelSpecManager) -> list[dict[str, Any]]:
    from lis_kernel.kernel.kernelspec import PROVISIONER

    found = []
    for name, entry in sorted(manager.get_all_specs().items()):
        spec = entry["spec"]
        stanza = spec["metadata"].get("kernel_provisioner", {})
        by_argv = spec["argv"][1:4] == ["-m", "lis_kernel", "kernel"]
        by_argv |= spec["argv"][2:5] == ["-m", "lis_kernel", "agent-kernel"]
        if by_argv or stanza.get("provisioner_name") == PROVISIONER:
            found.append(
                {
                    "name": name,
                    "display_name": spec["display_name"],
                    "config": stanza.get("config", {}),
                    "folder": entry["resource_dir"],
                }
            )
    return found
