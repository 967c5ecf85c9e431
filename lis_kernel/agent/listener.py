"""The run's side of `agent/remote.py`: it answers other processes, and tells them what happens.

Made, started and closed by `agent/loop.py`, for a run that listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import threading
import time
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lis_kernel.agent import events
from lis_kernel.agent.recap import Entry, entry, recap
from lis_kernel.agent.remote import LINE_BYTES, LiveRun, folder_of_runs
from lis_kernel.errors import LisKernelError
from lis_kernel.sandbox.state import private_folder

if TYPE_CHECKING:
    from lis_kernel.agent.agent import Agent
    from lis_kernel.agent.loop import Run
    from lis_kernel.kernel.door import Door

__all__ = ["Listener"]

log = logging.getLogger(__name__)

BEHIND = 10_000
BEHIND_BYTES = 64 << 20
"""Events that a follower may be behind, in number and in bytes; then it is left."""


class _Follower:
    """Lines that wait for one who follows the events."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._bytes = 0
        self.behind = False
        """It was left, and what it did not read was dropped."""

    def put(self, line: bytes) -> bool:
        """Whether there was room for it."""
        if self._lines.qsize() >= BEHIND or self._bytes + len(line) > BEHIND_BYTES:
            return False
        self._bytes += len(line)
        self._lines.put_nowait(line)
        return True

    def leave(self) -> None:
        """Drop what waits; nothing follows."""
        self.behind = True
        while not self._lines.empty():
            self._lines.get_nowait()
        self.end()

    def end(self) -> None:
        """Nothing follows."""
        self._lines.put_nowait(None)

    async def next(self) -> bytes | None:
        """The next line; None at the end."""
        line = await self._lines.get()
        self._bytes -= len(line or b"")
        return line


class Listener:
    """Answers for one run."""

    def __init__(self, agent: Agent, run: Run) -> None:
        self._agent = agent
        self._run = run
        self._started = time.time()
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._base: Path | None = None
        self._server: asyncio.Server | None = None
        self._followers: set[_Follower] = set()
        self._connected: set[asyncio.Task[None]] = set()
        self._calling = False
        self._cell: dict[str, Any] | None = None
        """The running one, once it is told of."""
        self._streamed: dict[str, list[str]] = {}
        """By channel: of the reply that is being made."""
        self._door: Door | None = None

    async def start(self) -> None:
        """Listen. Raises OSError: the socket cannot be made."""
        run, base = self._run, folder_of_runs() / secrets.token_hex(4)
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
        self._note(event)
        if self._door is not None:
            self._show(self._door, event)
        if self._followers:
            line = json.dumps(events.to_json(event)).encode() + b"\n"
            for follower in [one for one in self._followers if not one.put(line)]:
                self._followers.discard(follower)
                follower.leave()

    async def close(self) -> None:
        """Tell followers of the end, and leave nothing behind."""
        if self._base is None:
            return
        for suffix in (".json", ".sock"):
            self._base.with_suffix(suffix).unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for follower in self._followers:
            follower.end()
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
                while (line := await reader.readline()) and await self._handle(line, writer):
                    pass
        except asyncio.CancelledError:
            pass  # by `close`; a task that ends so is a fault to asyncio's streams before 3.12
        finally:
            self._connected.discard(task)
            writer.close()

    async def _handle(self, line: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether another may come, which after events none does."""
        follower: _Follower | None = None
        try:
            words = json.loads(line)
            if words.get("do") == "events":  # first: what happens from the answer on is told
                follower = _Follower()
                self._followers.add(follower)
            answer = await self._answer(words)
        except (LisKernelError, OSError) as error:
            answer = {"error": str(error)}
        except Exception as error:
            log.debug("a request could not be answered", exc_info=error)
            answer = {"error": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        if follower is None:
            return True
        try:
            while (waiting := await follower.next()) is not None:
                writer.write(waiting)
                await writer.drain()
            if follower.behind:
                writer.write(b'{"event": "behind"}\n')
                await writer.drain()
        finally:
            self._followers.discard(follower)
        return False

    async def _answer(self, words: dict[str, Any]) -> dict[str, Any]:
        agent = self._agent
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
            case "events":
                return {**self._status(), "recap": [dict(entry) for entry in self._recap()]}
            case "status":
                pass
            case other:
                return {"error": f"unknown request {other!r}"}
        return self._status()

    def _status(self) -> dict[str, Any]:
        agent, run = self._agent, self._run
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

    def _note(self, event: events.Event) -> None:
        """Remember what is not in the notebook yet, for who comes now."""
        match event:
            case events.TextStreamed(channel, text):
                self._streamed.setdefault(channel, []).append(text)
            case events.TurnStarted() | events.ReplyFinished():
                self._streamed.clear()
            case events.CallStarted() | events.HumanStarted():
                self._cell = self._run.recorder.running
            case events.CallFinished() | events.HumanFinished():
                self._cell = None

    def _recap(self) -> list[Entry]:
        """What followers were told so far; what they are yet to hear is left out."""
        recorder, session = self._run.recorder, self._run.session
        begun = self._cell or recorder.running
        over = takewhile(lambda cell: cell is not begun, recorder.notebook["cells"])
        told = recap(list(over), self._cell, session.partial if self._cell else ())
        for channel, kind in (("reasoning", "thought"), ("text", "said")):
            if pieces := self._streamed.get(channel):
                told.append(entry(kind, "".join(pieces)))
        return told

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
