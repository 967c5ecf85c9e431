"""A live run, reached from other processes of the same user: over a unix socket, a line each way.

Behind `lis runs`, `lis attach` and the server's pages; the run's own side is `agent/listener.py`. A
run that listens has a record and a socket in a private folder beside the runtime folder; whoever
may enter it may do all that the run's owner may. A request is a JSON object in a line, `{"do":
"pause"}`; so is the answer, which has `error` if it was refused. After `events` a line follows for
each event, until the run ends; its answer tells shortly what happened before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lis_kernel.errors import ConfigError
from lis_kernel.sandbox.state import runtime_dir

__all__ = ["LINE_BYTES", "LiveRun", "ask", "find", "folder_of_runs", "follow", "live_runs"]

LINE_BYTES = 64 << 20
"""An event holds a cell's outputs."""
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class LiveRun:
    """A run that can be reached now."""

    id: str
    """The name of its folder."""
    path: str
    """Of its notebook."""
    pid: int
    task: str
    model: str
    started: float
    """Seconds since the epoch."""
    socket: str


def folder_of_runs() -> Path:
    """Where live runs are found; there while there are any."""
    base = runtime_dir()
    return base.with_name(f"{base.name}-runs")


def live_runs() -> list[LiveRun]:
    """Every run of this user that can be reached, the newest first; what dead ones left goes."""
    folder, found = folder_of_runs(), []
    if not _ours(folder):
        return []
    for record in folder.glob("*.json"):
        try:
            live = LiveRun(**json.loads(record.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if _answers(live.socket):
            found.append(live)
        elif not Path(f"/proc/{live.pid}").exists():
            for left in record.parent.glob(f"{record.stem}*"):
                left.unlink(missing_ok=True)
    return sorted(found, key=lambda live: live.started, reverse=True)


def _ours(folder: Path) -> bool:
    """Whether nobody else can have put a record there: its socket and files would be believed."""
    try:
        info = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        return probe.connect_ex(path) in (0, errno.EAGAIN)


def find(run: str | None = None) -> LiveRun:
    """The live run with this id, beginning of an id, folder or notebook; None for the only one.

    Raises:
        ConfigError: there is none, there are several, or `run` is empty.
    """
    if run == "":  # of an unset variable: every id begins with it, and as a path it is here
        raise ConfigError("RUN", "it is empty.", "Name a run, or leave RUN out for the only one.")
    runs = live_runs()
    if run is not None:
        exact = [live for live in runs if run == live.id or _same(run, live.path)]
        runs = exact or [live for live in runs if live.id.startswith(run)]
    names = ", ".join(live.id for live in runs[:5])
    if not runs:
        which = f"no live run is called {run!r}" if run else "no run is live"
        raise ConfigError("RUN", f"{which}.", "`lis runs` lists them.")
    if len(runs) > 1:
        raise ConfigError("RUN", f"{len(runs)} runs are live: {names}.", "Name one.")
    return runs[0]


def _same(given: str, notebook: str) -> bool:
    if "\0" in given:  # from a notebook's metadata; no path has it
        return False
    # a name that is too long, or a loop of links, has a real path as well
    return Path(os.path.realpath(given)) in (Path(notebook), Path(notebook).parent)


@contextlib.asynccontextmanager
async def _connected(
    live: LiveRun,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        reader, writer = await asyncio.open_unix_connection(live.socket, limit=LINE_BYTES)
    except OSError as error:
        raise ConfigError("RUN", f"{live.id} has ended.", "`lis runs` lists live ones.") from error
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(live: LiveRun, do: str, **words: Any) -> dict[str, Any]:
    """One request of a live run, and its answer.

    `do` is `status`, `pause`, `resume`, `stop`, `say` (with `text`) or `attach`. All but `attach`,
    which answers with `connection_file`, answer with the run's status.

    Raises:
        ConfigError: the run has ended, or refused.
        TimeoutError: it does not answer.
    """
    async with asyncio.timeout(ANSWER_SECONDS), _connected(live) as (reader, writer):
        return await _request(live, reader, writer, {"do": do, **words})


async def follow(live: LiveRun) -> AsyncIterator[dict[str, Any]]:
    """What happens in a live run from now on, as `events.to_json`, until it ends.

    The first is its `status`, with a `recap` of what happened before: dumps of `recap.Entry`. Who
    does not take the events for long gets another status, in place of those that were dropped.

    Raises:
        ConfigError: the run has ended before it could be followed.
    """
    behind = False
    while True:
        try:
            async with _connected(live) as (reader, writer):
                yield {"event": "status", **await _request(live, reader, writer, {"do": "events"})}
                behind = False
                with contextlib.suppress(ConnectionError):
                    while not behind and (line := await reader.readline()).endswith(b"\n"):
                        event = json.loads(line)  # only the last line may be cut off
                        behind = event["event"] == "behind"
                        if not behind:
                            yield event
        except ConfigError:
            if behind:  # it ended meanwhile
                return
            raise
        if not behind:
            return


async def _request(
    live: LiveRun,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    words: dict[str, Any],
) -> dict[str, Any]:
    line = b""
    with contextlib.suppress(ConnectionError):
        writer.write(json.dumps(words).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConfigError("RUN", f"{live.id} ended before it answered.")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ConfigError("RUN", f"{live.id} refused: {answer['error']}")
    return answer
