"""`lis ps` and `lis clean`: the sandboxes of this user, and what dead owners left of theirs.

What they know comes from the record in each sandbox's folder, see `sandbox/state.py`, and from the
labels of containers whose folder is gone. A dead owner's sandbox is removed by its keeper within a
second, so `clean` finds something only where the keeper was killed too.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lis_kernel.sandbox import container_labels
from lis_kernel.sandbox.berth import zygotes
from lis_kernel.sandbox.docker import DockerSandbox
from lis_kernel.sandbox.podman import PodmanSandbox
from lis_kernel.sandbox.reaper import members, read_record, reap
from lis_kernel.sandbox.state import owner_alive, runtime_dir

__all__ = ["clean", "ps"]

Json = Annotated[bool, typer.Option("--json", help="A list of objects.")]


def ps(as_json: Json = False) -> None:
    """List this user's sandboxes: id, backend, owner, whether it lives, age and processes."""
    found = [*(facts(folder) for folder in folders()), *(row for _, row in strays())]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print("no sandboxes")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("SANDBOX", "BACKEND", "OWNER", "AGE", "PROCESSES", "HOST UID"):
        table.add_column(title)
    for row in found:
        owner = f"{row['owner']}" + ("" if row["alive"] else " (dead)")
        age = "?" if row["age"] is None else f"{row['age']:.0f} s"
        uid = "" if row["host_uid"] is None else str(row["host_uid"])
        table.add_row(row["id"], row["backend"], owner, age, str(row["processes"]), uid)
    Console(soft_wrap=True).print(table)


def clean(
    everything: Annotated[
        bool, typer.Option("--all", help="Also end the sandboxes of living owners.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove the sandboxes of dead owners: processes, containers, groups, mounts and folders."""
    removed = []
    for folder in folders():
        row = facts(folder)
        if everything or not row["alive"]:
            reap(folder)
            removed.append(row)
    for container, row in strays():
        if everything or not row["alive"]:
            with contextlib.suppress(Exception):  # it is going by itself
                container.remove(force=True, v=True)
            removed.append(row)
    if as_json:
        print(json.dumps(removed, indent=2))
    else:
        print("\n".join(f"removed {row['id']}" for row in removed) or "nothing to remove")


def folders() -> list[Path]:
    """The folders of this user's sandboxes, oldest name first, and of the zygotes' jails."""
    found = sorted(path for path in runtime_dir().iterdir() if (path / "owner").is_file())
    jails = (path for path in zygotes().glob("*/*") if (path / "owner").is_file())
    return [*found, *jails]


def strays() -> list[tuple[Any, dict[str, Any]]]:
    """Containers of ours without a folder, of the engines that run; with their rows."""
    found = []
    for backend in (DockerSandbox, PodmanSandbox):
        client = backend.running()
        if client is not None:
            with contextlib.suppress(Exception), contextlib.closing(client):
                found += container_labels.strays(client, backend.backend)
    return found


def facts(folder: Path) -> dict[str, Any]:
    """One row of `lis ps --json`."""
    record = read_record(folder)
    created = record.get("created")
    groups = [Path(path) for path in record.get("cgroups", [])]
    return {
        "id": folder.name.lstrip("."),
        "backend": record.get("backend", "?"),
        "owner": record.get("owner"),
        "alive": owner_alive(folder) is not False,
        "created": created,
        "age": None if created is None else max(0.0, time.time() - created),
        "ttl": record.get("ttl"),
        "processes": len(members(folder.name, groups)),
        "host_uid": record.get("host_uid"),
        "folder": str(folder),
    }
