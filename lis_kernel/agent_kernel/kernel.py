"""The agent kernel as Jupyter's messaging protocol sees it, on the sockets that ipykernel makes.

A cell runs as a coroutine of the kernel's main loop, so that the live view's widgets are heard
meanwhile: ipykernel hands over their messages while a cell awaits. An interrupt is a message on the
control channel, which has a thread of its own, and stops the run; so does SIGINT.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import comm
from ipykernel.kernelbase import Kernel
from traitlets import Any as AnyTrait

from lis_kernel.agent_kernel.cell import code_at, read
from lis_kernel.agent_kernel.completion import complete, described
from lis_kernel.agent_kernel.conversation import Conversation
from lis_kernel.agent_kernel.display import NEW_SANDBOX, CellFailed, Screen
from lis_kernel.agent_kernel.magics import carry_out
from lis_kernel.errors import ConfigError, KernelError, LisKernelError, SandboxError
from lis_kernel.tools.clean import safe_bundle
from lis_kernel.tools.terminal import plain_text

__all__ = ["AgentKernel"]

log = logging.getLogger(__name__)

VERSION = version("lis-kernel")
ASK_SECONDS = 5.0
"""For completion by the sandbox's kernel."""
END_SECONDS = 4.5
"""jupyter_client waits five for a kernel that it asked to end, and kills it then."""
MATCHES = 500
MATCH_CHARS = 200
LANGUAGE: dict[str, object] = {
    "name": "markdown",
    "version": VERSION,
    "mimetype": "text/markdown",
    "file_extension": ".md",
    "codemirror_mode": "markdown",
    "pygments_lexer": "markdown",
}


class AgentKernel(Kernel):
    """Its parent, the app, says what the runs are like: `parent.run_config`."""

    implementation = "lis-agent"
    implementation_version = VERSION
    language_info = LANGUAGE
    banner = (
        f"lis_kernel {VERSION}: what you write is a task for a model, which works on it in a "
        "sandbox. %help lists the magics."
    )
    _supports_kernel_subshells = False  # nothing in it runs beside a cell

    parent: Any
    # what the app gives to every kernel, and this one has no use for
    user_ns = AnyTrait()
    debugpy_stream = AnyTrait()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._talk = Conversation(self.parent.run_config, say=self._say)
        self._screen: Screen | None = None
        self._work: asyncio.Task[None] | None = None
        self._presses = 0
        self._ending: asyncio.Task[None] | None = None
        self.comm_manager: Any = comm.get_comm_manager()
        self.comm_manager.register_target("jupyter.widget.control", _widgets_asked_for)
        for name in ("comm_open", "comm_msg", "comm_close"):
            self.shell_handlers[name] = getattr(self.comm_manager, name)

    def start(self) -> None:
        super().start()
        loop = self._loop
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._told_to_end)

    def pre_handler_hook(self) -> None:
        """ipykernel raises SIGINT in the running cell; here it is a request like the message."""

    def post_handler_hook(self) -> None:
        """See `pre_handler_hook`."""

    @property
    def kernel_info(self) -> dict[str, Any]:
        return {**super().kernel_info, "supported_features": []}

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self.io_loop.asyncio_loop  # type: ignore[attr-defined]
        return loop

    def _say(self, line: str) -> None:
        if self._screen is not None:
            self._screen.say(line)
        else:
            log.info("%s", line)

    # -- a cell ----------------------------------------------------------------------------------

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: Mapping[str, str] | None = None,
        allow_stdin: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Run a cell. A front end's own silent questions are nobody's task."""
        reply = {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {},
        }
        if silent or not code.strip():
            return reply
        parent = self.get_parent("shell")

        def publish(kind: str, content: dict[str, Any]) -> None:
            assert self.session is not None
            ident = self._topic(kind)
            self.session.send(self.iopub_socket, kind, content, parent=parent, ident=ident)

        screen = self._screen = Screen(publish, parent, self.execution_count)
        self._presses = 0
        work = self._work = asyncio.create_task(self._cell(code, screen))
        try:
            await asyncio.wait({work})
        finally:
            self._screen = self._work = None
        if (failed := _failure(work)) is None:
            return reply
        error = {
            "ename": failed.name,
            "evalue": failed.text,
            "traceback": failed.traceback,
        }
        publish("error", error)
        return {**reply, **error, "status": "error"}

    async def _cell(self, code: str, screen: Screen) -> None:
        await self.parent.listened()  # in the task of the cell: an interrupt ends this as well
        await carry_out(code, self._talk, screen)

    def interrupt(self) -> None:
        """Stop what runs; asked again, without waiting for its last words. On the main loop."""
        self._presses += 1
        if self._work is None:
            return
        again = self._presses > 1
        if not self._talk.stop(at_once=again):
            self._work.cancel()

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """On the control channel's thread."""
        self._loop.call_soon_threadsafe(self.interrupt)
        assert self.session is not None
        self.session.send(stream, "interrupt_reply", {"status": "ok"}, parent, ident=ident)

    # -- help while typing -----------------------------------------------------------------------

    async def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        cursor_pos = len(code) if cursor_pos is None else cursor_pos
        start = end = cursor_pos
        matches: list[str] = []
        if (place := code_at(code, cursor_pos)) is not None:
            source, offset = place
            words = {"code": source, "cursor_pos": cursor_pos - offset}
            found = await self._asked("complete_request", words)
            given = found.get("matches")
            bounds = found.get("cursor_start"), found.get("cursor_end")
            if isinstance(given, list) and all(
                type(bound) is int and 0 <= bound <= len(source) for bound in bounds
            ):
                start, end = (offset + int(bound or 0) for bound in bounds)
                # a line break would begin a line of the user's own cell, with magics of its own
                texts = (one for one in given[:MATCHES] if isinstance(one, str))
                matches = [one for one in texts if one.isprintable() and len(one) < MATCH_CHARS]
        else:
            start, end, matches = complete(code, cursor_pos)
        return {
            "matches": matches,
            "cursor_start": start,
            "cursor_end": end,
            "metadata": {},
            "status": "ok",
        }

    async def do_inspect(
        self,
        code: str,
        cursor_pos: int,
        detail_level: int = 0,
        omit_sections: Any = (),
    ) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if (place := code_at(code, cursor_pos)) is not None:
            source, offset = place
            words = {
                "code": source,
                "cursor_pos": cursor_pos - offset,
                "detail_level": detail_level,
            }
            found = await self._asked("inspect_request", words)
            if found.get("found") is True and isinstance(found.get("data"), dict):
                data = safe_bundle(found["data"])
        elif said := described(code, cursor_pos):
            data = {"text/plain": said}
        return {"status": "ok", "data": data, "metadata": {}, "found": bool(data)}

    async def _asked(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """What the sandbox's kernel answers; nothing if it is not there or is at work."""
        if (shared := self._talk.idle) is None:
            return {}
        try:
            return await shared.session.request(kind, content, ASK_SECONDS)
        except (TimeoutError, KernelError, SandboxError):
            return {}

    async def do_is_complete(self, code: str) -> dict[str, Any]:
        """For consoles: code of several lines ends with an empty one, all else with its line."""
        try:
            cell = read(code)
        except ConfigError as error:
            # a cell magic whose code is yet to come is no error here
            begun = error.problem.startswith("there is no code below") and "\n\n" not in code
            return {"status": "incomplete", "indent": ""} if begun else {"status": "complete"}
        if cell.kind in ("python", "bash") and not code.endswith("\n"):
            return {"status": "incomplete", "indent": ""}
        return {"status": "complete"}

    # -- the end ---------------------------------------------------------------------------------

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """On the control channel's thread; the sandbox belongs to the main loop."""
        future = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        await asyncio.wait({asyncio.wrap_future(future)}, timeout=END_SECONDS)
        return {"status": "ok", "restart": restart}

    async def _end(self) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._talk.close())
        await asyncio.wait({self._ending})

    def _told_to_end(self) -> None:
        """SIGTERM: as a shutdown, without anybody who waits for a reply."""

        async def end() -> None:
            await asyncio.wait({asyncio.ensure_future(self._end())}, timeout=END_SECONDS)
            self.io_loop.stop()

        self._leaving = asyncio.ensure_future(end())


def _failure(work: asyncio.Task[None]) -> CellFailed | None:
    """What a cell that did not end well says."""
    if work.cancelled():
        return CellFailed(
            "KeyboardInterrupt", "the cell was stopped; if its code does not end, %reset does"
        )
    error = work.exception()
    if error is None or isinstance(error, CellFailed):
        return error
    if isinstance(error, SandboxError | KernelError):
        return CellFailed(type(error).__name__, f"{plain_text(str(error))} {NEW_SANDBOX}")
    if not isinstance(error, LisKernelError):
        log.error("a cell failed", exc_info=error)
    return CellFailed(type(error).__name__, plain_text(str(error)))


def _widgets_asked_for(opened: Any, message: Any) -> None:
    """A page that was loaded anew asks for the widgets that are there."""
    from ipywidgets import Widget

    Widget.handle_control_comm_opened(opened, message)
