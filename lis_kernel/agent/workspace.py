"""The host's side of a run: the files that go in, and the folder that comes out.

`runs/<time>-<slug>/` holds `trajectory.ipynb` and `files/`. Called by `agent/loop.py` at the start.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from lis_kernel.errors import ConfigError

__all__ = ["RunFolder", "check_files", "given_name"]


def check_files(paths: tuple[Path, ...]) -> None:
    """See that the task's files can be given to a sandbox.

    Raises:
        ConfigError: one is missing or unreadable, or two have the same name.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise ConfigError("--files", f"{path} does not exist.", "Give an existing path.")
        if not (path.is_file() or path.is_dir()):
            raise ConfigError("--files", f"{path} is neither a file nor a folder.")
        try:
            path.open("rb").close() if path.is_file() else next(iter(path.iterdir()), None)
        except OSError as error:
            raise ConfigError("--files", f"{path} cannot be read: {error.strerror}.") from error
        name = given_name(path)
        if name in seen:
            raise ConfigError(
                "--files",
                f"{path} and {seen[name]} have the same name.",
                "They would be one file in /testbed/input: rename one, or give their folder.",
            )
        seen[name] = path


def given_name(path: Path) -> str:
    """The name under which `path` appears in /testbed/input: a link's own, and never `..`."""
    return os.path.basename(os.path.abspath(path))


class RunFolder:
    """A new folder for one run, named by time and task."""

    def __init__(self, out: Path, prompt: str) -> None:
        slug = "-".join(re.findall(r"[a-z0-9]+", prompt.lower())[:6])[:40].strip("-") or "run"
        base = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}"
        try:
            out.mkdir(parents=True, exist_ok=True)
            for n in range(1, 10_000):
                self.path = out / (base if n == 1 else f"{base}-{n}")
                try:
                    self.path.mkdir()
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            raise ConfigError("--out", f"{out} cannot be written: {error.strerror}.") from error
        self.notebook = self.path / "trajectory.ipynb"
        self.files = self.path / "files"
