"""Removes the container of a sandbox whose owner is dead: `python container_reaper.py FOLDER`.

Run by `reaper.py` where the record in FOLDER names a container. It uses the standard library only
and asks Docker's socket itself, Podman by its command. An owner that died while its container was
being made leaves a request that the engine still carries out: so this looks until nothing can come.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

__all__ = ["remove_container"]

MAKING_SECONDS = 2.0
"""An engine that was asked for a container has made it by then."""
PATIENCE = 10.0
"""Seconds until an engine that does not do it is given up."""
API_SECONDS = 5.0
NOT_THERE = 1
"""Exit status of `podman container exists` where there is none."""


class UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=API_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(API_SECONDS)
        self.sock.connect(self._path)


def remove_container(name: str, facts: dict[str, Any]) -> bool:
    """Whether the container `name` is gone for good.

    Args:
        facts: `engine` and what reaches it, see `DockerSandbox.engine`; `made` is true where the
            engine has answered the request to make it.
    """
    begun = time.monotonic()
    until = begun if facts.get("made") else begun + MAKING_SECONDS
    while time.monotonic() < begun + PATIENCE:
        if _gone(name, facts) and time.monotonic() >= until:
            return True
        time.sleep(0.05)
    return False


def _gone(name: str, facts: dict[str, Any]) -> bool:
    """Ask for its removal once; True if there is none, or no engine."""
    if facts.get("engine") == "podman":
        return _podman(["exists", name], facts) == NOT_THERE or (
            _podman(["rm", "--force", "--volumes", "--time", "0", name], facts) == 0
            and _podman(["exists", name], facts) == NOT_THERE
        )
    connection = UnixConnection(facts.get("socket", ""))
    try:
        with contextlib.closing(connection):
            connection.request("DELETE", f"/containers/{name}?force=1&v=1")
            return connection.getresponse().status == 404
    except (FileNotFoundError, ConnectionRefusedError):
        return True  # no daemon, nobody to ask: whoever starts a sandbox next looks by labels
    except (OSError, HTTPException):
        return False


def _podman(arguments: list[str], facts: dict[str, Any]) -> int:
    env = {**os.environ, **facts.get("environment", {})}
    command = ["podman", "container", *arguments]
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode


def main(folder: Path) -> None:
    facts = json.loads((folder / "state.json").read_text("utf-8")).get("container")
    if isinstance(facts, dict):
        # of the record's facts only how to ask: the name is the folder's, and so ours
        remove_container(f"lis-{folder.name}", facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
