"""The host's side of a run: the files that go in, and the folder that comes out.

`runs/<time>-<slug>/` holds `trajectory.ipynb` and `files/`. Called by `agent/loop.py` at the start
and at the end, where the sandbox still lives but what it left may be hostile.
"""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from lis_kernel.config import amount
from lis_kernel.errors import ConfigError, SandboxError
from lis_kernel.kernel.outputs import clean_text
from lis_kernel.protocols import Sandbox
from lis_kernel.trajectory import inputs

__all__ = [
    "RunFolder",
    "Taken",
    "bytes_of",
    "check_files",
    "given_name",
    "now_of_files",
    "put_in",
    "take_out",
]

log = logging.getLogger(__name__)

ANSWER_FILES = ("/testbed/output/answer.txt", "/testbed/answer.txt")
ANSWER_BYTES = 1_000_000
COARSE = 5
"""Linux's CLOCK_REALTIME_COARSE, by which files get their times; it is a tick behind."""
REFUSALS = 100
"""Most sentences about files that were not taken out; a sandbox can make a million symlinks."""


MORE = "Raise --disk (limits.disk_bytes), or give the folder with --mount."


def check_files(paths: tuple[Path, ...], room: int, more: str = MORE) -> None:
    """See that the task's files can be given to a sandbox with a disk of `room` bytes.

    `more` says how one gets a larger one.

    Raises:
        ConfigError: one is missing or unreadable, two have the same name, or they are too large.
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
    if (needed := sum(map(bytes_of, paths))) > room:
        raise ConfigError(
            "--files",
            f"they take {amount(needed)}, and the sandbox's disk has {amount(room)}.",
            more,
        )


def bytes_of(path: Path) -> int:
    """What a file or folder takes."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def given_name(path: Path) -> str:
    """The name under which `path` appears in /testbed/input: a link's own, and never `..`."""
    return os.path.basename(os.path.abspath(path))


def put_in(
    sandbox: Sandbox, path: Path, folder: Path, *, placed: bool = False
) -> dict[str, Any] | None:
    """Put a file or folder of the task's in; what the notebook in `folder` shall say of it.

    One that was `placed` there before is left as people made it. None if it cannot be described:
    it was removed meanwhile, or its name is no Unicode. Blocks.

    Raises:
        SandboxError, OSError: it could not be put in.
    """
    name = given_name(path)
    if not placed:
        sandbox.put(path, f"/testbed/input/{name}")
    try:
        return inputs.record(name, path, folder).model_dump()
    except (OSError, ValueError) as error:
        log.warning("%a is not recorded as an input of the run: %s", str(path), error)
        return None


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


class Taken(NamedTuple):
    """What came out of a sandbox at the end of a run."""

    answer: str | None
    files: list[str]
    """Names below the run's `files/`."""
    refused: list[str]
    """A sentence for each thing that was not taken, or not as it is."""
    lost: str = ""
    """Why nothing could be taken, if the sandbox was gone."""


def now_of_files() -> int:
    """Nanoseconds since the epoch: what changes from now on has no earlier time than this."""
    return time.clock_gettime_ns(COARSE)


def take_out(sandbox: Sandbox, target: Path, limit: int, since: int = 0) -> Taken:
    """The answer, and what lies in /testbed/output, at most `limit` bytes; blocks while it copies.

    Files, and an answer, that did not change `since` then, in `now_of_files`, are another run's.

    Never raises for what the sandbox left.
    """
    try:
        found = (sandbox.read(path, ANSWER_BYTES, since) for path in ANSWER_FILES)
        data = next((data for data in found if data and data.strip()), None)
    except (SandboxError, OSError) as error:
        return Taken(None, [], [], f"the sandbox was gone before the answer was read: {error}")
    answer = None if data is None else data.decode("utf-8", "replace").rstrip("\r\n")
    names: list[str] = []
    try:
        names, refused = sandbox.collect("/testbed/output", target, limit, since)
    except Exception as error:  # whatever a hostile folder can bring about
        log.debug("the files could not be taken out", exc_info=error)
        refused = [f"the rest of /testbed/output: {type(error).__name__}: {error}"]
    files = [name for name in names if clean_text(name) == name]
    refused += [
        f"{name!a}: taken out, but its name is no Unicode and cannot be listed"
        for name in names
        if clean_text(name) != name
    ]
    if len(refused) > REFUSALS:
        refused[REFUSALS:] = [f"and {len(refused) - REFUSALS} more"]
    return Taken(answer, files, refused)
