"""Writes the folder that makes a sandboxed kernel show up in Jupyter: kernel.json and logos.

One function writes both what the wheel ships (`kernelspecs/` of the repository is its output) and
what `lis kernelspec install` puts in place, so that they cannot drift apart.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from lis_kernel.config import DEFAULT_BACKEND

__all__ = [
    "AGENT",
    "PROVISIONER",
    "SHIPPED",
    "default_name",
    "describe",
    "describe_agent",
    "describe_attach",
    "write",
]

AGENT = "lis-agent"
PROVISIONER = "lis-provisioner"
SHIPPED = (DEFAULT_BACKEND, "docker", "podman")
"""Backends whose kernelspecs the wheel installs."""


def default_name(backend: str) -> str:
    """The kernelspec's name: `lis-python` on the default backend, else `lis-<backend>`."""
    return (
        "lis-python" if backend == DEFAULT_BACKEND else f"lis-{backend.partition(':')[0].lower()}"
    )


def default_display_name(words: Mapping[str, Any], what: str = "Python 3") -> str:
    """What a launcher shows; anything weaker than the default is said here."""
    backend = words.get("backend", DEFAULT_BACKEND)
    notes = ["sandbox"]
    if backend == "local":
        notes = ["NO sandbox"]
    elif backend != DEFAULT_BACKEND:
        notes.append(backend.capitalize())
    if (network := words.get("network", "none")) != "none" and backend != "local":
        notes.append("open network" if network == "open" else "some network")
    return f"{what} ({', '.join(notes)})"


def describe(
    words: Mapping[str, Any],
    *,
    display_name: str | None = None,
    python: str = "python",
    provisioner: bool = True,
) -> dict[str, Any]:
    """The content of kernel.json.

    Args:
        words: settings of the sandbox, see `settings.parse`; checked by the caller.
        python: the interpreter of `argv`; jupyter_client takes its own for plain `python`.
        provisioner: False leaves only `argv`, for servers of another Python environment, where
            the provisioner is not installed.
    """
    words = {"backend": DEFAULT_BACKEND, **words}
    argv = [python, "-m", "lis_kernel", "kernel", "-f", "{connection_file}"]
    argv += ["--backend", words["backend"]]
    if rest := {name: value for name, value in words.items() if name != "backend"}:
        argv += ["--config", json.dumps(rest)]
    metadata: dict[str, Any] = {"debugger": False}
    if provisioner:
        metadata["kernel_provisioner"] = {"provisioner_name": PROVISIONER, "config": words}
    return {
        "argv": argv,
        "display_name": display_name or default_display_name(words),
        "language": "python",
        "interrupt_mode": "message",
        "metadata": metadata,
    }


def describe_attach() -> dict[str, Any]:
    """The content of kernel.json of `lis-attach`: a notebook in the sandbox of a live run."""
    return {
        # for tools that know no provisioner: it says how to join
        "argv": ["python", "-m", "lis_kernel", "attach"],
        "display_name": "Join a running agent",
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {
            "debugger": False,
            "kernel_provisioner": {"provisioner_name": "lis-attach-provisioner", "config": {}},
        },
    }


def describe_agent(
    words: Mapping[str, Any] | None = None,
    *,
    model: str | None = None,
    display_name: str | None = None,
    python: str = "python",
) -> dict[str, Any]:
    """The content of kernel.json of `lis-agent`: a notebook whose cells are tasks.

    Args:
        words: settings of the runs, see `agent_kernel/app.py`; checked by the caller.
        model: which model answers; None takes what there is a key for when the kernel starts.
        python: as in `describe`.
    """
    words = words or {}
    # -P: nothing that lies beside a notebook may pass for a module of this process
    argv = [python, "-P", "-m", "lis_kernel", "agent-kernel", "-f", "{connection_file}"]
    if model is not None:
        argv += ["--model", model]
    if rest := {k: v for k, v in words.items() if (k, v) != ("backend", DEFAULT_BACKEND)}:
        argv += ["--config", json.dumps(rest)]
    return {
        "argv": argv,
        "display_name": display_name or default_display_name(words, "Agent"),
        "language": "markdown",
        "interrupt_mode": "message",
        "metadata": {"debugger": False},
    }


def write(folder: Path, spec: Mapping[str, Any], logos_of: str = "logos") -> None:
    """Fill `folder`, which may exist, with kernel.json and the logos."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n", "utf-8")
    with as_file(files("lis_kernel.kernel").joinpath(logos_of)) as logos:
        for logo in sorted(logos.iterdir()):
            shutil.copyfile(logo, folder / logo.name)


def write_shipped(root: Path) -> None:
    """Write what the wheel ships below `root`; `make kernelspecs` calls it."""
    for backend in SHIPPED:
        write(root / default_name(backend), describe({"backend": backend}))
    write(root / "lis-attach", describe_attach())
    write(root / AGENT, describe_agent(), "logos-agent")


if __name__ == "__main__":
    write_shipped(Path(sys.argv[1]))
