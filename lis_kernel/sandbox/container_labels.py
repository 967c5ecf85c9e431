"""Whose container it is: labels that let another process find it and tell whether its owner lives.

The owner's record (`state.py`) is the first to know a container; labels are for those that have
lost theirs. Used at every start, by `lis ps` and by `lis clean`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lis_kernel.sandbox.state import runtime_dir

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "LABEL",
    "listed",
    "owner_labels",
    "pid_namespace",
    "process_start",
    "remove_orphans",
    "strays",
]

log = logging.getLogger(__name__)

LABEL = "lis.kernel"


def owner_labels(name: str, seconds: float | None) -> dict[str, str]:
    """Of a new container: `name` is `lis-` and the sandbox's id, `seconds` its time to live."""
    return {
        LABEL: "1",
        "lis.id": name.removeprefix("lis-"),
        "lis.runtime": str(runtime_dir()),
        "lis.owner.pid": str(os.getpid()),
        "lis.owner.start": process_start(os.getpid()),
        "lis.owner.pidns": pid_namespace(),
        "lis.created": f"{time.time():.0f}",
        "lis.ttl": f"{seconds or 0:g}",
    }


def listed(client: DockerClient) -> Iterator[tuple[Any, bool | None]]:
    """Every container of ours, and whether its owner lives: None if that cannot be told here."""
    for found in client.containers.list(all=True, ignore_removed=True, filters={"label": LABEL}):
        yield found, _alive(found.labels)


def strays(client: DockerClient, backend: str) -> list[tuple[Any, dict[str, Any]]]:
    """Containers that have no folder of a sandbox any more, each with its row for `lis ps`.

    Those of other places (`LIS_RUNTIME_DIR`) only where their owner is dead.
    """
    found = []
    base = runtime_dir()
    for container, alive in listed(client):
        labels = container.labels
        name, here = labels.get("lis.id", "?"), labels.get("lis.runtime") == str(base)
        if (base / name).exists() or not (here or alive is False):
            continue
        pid, created = labels.get("lis.owner.pid", ""), float(labels.get("lis.created") or 0)
        row = {
            "id": name,
            "backend": backend,
            "owner": int(pid) if pid.isdigit() else None,
            "alive": alive is not False,
            "created": created,
            "age": max(0.0, time.time() - created),
            "ttl": float(labels.get("lis.ttl") or 0) or None,
            "processes": 0,
            "host_uid": None,
            "folder": None,
        }
        found.append((container, row))
    return found


def _alive(labels: Mapping[str, str]) -> bool | None:
    pid = labels.get("lis.owner.pid", "")
    if labels.get("lis.owner.pidns") != pid_namespace() or not pid.isdigit():
        return None
    return process_start(int(pid)) == labels.get("lis.owner.start")


def remove_orphans(client: DockerClient) -> list[str]:
    """Remove containers of ours whose owner is dead, should one have outlived it; their names."""
    from docker.errors import DockerException

    gone = []
    try:
        for found, alive in listed(client):
            if alive is False:
                found.remove(force=True, v=True)
                gone.append(str(found.name))
    except (DockerException, OSError) as error:
        log.debug("orphans were not looked for: %s", error)
    return gone


def process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if there is none. Pids come again."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if facts[0] in "ZX" else facts[19]  # dead, and nobody has taken note yet


def pid_namespace() -> str:
    """Pids of another namespace, or another machine, mean nothing here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
