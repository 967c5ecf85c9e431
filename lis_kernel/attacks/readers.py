"""Two readers of one kernel's messages: the session, and a client that takes what comes.

`kernel_channel.py` runs each attempt before both. The second is the canary: it does what a plain
client of the protocol is tempted to do, believing who sent a message, what type a field has, when a
cell is over and that a message is small.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import nbformat
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from lis_kernel.attacks.ground import Box, Outcome
from lis_kernel.trajectory.notebook import code_cell, new_notebook
from lis_kernel.types import CellResult

__all__ = [
    "ATTEMPTS",
    "Cell",
    "Naive",
    "Ours",
    "Reader",
    "attempt",
    "faults",
    "notebook_of",
]

QUIET = 0.06
"""Seconds without a word, after which there is no more."""
SETTLED = 5.0


@dataclass
class Cell:
    """What a reader recorded of one cell."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    ended: str = "ok"
    """`ok`, what became of the cell otherwise, or how the reader itself broke."""
    seconds: float = 0.0
    execution_count: Any = None
    broken: str = ""
    """What the reader itself failed at."""

    @property
    def text(self) -> str:
        return "".join(str(o.get("text", "")) for o in self.outputs)

    @property
    def size(self) -> int:
        """Bytes of the outputs, about."""
        return sum(len(str(output)) for output in self.outputs)


class Reader(Protocol):
    """Runs cells and records them."""

    effects: list[str]
    """What messages made it do beside recording a cell."""

    async def cell(self, source: str, timeout: float = 20.0) -> Cell: ...

    async def settle(self) -> None:
        """Leave nothing of the cells before for the next one, also no effects."""

    async def close(self) -> None: ...


class Ours:
    """The session that the agent uses."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.effects: list[str] = []

    async def cell(self, source: str, timeout: float = 20.0) -> Cell:
        result: CellResult = await self.box.cell(source, timeout)
        outputs = [dict(output) for output in result.outputs]
        return Cell(outputs, result.status, result.seconds, result.execution_count)

    async def settle(self) -> None:
        await self.box.cell("pass", 5)

    async def close(self) -> None:
        """The session is the box's."""


class Naive:
    """A client without doubts, on a kernel's connection facts."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.effects: list[str] = []
        self._context = zmq.asyncio.Context()
        self._words = Session(key=facts["key"].encode())
        self._heard: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self._displays: dict[str, list[dict[str, Any]]] = {}
        self._listening = []
        for name, kind in (("shell", zmq.DEALER), ("stdin", zmq.DEALER), ("iopub", zmq.SUB)):
            socket = self._context.socket(kind)
            if kind == zmq.SUB:
                socket.subscribe(b"")
            else:  # the same, or the kernel would not find the way to ask for input
                socket.identity = self._words.bsession
            socket.connect(f"ipc://{facts['ip']}-{facts[f'{name}_port']}")
            if name == "shell":
                self._shell = socket
            self._listening.append(asyncio.create_task(self._listen(socket)))

    async def _listen(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            self._heard.put_nowait(await socket.recv_multipart())

    async def cell(self, source: str, timeout: float = 20.0) -> Cell:
        record, started = Cell(), time.monotonic()
        self._ask(source)
        over = False
        try:
            async with asyncio.timeout(timeout):
                while not over:
                    over = self._take(await self._heard.get(), record)
                with contextlib.suppress(TimeoutError):
                    while True:  # what is there already
                        async with asyncio.timeout(QUIET):
                            message = await self._heard.get()
                        self._take(message, record)
        except TimeoutError:
            record.ended = "no end"
        except Exception as error:
            record.ended, record.broken = "broken", f"{type(error).__name__}: {error}"[:200]
        record.seconds = time.monotonic() - started
        return record

    def _ask(self, source: str) -> str:
        content = {"code": source, "silent": False, "allow_stdin": True, "stop_on_error": False}
        message = self._words.msg("execute_request", content)
        self._shell.send_multipart(self._words.serialize(message))
        return str(message["header"]["msg_id"])

    def _take(self, frames: list[bytes], record: Cell) -> bool:
        """Do what a message says, whosever it is; True if it says that a cell is over."""
        parts = frames[frames.index(b"<IDS|MSG>") + 2 :]
        header, _, _, content = (json.loads(part) for part in parts[:4])
        kind = header["msg_type"]
        if kind == "status":
            return bool(content["execution_state"] == "idle")
        if kind == "execute_reply":
            record.execution_count = content["execution_count"]
            payloads = content.get("payload", [])
            self.effects += [f"did as a reply said: {p['source']}" for p in payloads]
            return True
        if kind == "input_request":
            self.effects.append(f"asked the person: {content['prompt']}")
        elif kind in ("comm_open", "comm_msg"):
            self.effects.append(f"loaded {content.get('target_module')}")
        elif kind == "update_display_data":
            for shown in self._displays.get(content["transient"]["display_id"], []):
                shown["data"] = content["data"]
        elif kind not in ("execute_input", "iopub_welcome", "clear_output"):
            name = content.pop("transient", {}).get("display_id")
            output = {"output_type": kind, **content}
            record.outputs.append(output)
            self._displays.setdefault(name, []).append(output)
        return False

    async def settle(self) -> None:
        """Wait until the kernel did all that it was asked, and forget what it said."""
        self.effects.clear()
        msg_id = self._ask("pass").encode()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED):
                frames: list[bytes] = []
                while not (msg_id in b"".join(frames[-3:-2]) and b'"idle"' in frames[-1]):
                    frames = await self._heard.get()
                while True:  # the reply
                    async with asyncio.timeout(QUIET / 4):
                        await self._heard.get()

    async def close(self) -> None:
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        self._context.destroy(linger=0)


Attempt = Callable[[Reader], Awaitable[Outcome]]
ATTEMPTS: dict[str, Attempt] = {}


def attempt(function: Attempt) -> Attempt:
    ATTEMPTS[function.__name__] = function
    return function


def faults(cell: Cell) -> str:
    """Why this record is no cell of a valid notebook; empty if it is one."""
    if cell.broken:
        return f"the reader broke: {cell.broken}"
    try:
        notebook = notebook_of(cell)
        text = json.dumps(notebook, allow_nan=False, ensure_ascii=False)
        text.encode()
        nbformat.validate(nbformat.from_dict(json.loads(text)))  # type: ignore[no-untyped-call]
    except (ValueError, RecursionError, TypeError, nbformat.ValidationError) as error:
        return f"no valid notebook: {type(error).__name__}: {str(error)[:100]}"
    return ""


def notebook_of(cell: Cell) -> dict[str, Any]:
    made = code_cell("a", "pass")
    made["outputs"], made["execution_count"] = cell.outputs, cell.execution_count
    notebook = new_notebook({})
    notebook["cells"].append(made)
    return notebook
