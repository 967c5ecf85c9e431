"""A door for people into a live kernel: to their Jupyter client it is a kernel, on our side.

Opened by `agent/remote.py` when somebody wants to join a run. It listens on unix sockets in a
private folder, with a key that the sandbox does not know, so that a cell that comes in through it
is a person's for certain, and none of the code in the sandbox can pose as one. Cells go to whoever
decides whether they may run now; what the model runs meanwhile is shown to all clients. A page
trusts the outputs of the cells that its user runs, so all that the sandbox shows or answers is
cleaned first. A client's shutdown closes nothing: the run is not its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.session import Session

from lis_kernel.errors import KernelError, LisKernelError
from lis_kernel.kernel.outputs import OnMessage, clean_text
from lis_kernel.kernel.session import KernelSession
from lis_kernel.tools.clean import safe_bundle, safe_metadata, safe_stream
from lis_kernel.tools.terminal import plain_text
from lis_kernel.types import CellResult

__all__ = ["Door"]

log = logging.getLogger(__name__)

RunCell = Callable[[str, OnMessage], Awaitable[CellResult]]
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
ASK_SECONDS = 15.0
"""For completion and the like; the kernel answers between cells, and the first time it is slow."""
LINGER_MS = 200
MAX_MESSAGE = 16 << 20
INFO = {
    "protocol_version": "5.3",
    "implementation": "lis_kernel",
    "implementation_version": version("lis-kernel"),
    "language_info": {
        "name": "python",
        "version": "3",
        "mimetype": "text/x-python",
        "codemirror_mode": {"name": "ipython", "version": 3},
        "pygments_lexer": "ipython3",
        "nbconvert_exporter": "python",
        "file_extension": ".py",
    },
    "banner": (
        "lis_kernel: an agent's sandbox. Cells run while the agent is paused (`lis pause`) and are "
        "recorded as a person's; `lis resume` hands back."
    ),
    "help_links": [],
    "status": "ok",
}
EMPTY: dict[str, dict[str, Any]] = {
    "complete_request": {
        "matches": [],
        "cursor_start": 0,
        "cursor_end": 0,
        "metadata": {},
        "status": "ok",
    },
    "inspect_request": {"found": False, "data": {}, "metadata": {}, "status": "ok"},
    "is_complete_request": {"status": "unknown"},
    "history_request": {"history": [], "status": "ok"},
    "comm_info_request": {"comms": {}, "status": "ok"},
}
"""What is answered where the kernel does not, or is not asked."""
MATCHES = 500
MATCH_CHARS = 200
FORWARDED = ("complete_request", "inspect_request", "is_complete_request")


class Door:
    """A kernel for people's clients in front of a session.

    Args:
        base: beginning of its files' names, in a folder that only this user may enter.
        session: gives the kernel that stands behind it, each time it is asked.
        run_cell: runs a person's cell, or raises the reason why not now.
    """

    def __init__(self, base: Path, session: Callable[[], KernelSession], run_cell: RunCell) -> None:
        self.connection_file = base.with_name(f"{base.name}-kernel.json")
        self._base = base.with_name(f"{base.name}-k")
        self._session = session
        self._run_cell = run_cell
        self._words = Session(key=secrets.token_hex(16).encode(), username="lis")
        self._context = zmq.asyncio.Context()
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False
        self._agents: dict[str, Any] = {}
        """The header of the cell that the model runs, as if a client had sent it."""

    async def open(self) -> None:
        """Listen, and write the connection file.

        Raises:
            OSError: a socket or the file cannot be made.
        """
        for name, port in PORTS.items():
            made = self._context.socket(zmq.PUB if name == "iopub" else zmq.ROUTER)
            made.linger = LINGER_MS
            made.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
            if name != "iopub":
                made.setsockopt(zmq.ROUTER_HANDOVER, 1)
            made.bind(f"ipc://{self._base}-{port}")
            self._sockets[name] = made
        facts = {
            "transport": "ipc",
            "ip": str(self._base),
            **{f"{name}_port": port for name, port in PORTS.items()},
            "key": self._words.key.decode(),
            "signature_scheme": self._words.signature_scheme,
            "kernel_name": "lis-attach",
        }
        fd = os.open(self.connection_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(facts, file)
        for name in ("shell", "control"):
            self._tasks.append(asyncio.create_task(self._serve(name)))
        self._tasks.append(asyncio.create_task(self._beat()))

    async def close(self) -> None:
        """Stop listening and leave nothing behind; clients see their kernel end."""
        self.connection_file.unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for made in self._sockets.values():
            made.close()
        self._context.term()
        for left in self._base.parent.glob(f"{self._base.name}-*"):  # also names of others' making
            left.unlink(missing_ok=True)

    # -- what the model runs ---------------------------------------------------------------------

    def began(self, source: str) -> None:
        """The model runs a cell: clients that show the output of others show it."""
        self._agents = self._words.msg("execute_request")["header"]
        self._publish("status", {"execution_state": "busy"}, self._agents)
        self._publish("execute_input", {"code": source, "execution_count": 0}, self._agents)

    def shown(self, kind: str, content: dict[str, Any]) -> None:
        """A message of the model's cell."""
        self._publish(kind, _safe(kind, content), self._agents)

    def ended(self) -> None:
        """The model's cell is over."""
        self._publish("status", {"execution_state": "idle"}, self._agents)

    # -- what clients ask ------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            frames = await self._sockets["hb"].recv_multipart()
            await self._sockets["hb"].send_multipart(frames)

    async def _serve(self, name: str) -> None:
        """One request after the other, as a kernel does."""
        while True:
            frames = await self._sockets[name].recv_multipart()
            try:
                client, rest = self._words.feed_identities(frames)
                message = self._words.deserialize(rest)
            except Exception as error:
                log.debug("dropped a message that cannot be read: %s", error)
                continue
            header = message["header"]
            self._publish("status", {"execution_state": "busy"}, header)
            try:
                reply = await self._answer(header["msg_type"], message["content"], header)
            except Exception as error:
                log.debug("a request could not be answered", exc_info=error)
                reply = _failure(type(error).__name__, str(error))
            if reply is not None:
                kind = header["msg_type"].replace("_request", "_reply")
                sent = self._words.msg(kind, reply, parent={"header": header})
                sent["parent_header"] = header
                frames = self._words.serialize(sent, ident=client)
                await self._sockets[name].send_multipart(frames)
            self._publish("status", {"execution_state": "idle"}, header)

    async def _answer(
        self, kind: str, content: Mapping[str, Any], header: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        if kind == "kernel_info_request":
            return INFO
        if kind == "execute_request":
            return await self._execute(content, header)
        if kind == "interrupt_request":
            if self._running:  # the model's cells are not a client's to interrupt
                self._session().interrupt()
            return {"status": "ok"}
        if kind == "shutdown_request":
            return {"status": "ok", "restart": bool(content.get("restart"))}
        if kind in FORWARDED:
            with contextlib.suppress(TimeoutError, KernelError):
                reply = await self._session().request(kind, dict(content), ASK_SECONDS)
                return _answered(kind, reply)
        return EMPTY.get(kind)  # None for what needs no answer: comm_msg and the like

    async def _execute(
        self, content: Mapping[str, Any], header: Mapping[str, Any]
    ) -> dict[str, Any]:
        source = str(content.get("code", ""))
        ok = {"status": "ok", "execution_count": 0, "payload": [], "user_expressions": {}}
        if content.get("silent") or not source.strip():
            return ok  # a client's own question, nobody's cell
        self._publish("execute_input", {"code": source, "execution_count": 0}, header)
        failed: dict[str, Any] = {}

        def show(kind: str, shown: dict[str, Any]) -> None:
            shown = _safe(kind, shown)
            if kind == "error":
                failed.update(shown)
            self._publish(kind, shown, header)

        self._running = True
        try:
            result = await self._run_cell(source, show)
        except LisKernelError as error:
            failure = _failure(type(error).__name__, str(error))
            self._publish("error", {k: v for k, v in failure.items() if k != "status"}, header)
            return {**failure, "execution_count": 0}
        finally:
            self._running = False
        count = result.execution_count or 0
        if result.status == "ok":
            return {**ok, "execution_count": count}
        if not failed:  # a time-out or the kernel's end says nothing itself
            failed = _failure(f"Cell {result.status}", result.limit)
            self._publish("error", {k: v for k, v in failed.items() if k != "status"}, header)
        return {**failed, "status": "error", "execution_count": count}

    def _publish(self, kind: str, content: Mapping[str, Any], parent: Mapping[str, Any]) -> None:
        message = self._words.msg(kind, dict(content))
        message["parent_header"] = dict(parent)
        frames = self._words.serialize(message, ident=f"kernel.{kind}".encode())
        with contextlib.suppress(zmq.ZMQError):  # a client that does not read loses messages
            self._sockets["iopub"].send_multipart(frames, flags=zmq.NOBLOCK)


def _safe(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """What the sandbox shows, as it may stand in a page or a terminal of a person's."""
    if kind == "stream":
        return {**content, "text": safe_stream(content["text"])}
    if kind == "error":
        lines = [safe_stream(line) for line in content["traceback"]]
        words = {name: plain_text(content[name]) for name in ("ename", "evalue")}
        return {**words, "traceback": lines}
    if "data" in content:
        metadata = safe_metadata(content["metadata"])
        return {**content, "data": safe_bundle(content["data"]), "metadata": metadata}
    return content


def _answered(kind: str, reply: Mapping[str, Any]) -> dict[str, Any]:
    """What the sandbox's kernel answered, of which any part may be forged."""
    usual = EMPTY[kind]
    if kind == "complete_request":
        bounds = {name: reply.get(name) for name in ("cursor_start", "cursor_end")}
        given = reply.get("matches")
        if not isinstance(given, list) or any(type(bound) is not int for bound in bounds.values()):
            return usual
        texts = (one for one in given[:MATCHES] if isinstance(one, str))
        fair = [one for one in texts if one.isprintable() and len(one) < MATCH_CHARS]
        return {**usual, **bounds, "matches": fair}
    if kind == "inspect_request":
        data = reply.get("data")
        texts_of = data.items() if isinstance(data, dict) else ()
        plain = {mime: clean_text(text) for mime, text in texts_of if isinstance(text, str)}
        return {**usual, "found": bool(plain), "data": safe_bundle(plain)}
    return {name: plain_text(str(reply.get(name, "")))[:80] for name in ("status", "indent")}


def _failure(name: str, text: str) -> dict[str, Any]:
    return {"status": "error", "ename": name, "evalue": text, "traceback": [f"{name}: {text}"]}
