"""What became of each run in a folder, without reading the runs: for lists of many.

A trajectory notebook ends with its metadata, where the outcome stands, so a list reads the end of
each file; only a run that was killed before it could say is read whole, for its turns and usage.
A file that cannot be read is listed with the reason. Used by `lis runs` and `server/`.
"""

from __future__ import annotations

import calendar
import errno
import json
import os
import stat
import time
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from lis_kernel.errors import SchemaError
from lis_kernel.trajectory.notebook import KEY, SCHEMA
from lis_kernel.types import StopReason, Usage, Value

__all__ = ["Summary", "summaries", "summary", "there"]

NOTEBOOK = "trajectory.ipynb"
TAIL_BYTES = 64_000
"""Read first from the end; eight times as much while the metadata does not begin in it."""
MOST = 1e15
"""Of any number in an outcome: JavaScript counts so far, and a list has room for it."""
METADATA = b'\n "metadata": {'
"""Top-level key as nbformat lays it out: no string in JSON can hold a raw newline."""


class Summary(Value):
    """One run, as far as its notebook tells."""

    id: str
    """Its folder's name."""
    path: Path
    task: str = ""
    model: str = ""
    stop_reason: StopReason | None = None
    """None if it runs, was killed, or cannot be read."""
    detail: str = ""
    answer: str | None = None
    turns: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    """From start to end; of a killed run from its start to its last save."""
    created: float = 0.0
    """Seconds since the epoch."""
    files: tuple[str, ...] = ()
    """Names below the run's `files/`."""
    damage: str = ""
    """Why the notebook cannot be read, if so."""


def summaries(out: Path, without: Collection[Path] = ()) -> list[Summary]:
    """The runs below `out`, newest first; empty if there is no such folder.

    `without` are notebooks to leave out: those of runs that can be asked themselves.
    """
    try:
        found = [folder / NOTEBOOK for folder in out.iterdir()]
    except OSError:
        return []
    skipped = {os.path.realpath(path) for path in without}
    runs = [
        summary(path) for path in found if there(path) and os.path.realpath(path) not in skipped
    ]
    return sorted(runs, key=lambda run: (run.created, run.id), reverse=True)


def there(path: Path) -> bool:
    """Whether there is something of this name, be it out of reach."""
    try:
        path.lstat()
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return True


def summary(path: Path) -> Summary:
    """The run whose notebook is `path`; never raises for what the file is or holds."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # a pipe would be waited for
            return _damaged(path, 0.0, "it is no plain file")
        return _read(path, (info.st_ino, info.st_mtime_ns, info.st_size))
    except OSError as error:
        return _damaged(path, 0.0, error.strerror or str(error))


@lru_cache(maxsize=4096)
def _read(path: Path, version: tuple[int, int, int]) -> Summary:
    """`version` keys the cache: a list that is asked for every second reads what changed."""
    saved = version[1] / 1e9
    try:
        ours, cells = _ours(_end_of(path, version[2])), None
        if "stop_reason" not in ours:
            notebook = json.loads(path.read_bytes())
            ours, cells = _ours(notebook), notebook["cells"]
    except OSError as error:
        return _damaged(path, saved, error.strerror or str(error))
    except SchemaError as error:
        return _damaged(path, saved, str(error))
    except (ValueError, LookupError, RecursionError) as error:
        return _damaged(path, saved, f"it is no notebook ({_named(error)})")
    try:
        return _summary(path, ours, cells, saved)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return _damaged(path, saved, f"its `{KEY}` metadata is damaged ({_named(error)})")


def _end_of(path: Path, size: int) -> Any:
    """The notebook without its cells, if it is laid out as usual; else all of it."""
    with path.open("rb") as file:
        most = TAIL_BYTES
        while most < size:
            file.seek(size - most)
            tail = file.read(most)
            if (start := tail.rfind(METADATA)) >= 0:
                try:
                    return json.loads(b"{" + tail[start:])
                except ValueError:
                    break
            most *= 8
        file.seek(0)
        return json.loads(file.read())


def _ours(notebook: Any) -> dict[str, Any]:
    metadata = notebook.get("metadata") if isinstance(notebook, dict) else None
    ours = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(ours, dict):
        raise SchemaError(f"it is no trajectory: it has no `{KEY}` metadata")
    if ours.get("schema") != SCHEMA:
        raise SchemaError(f"its schema is {ours.get('schema')!r}; this release reads {SCHEMA}")
    return ours


def _summary(path: Path, ours: dict[str, Any], cells: list[Any] | None, saved: float) -> Summary:
    created = float(calendar.timegm(time.strptime(ours["created"], "%Y-%m-%dT%H:%M:%SZ")))
    facts: dict[str, Any] = {
        "id": _name(path),
        "path": path,
        "task": ours["task"]["prompt"],
        "model": ours["config"]["model"]["name"],
        "created": created,
    }
    if cells is None:
        names = ("stop_reason", "detail", "answer", "turns", "usage", "seconds", "files")
        facts |= {name: ours[name] for name in names}
        return _plausible(facts)
    turns = [own for own in map(_own, cells) if own.get("kind") == "turn"]
    usage = sum((Usage.model_validate(own["reply"]["usage"]) for own in turns), Usage())
    facts |= {"turns": len(turns), "usage": usage, "seconds": max(0.0, saved - created)}
    return _plausible(facts)


def _plausible(facts: dict[str, Any]) -> Summary:
    """Raises ValueError: a number can be none of a run's; Python reads `Infinity` and `NaN`."""
    run = Summary.model_validate(facts)
    numbers = {"turns": run.turns, "seconds": run.seconds, **run.usage.model_dump()}
    for name, number in numbers.items():
        if number is not None and not 0 <= number <= MOST:
            raise ValueError(f"{name} is {number}")
    return run


def _own(cell: Any) -> dict[str, Any]:
    own: dict[str, Any] = cell["metadata"].get(KEY, {})
    return own


def _damaged(path: Path, saved: float, why: str) -> Summary:
    return Summary(id=_name(path), path=path, created=saved, damage=why)


def _name(path: Path) -> str:
    """The run's folder; a name that is no Unicode as near as can be."""
    return os.fsencode(path.parent.name).decode("utf-8", "replace")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
