"""A session with one kernel: cells in, results out. Floor 2, between the sandbox and the loop.

The session never waits for a single sign: a cell is over when the kernel said idle and replied,
when its time is up (interrupt, then the kernel's end), or when the process died. Messages are
matched to the running cell by id, bounded in size, and anything unreadable is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from typing import Any, cast

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import KernelConnectionInfo

from lis_kernel.config import Limits, amount
from lis_kernel.errors import KernelDied, SandboxLost, StartTimeout
from lis_kernel.kernel.outputs import OutputCollector
from lis_kernel.protocols import KernelProcess, Sandbox
from lis_kernel.types import CellResult, Output, Verdict

__all__ = ["KernelSession"]

log = logging.getLogger(__name__)

MAX_MESSAGE = 32_000_000
"""Bytes; a larger frame makes zmq drop the connection instead of filling our memory."""
WELCOME_SECONDS = 20.0
SETUP_SECONDS = 60.0
LAST_WORDS_SECONDS = 3.0
"""How long a cell that was interrupted because the run ends may take to end."""
LATE_SECONDS = 3.0
"""Of idle and reply, the second is given up after this long without any word of the cell."""

OnOutput = Callable[[Output], None]


class _Cell:
    """What is known of the cell that runs now."""

    def __init__(self, msg_id: str, collector: OutputCollector, on_output: OnOutput | None) -> None:
        self.msg_id = msg_id
        self.collector = collector
        self.on_output = on_output
        self.reply: dict[str, Any] | None = None
        self.idle = False
        self.heard = time.monotonic()
        self.dead = False
        self.changed = asyncio.Event()

    @property
    def done(self) -> bool:
        return self.idle and self.reply is not None


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
        self._client: AsyncKernelClient | None = None
        self._process: KernelProcess | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._cell: _Cell | None = None
        self._collector = OutputCollector(0)
        self._welcome = asyncio.Event()
        self.verdict: Verdict | None = None
        """Of the cell that ran last, also if `execute` did not return."""

    async def start(self) -> CellResult:
        """Launch the kernel and run the setup cell; the setup cell's result.

        Raises:
            SandboxError, StartTimeout: the kernel did not come up.
            KernelDied: the setup cell failed.
        """
        await self._close_client()
        try:
            self._process = await self.sandbox.launch_kernel()
        except OSError as error:  # e.g. its folder was removed
            raise SandboxLost(f"the kernel cannot be started: {error}") from error
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        context.setsockopt(zmq.LINGER, 0)
        client = AsyncKernelClient(context=context)
        client.load_connection_info(cast(KernelConnectionInfo, self._process.connection_info))
        self._client = client
        self._welcome = asyncio.Event()
        client.start_channels(shell=True, iopub=True, stdin=False, hb=False, control=True)
        self._readers = [
            asyncio.create_task(self._read(client.iopub_channel.get_msg, self._on_iopub)),
            asyncio.create_task(self._read(client.shell_channel.get_msg, self._on_shell)),
            asyncio.create_task(self._read(client.control_channel.get_msg, lambda _: None)),
            asyncio.create_task(self._watch(self._process)),
        ]
        try:
            # our subscription reached the kernel: no output of the first cell can be missed
            await asyncio.wait_for(self._welcome.wait(), WELCOME_SECONDS)
        except TimeoutError:
            raise StartTimeout("the kernel's output channel did not answer") from None
        result = await self._run(self.setup, SETUP_SECONDS, None)
        if result.status != "ok":
            raise KernelDied(f"the setup cell ended with `{result.status}`: {result.outputs}")
        return result

    async def execute(
        self, source: str, timeout: float | None = None, on_output: OnOutput | None = None
    ) -> CellResult:
        """Run one cell to its end, whatever that is; never raises for what the cell does.

        `timeout` in seconds, None for the limits' own. After a time-out the kernel lives, or, if
        it ignored the interrupt, has been replaced (`restarted`). After `died` it has been
        replaced as well.

        Raises:
            SandboxError, KernelError: the kernel could not be replaced.
        """
        seconds = self.limits.cell_seconds if timeout is None else timeout
        self.verdict = None
        result = await self._run(source, seconds, on_output)
        self.verdict = await self._judge(result)
        if result.restarted:
            await self.start()
        limit = "" if self.verdict is None else self._limit(self.verdict, seconds)
        return result.model_copy(update={"verdict": self.verdict, "limit": limit})

    async def _judge(self, result: CellResult) -> Verdict | None:
        """Which limit the cell ran into: our clock's, the sandbox's, or an end by SIGKILL."""
        verdict = self.sandbox.verdict()
        if result.status == "timeout":
            return "timeout"
        if verdict is None and result.status == "died" and self._process is not None:
            status = await self._process.wait()
            return "killed" if status in (-signal.SIGKILL, 128 + signal.SIGKILL) else None
        return verdict

    def _limit(self, verdict: Verdict, seconds: float) -> str:
        """How much the limit is, as the model is told."""
        held = self.sandbox.describe().get("limits", {})
        disk = held.get("disk_bytes", self.limits.disk_bytes)
        if isinstance(disk, dict):
            disk = disk["limit"]
        if disk is None:  # not bounded by us
            disk = self.limits.disk_bytes
        return {
            "oom": amount(self.limits.memory_bytes),
            "disk_full": amount(disk),  # a disk in memory may have had to be smaller
            "pids": f"{self.limits.pids} processes and threads",
            "timeout": f"{seconds:g} s",
            "killed": "",
        }[verdict]

    @property
    def partial(self) -> tuple[Output, ...]:
        """Outputs so far of the cell that ran last, also if `execute` did not return."""
        return tuple(self._collector.outputs)

    async def _run(self, source: str, seconds: float, on_output: OnOutput | None) -> CellResult:
        """As `execute`, but where it says `restarted` that is yet to be done."""
        client, process = self._client, self._process
        if client is None or process is None:
            raise KernelDied("the session has not been started")
        started = time.monotonic()
        self._collector = OutputCollector(2 * self.limits.output_bytes)
        msg_id = client.execute(source, store_history=True, allow_stdin=False, stop_on_error=False)
        cell = self._cell = _Cell(msg_id, self._collector, on_output)
        cell.dead = not process.alive
        status = "ok"
        try:
            ended = await self._wait(cell, seconds)
            if ended == "timeout":
                status = "timeout"
                self.interrupt()
                ended = await self._wait(cell, self.limits.grace_seconds)
                if ended == "timeout":
                    process.kill()
        except asyncio.CancelledError:
            # the run was cancelled: let the cell say what it still has, unless we must hurry
            with contextlib.suppress(Exception):
                self.interrupt()
                await self._wait(cell, LAST_WORDS_SECONDS)
            raise
        finally:
            self._cell = None
        if status == "ok":
            status = "died" if ended == "died" else self._status(cell)
        count = (cell.reply or {}).get("execution_count")
        return CellResult.model_validate(
            {
                "outputs": self.partial,
                "status": status,
                "execution_count": count if type(count) is int and count >= 0 else None,
                "seconds": time.monotonic() - started,
                "restarted": ended != "done",
            }
        )

    @staticmethod
    def _status(cell: _Cell) -> str:
        return "ok" if (cell.reply or {}).get("status", "ok") == "ok" else "error"

    async def _wait(self, cell: _Cell, seconds: float) -> str:
        """`done`, `died`, or `timeout` after `seconds`."""
        deadline = time.monotonic() + seconds
        while not cell.done:
            if cell.dead:
                await asyncio.sleep(0.05)  # let what it still said arrive
                return "done" if cell.done else "died"
            half = cell.idle or cell.reply is not None
            until = min(deadline, cell.heard + LATE_SECONDS) if half else deadline
            left = until - time.monotonic()
            if left <= 0:
                return "done" if half else "timeout"
            cell.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cell.changed.wait(), left)
        return "done"

    def interrupt(self) -> None:
        """Ask the kernel to raise KeyboardInterrupt in the running cell."""
        client = self._client
        if client is not None:
            client.control_channel.send(client.session.msg("interrupt_request", {}))

    async def _watch(self, process: KernelProcess) -> None:
        """Tell the running cell when its kernel ends."""
        await process.wait()
        if self._cell is not None:
            self._cell.dead = True
            self._cell.changed.set()

    async def close(self) -> None:
        """Close the channels; the sandbox ends the process."""
        await self._close_client()
        if self._process is not None:
            self._process.kill()
            self._process = None

    async def _close_client(self) -> None:
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._readers = []
        client, self._client = self._client, None
        if client is not None:
            client.stop_channels()
            client.context.destroy(linger=0)

    async def _read(
        self, receive: Callable[[], Any], dispatch: Callable[[dict[str, Any]], None]
    ) -> None:
        while True:
            try:
                message = await receive()
            except asyncio.CancelledError:
                raise
            except zmq.ZMQError:
                return  # the socket is closed
            except Exception as error:
                log.debug("dropped a message that cannot be read: %s", error)
                await asyncio.sleep(0)
                continue
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
        if cell is None or message["parent_header"].get("msg_id") != cell.msg_id:
            return
        cell.heard = time.monotonic()
        if kind == "status":
            if message["content"].get("execution_state") == "idle":
                cell.idle = True
                cell.changed.set()
            return
        output = cell.collector.feed(kind, message["content"])
        if output is not None and cell.on_output is not None:
            cell.on_output(output)

    def _on_shell(self, message: dict[str, Any]) -> None:
        cell = self._cell
        if cell is None or message["parent_header"].get("msg_id") != cell.msg_id:
            return
        cell.heard = time.monotonic()
        if message["header"]["msg_type"] == "execute_reply":
            cell.reply = message["content"] if isinstance(message["content"], dict) else {}
            cell.changed.set()
