"""A live run, reached from other processes of the same user: over a unix socket, a line each way.

Behind `lis runs`, `lis attach` and the server's pages. A run that listens has a record and a socket
in a private folder beside the runtime folder; whoever may enter it may do all that the run's owner
may. A request is a JSON object in a line, `{"do": "pause"}`; so is the answer, which has `error` if
it was refused. After `events` a line follows for each event, until the run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lis_kernel.agent import events
from lis_kernel.errors import ConfigError, LisKernelError
from lis_kernel.sandbox.state import private_folder, runtime_dir

if TYPE_CHECKING:
    from lis_kernel.agent.agent import Agent
    from lis_kernel.agent.loop import Run
    from lis_kernel.kernel.door import Door

__all__ = ["Listener", "LiveRun", "ask", "find", "follow", "live_runs"]

log = logging.getLogger(__name__)

LINE_BYTES = 64 << 20
"""An event holds a cell's outputs."""
BEHIND = 10_000
"""Events that a follower may be behind; then it is left."""
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


def _folder() -> Path:
    """Where live runs are found; there while there are any."""
    base = runtime_dir()
    return base.with_name(f"{base.name}-runs")


# -- the run's side ------------------------------------------------------------------------------


class Listener:
    """Answers for one run. Made, started and closed by `agent/loop.py`."""

    def __init__(self, agent: Agent, run: Run) -> None:
        self._agent = agent
        self._run = run
        self._started = time.time()
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._base: Path | None = None
        self._server: asyncio.Server | None = None
        self._followers: set[asyncio.Queue[events.Event | None]] = set()
        self._connected: set[asyncio.Task[None]] = set()
        self._calling = False
        self._door: Door | None = None

    async def start(self) -> None:
        """Listen. Raises OSError: the socket cannot be made."""
        run, base = self._run, _folder() / secrets.token_hex(4)
        self._base = base
        live = LiveRun(
            id=run.folder.path.name,
            path=str(run.folder.notebook.resolve()),
            pid=os.getpid(),
            task=run.task.prompt,
            model=run.model.name,
            started=self._started,
            socket=f"{base}.sock",
        )
        for left in range(3, 0, -1):
            private_folder(base.parent, "LIS_RUNTIME_DIR")
            try:
                self._server = await asyncio.start_unix_server(
                    self._serve, live.socket, limit=LINE_BYTES
                )
                break
            except FileNotFoundError:  # another run, the last one, has just ended
                if left == 1:
                    raise
        partial = base.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(live)), "utf-8")
        partial.replace(base.with_suffix(".json"))

    def publish(self, event: events.Event) -> None:
        """Tell all followers, and those who joined; from any thread."""
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.publish, event)
            return
        if self._door is not None:
            self._show(self._door, event)
        for queue in list(self._followers):
            if queue.qsize() < BEHIND:
                queue.put_nowait(event)
            else:
                self._followers.discard(queue)

    async def close(self) -> None:
        """Tell followers of the end, and leave nothing behind."""
        if self._base is None:
            return
        for suffix in (".json", ".sock"):
            self._base.with_suffix(suffix).unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for queue in self._followers:
            queue.put_nowait(None)
        if self._connected:
            await asyncio.wait(self._connected, timeout=2)
        for task in self._connected:
            task.cancel()
        if self._door is not None:
            await self._door.close()
        with contextlib.suppress(OSError):  # others' are in it
            self._base.parent.rmdir()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connected.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
                while line := await reader.readline():
                    await self._handle(line, writer)
        finally:
            self._connected.discard(task)
            writer.close()

    async def _handle(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[events.Event | None] | None = None
        try:
            words = json.loads(line)
            if words.get("do") == "events":  # first: what happens from the answer on is told
                queue = asyncio.Queue()
                self._followers.add(queue)
            answer = await self._answer(words)
        except (LisKernelError, OSError) as error:
            answer = {"error": str(error)}
        except Exception as error:
            log.debug("a request could not be answered", exc_info=error)
            answer = {"error": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        if queue is None:
            return
        try:
            while (event := await queue.get()) is not None:
                writer.write(json.dumps(events.to_json(event)).encode() + b"\n")
                await writer.drain()
        finally:
            self._followers.discard(queue)

    async def _answer(self, words: dict[str, Any]) -> dict[str, Any]:
        agent, run = self._agent, self._run
        match words.get("do"):
            case "pause":
                agent.pause()
            case "resume":
                agent.resume()
            case "stop":
                agent.stop()
            case "say":
                agent.say(str(words["text"]))
            case "attach":
                return {"connection_file": str(await self._attach())}
            case "status" | "events":
                pass
            case other:
                return {"error": f"unknown request {other!r}"}
        return {
            "state": agent.state,
            "turns": run.meter.turns,
            "usage": run.meter.usage.model_dump(),
            "budget": run.config.budget.model_dump(mode="json"),
            "seconds": time.time() - self._started,
            "task": run.task.prompt,
            "model": run.model.name,
            "path": str(run.folder.notebook.resolve()),
            "files": [list(file) for file in run.listed],
        }

    async def _attach(self) -> Path:
        from lis_kernel.kernel.door import Door

        assert self._base is not None  # who asks came through its socket
        if self._door is None:
            door = Door(self._base, lambda: self._run.session, self._agent.run_cell)
            await door.open()
            self._door = door
        return self._door.connection_file

    def _show(self, door: Door, event: events.Event) -> None:
        """What the model runs, to people at the door; their own cells they see anyway."""
        match event:
            case events.CallStarted(_, source):
                self._calling = True
                door.began(source)
            case events.CallOutput(kind, content) if self._calling:
                door.shown(kind, content)
            case events.CallFinished() if self._calling:
                self._calling = False
                door.ended()


# -- the others' side ----------------------------------------------------------------------------


def live_runs() -> list[LiveRun]:
    """Every run of this user that can be reached, the newest first; what dead ones left goes."""
    folder, found = _folder(), []
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
        ConfigError: there is none, or there are several.
    """
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
    path = Path(given)
    return path.exists() and path.resolve() in (Path(notebook), Path(notebook).parent)


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

    Raises:
        ConfigError: the run has ended before it could be followed.
    """
    async with _connected(live) as (reader, writer):
        yield {"event": "status", **await _request(live, reader, writer, {"do": "events"})}
        with contextlib.suppress(ConnectionError):
            while (line := await reader.readline()).endswith(b"\n"):  # the last may be cut off
                yield json.loads(line)


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
