"""A session with one kernel: cells in, results out. Floor 2, between the sandbox and the loop.

The session never waits for a single sign: a cell is over when the kernel said idle and replied,
when its time is up (interrupt, then the kernel's end), or when the process died. Messages are
matched to the running cell by id, bounded in size, and anything unreadable is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lis_kernel.config import Limits
from lis_kernel.errors import (
    KernelDied,
    SandboxError,
    SandboxLost,
    SandboxUnavailable,
    StartTimeout,
)
from lis_kernel.kernel.outputs import OnMessage, OutputCollector
from lis_kernel.kernel.running import RunningCell
from lis_kernel.kernel.verdict import limit_of, verdict_on
from lis_kernel.kernel.wire import Channel, WireError
from lis_kernel.kernel.words import Words
from lis_kernel.protocols import KernelProcess, Sandbox
from lis_kernel.sandbox.card import card
from lis_kernel.types import CellResult, Output, Verdict

__all__ = ["Kernel", "KernelSession"]

log = logging.getLogger(__name__)

MESSAGE_BYTES = 4_000_000
"""A message may have so many and four times the cap on a cell's outputs, for text of control
characters grows sixfold in JSON. Larger ones are dropped."""
MAX_BRACKETS = 400_000
"""In one message: each may be a list, and an empty list takes twenty times its text in memory."""
WELCOME_SECONDS = 20.0
AGAIN_SECONDS = 0.5
SETUP_SECONDS = 60.0
LAST_WORDS_SECONDS = 3.0
"""How long a cell that was interrupted because the run ends may take to end."""
ENDING_SECONDS = 1.0
"""How long a kernel that closed a socket may take to end by itself."""


class KernelSession:
    """Runs cells in the kernel of `sandbox`, one at a time.

    Args:
        sandbox: already started; the session launches (and relaunches) its kernel.
        setup: source of the cell that every kernel begins with.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits, setup: str) -> None:
        self.sandbox = sandbox
        self.limits = limits
        self.setup = setup
        self._channels: dict[str, Channel] = {}
        self._words = Words("", "")
        self._process: KernelProcess | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._cell: RunningCell | None = None
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._collector = OutputCollector(0)
        self._welcome = asyncio.Event()
        self.verdict: Verdict | None = None
        """Of the cell that ran last, also if `execute` did not return."""
        self.on_end: Callable[[], None] | None = None
        """Called once a kernel ended or cannot be heard any more; for who waits without a cell."""

    async def start(self) -> CellResult:
        """Launch the kernel and run the setup cell; the setup cell's result.

        Raises:
            SandboxError, StartTimeout: the kernel did not come up.
            KernelDied: the setup cell failed.
        """
        await self._close_channels()
        try:
            self._process = await self.sandbox.launch_kernel()
        except OSError as error:  # e.g. its folder was removed
            raise SandboxLost(f"the kernel cannot be started: {error}") from error
        facts = self._process.connection_info
        self._words = Words(facts["key"], facts["signature_scheme"])
        self._welcome = asyncio.Event()
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await self._connect(self._process)
        except (WireError, TimeoutError) as error:
            raise StartTimeout(f"the kernel's sockets did not answer: {error}") from None
        await self._welcomed()
        result = await self._run(self.setup, SETUP_SECONDS)
        if result.status != "ok":
            raise KernelDied(f"the setup cell ended with `{result.status}`: {result.outputs}")
        return result

    async def _welcomed(self) -> None:
        """Wait until our subscription reached the kernel: no output can be missed from now on.

        The kernel's output socket tells of a subscription once, by an edge that a message sent at
        that moment swallows (ZMQ_FD); so it is asked again.

        Raises:
            KernelDied, StartTimeout: it does not say so.
        """
        deadline = time.monotonic() + WELCOME_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._welcome.wait()
                return
            if self._process is None or not self._process.alive:
                raise KernelDied("the kernel ended before its output channel answered")
            self._channels["iopub"].subscribe(again=True)
        raise StartTimeout("the kernel's output channel did not answer")

    @property
    def alive(self) -> bool:
        """Whether there is a kernel, and it has not ended as far as is known."""
        return self._process is not None and self._process.alive

    @property
    def connection(self) -> Mapping[str, Any]:
        """The running kernel's connection facts, as in a Jupyter connection file."""
        if self._process is None:
            raise KernelDied("the session has not been started")
        return self._process.connection_info

    def _repr_html_(self) -> str:
        state = "a cell is running" if self._cell else "idle" if self.alive else "no kernel"
        return card(self.sandbox.describe(), state=state, alive=self.alive, name="kernel")

    async def _connect(self, process: KernelProcess) -> None:
        facts = process.connection_info
        if facts["transport"] != "ipc":
            raise SandboxError(f"a kernel is reached by ipc here, not by {facts['transport']!r}")
        limit = MESSAGE_BYTES + 4 * self.limits.output_bytes
        for name, dispatch in (
            ("iopub", self._on_iopub),
            ("shell", self._on_shell),
            ("control", lambda _: None),
        ):
            path = Path(f"{facts['ip']}-{facts[f'{name}_port']}")
            channel = await Channel.open(path, "SUB" if name == "iopub" else "DEALER", limit)
            self._channels[name] = channel
            self._readers.append(asyncio.create_task(self._read(channel, dispatch, process)))
        self._readers.append(asyncio.create_task(self._watch(process)))

    def _send(self, name: str, kind: str, content: dict[str, Any]) -> str:
        """Send a request; its id."""
        msg_id, frames = self._words.request(kind, content)
        self._channels[name].send(frames)
        return msg_id

    async def execute(
        self,
        source: str,
        timeout: float | None = None,
        on_message: OnMessage | None = None,
    ) -> CellResult:
        """Run one cell to its end, whatever that is; never raises for what the cell does.

        `timeout` in seconds, None for the limits' own. After a time-out the kernel lives, or, if
        it ignored the interrupt, has been replaced (`restarted`). After `died` it has been
        replaced as well. `on_message` is told what the cell shows, as it comes.

        Raises:
            SandboxError, KernelError: the kernel could not be replaced.
        """
        seconds = self.limits.cell_seconds if timeout is None else timeout
        self.verdict = None
        result = await self._run(source, seconds, on_message)
        self.verdict = await verdict_on(result, self.sandbox, self._process)
        if result.restarted and self._process is not None:  # else it was closed meanwhile
            await self.start()
        if self.verdict is None:
            return result
        limit = limit_of(self.verdict, self.sandbox, self.limits, seconds)
        return result.model_copy(update={"verdict": self.verdict, "limit": limit})

    @property
    def partial(self) -> tuple[Output, ...]:
        """Outputs so far of the cell that ran last, also if `execute` did not return."""
        return tuple(self._collector.outputs)

    async def _run(
        self, source: str, seconds: float, on_message: OnMessage | None = None
    ) -> CellResult:
        """As `execute`, but where it says `restarted` that is yet to be done."""
        process = self._process
        if not self._channels or process is None:
            raise KernelDied("the session has not been started")
        started = time.monotonic()
        self._collector = OutputCollector(2 * self.limits.output_bytes, on_message)
        request = {
            "code": source,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        msg_id = self._send("shell", "execute_request", request)
        cell = self._cell = RunningCell(msg_id, self._collector, self._interrupt)
        if not process.alive:
            cell.died()
        status = ""
        try:
            ended = await cell.wait(seconds)
            if ended == "timeout":
                status = "timeout"
                cell.stop()
                ended = await cell.wait(self.limits.grace_seconds)
                if ended == "timeout":
                    process.kill()
        except asyncio.CancelledError:
            # the run was cancelled: let the cell say what it still has, unless we must hurry
            with contextlib.suppress(Exception):
                cell.stop()
                await cell.wait(LAST_WORDS_SECONDS)
            raise
        finally:
            self._cell = None
        if ended == "mute":
            process.kill()
        if ended in ("died", "mute"):
            status = status or "died"
        return CellResult.model_validate(
            {
                "outputs": self.partial,
                "status": status or ("error" if cell.failed else "ok"),
                "execution_count": cell.execution_count,
                "seconds": time.monotonic() - started,
                "restarted": ended != "done",
            }
        )

    async def branch(self) -> KernelSession:
        """A session with a fork of this kernel: names and files as they are, each its own.

        Experimental: for a `zygote` sandbox with `SandboxConfig(branch=True)`, between cells. The
        caller closes the session, then stops its `sandbox`. Of the kernel's state the fork lacks
        threads, tasks of its event loop, and child processes; `%%bash` begins a new bash where the
        old one stood. Files that are open, and sockets, are shared, and a lock that another thread
        holds stays locked. It ends with this kernel, and the two are not walled off from each
        other; see `sandbox/live.py`.

        Raises:
            SandboxError: there are no live branches here, or it failed; this kernel goes on.
            KernelError: there is no kernel to fork, or the fork ended at once.
        """
        grow = getattr(self.sandbox, "branch_live", None)
        if grow is None:
            raise SandboxUnavailable("live branches need the backend zygote")
        if self._process is None or not self._process.alive or self._cell is not None:
            raise KernelDied("a kernel is branched between two cells")
        twin: Sandbox = await grow(
            lambda view: self._send("shell", "lis_branch_request", {"view": view})
        )
        session = KernelSession(twin, self.limits, "")
        try:
            await session.start()
        except BaseException:
            await session.close()
            await twin.stop()
            raise
        return session

    async def request(self, kind: str, content: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask on the shell channel for something that shows no output; the reply's content.

        For `complete_request`, `inspect_request` and their like. The kernel answers between cells.

        Raises:
            TimeoutError: no answer within `seconds`.
            KernelDied: there is no kernel.
        """
        if not self._channels:
            raise KernelDied("the session has not been started")
        msg_id = self._send("shell", kind, content)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[msg_id] = answer
        try:
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            del self._asked[msg_id]

    def interrupt(self) -> None:
        """Ask the kernel to raise KeyboardInterrupt in the running cell, once it has begun."""
        if self._cell is not None:
            self._cell.stop()
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        if self._channels:
            self._send("control", "interrupt_request", {})

    async def _watch(self, process: KernelProcess) -> None:
        """Tell the running cell when its kernel ends."""
        await process.wait()
        if self._cell is not None:
            self._cell.died()
        if self.on_end is not None:
            self.on_end()

    async def close(self) -> None:
        """Close the channels; the sandbox ends the process."""
        await self._close_channels()
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._cell is not None:  # nobody else would tell it
            self._cell.died()

    async def _close_channels(self) -> None:
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._readers = []
        while self._channels:
            self._channels.popitem()[1].close()

    async def _read(
        self, channel: Channel, dispatch: Callable[[dict[str, Any]], None], process: KernelProcess
    ) -> None:
        while True:
            try:
                frames = await channel.receive()
            except WireError as error:
                # it is ending, and its exit status is worth the wait; or it closed a socket, and
                # nothing can be heard of it any more
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ENDING_SECONDS):
                        await process.wait()
                log.debug("the kernel is given up: %s", error)
                process.kill()
                return
            self._take(frames, dispatch)
            del frames  # they may be large, and the next message may be long in coming

    def _take(self, frames: list[bytes], dispatch: Callable[[dict[str, Any]], None]) -> None:
        """Read one message; what cannot be read, or makes no sense, is dropped."""
        if sum(part.count(b"[") + part.count(b"{") for part in frames) > MAX_BRACKETS:
            log.debug("dropped a message that would take too much memory")
            return
        try:
            message = self._words.read(frames)
        except Exception as error:
            log.debug("dropped a message that cannot be read: %s", error)
            return
        try:
            dispatch(message)
        except Exception as error:
            log.debug("dropped a message that makes no sense: %s", error)

    def _on_iopub(self, message: dict[str, Any]) -> None:
        kind = message["header"]["msg_type"]
        if kind == "iopub_welcome":
            self._welcome.set()
            return
        cell = self._cell
        if cell is not None and message["parent_header"].get("msg_id") == cell.msg_id:
            cell.on_iopub(message)

    def _on_shell(self, message: dict[str, Any]) -> None:
        cell, parent = self._cell, message["parent_header"].get("msg_id")
        if (answer := self._asked.get(parent)) is not None and not answer.done():
            answer.set_result(message["content"] if isinstance(message["content"], dict) else {})
            return
        if cell is not None and parent == cell.msg_id:
            cell.on_shell(message)


Kernel = KernelSession
"""Its name on the public face."""
