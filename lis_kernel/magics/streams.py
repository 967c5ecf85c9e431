"""Where a sandbox cell's messages become outputs of the user's own cell, as they come.

Messages arrive on the background loop and are shown in the cell's own thread, where IPython and
the front end take them for this cell's. What they hold is hostile, and the page runs this kernel's
outputs as trusted: all of it passes `tools/clean.py`, unless the user said `--trust`.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import re
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from IPython.core.interactiveshell import InteractiveShell

from lis_kernel._sync import soon, submit
from lis_kernel.errors import SandboxError
from lis_kernel.magics.failing import in_sandbox
from lis_kernel.tools.clean import clean_bundle, safe_metadata, safe_stream
from lis_kernel.tools.observation import befell
from lis_kernel.tools.terminal import plain_text
from lis_kernel.types import CellResult

__all__ = ["Screen"]

_ACTIVE = {
    "scripts": re.compile(r"<script\b", re.IGNORECASE),
    "frames": re.compile(r"<(?:iframe|object|embed)\b", re.IGNORECASE),
    "audio": re.compile(r"<audio\b", re.IGNORECASE),
    "video": re.compile(r"<video\b", re.IGNORECASE),
    "pictures of other servers": re.compile(r"<img\b[^>]*\bsrc\s*=\s*[\"']?(?:https?:)?//", re.I),
}
"""In HTML, what some libraries make plots, maps and players of; without it their place is empty."""

T = TypeVar("T")

MOST_WAITING = 100_000_000
"""Characters of messages; more than a cell without `clear_output` can show."""


class Screen:
    """The outputs of one cell.

    Args:
        name: of the sandbox; its displays get names that no display of the user's has.
        trust: show everything as it is.
    """

    def __init__(self, shell: InteractiveShell, name: str, *, trust: bool = False) -> None:
        self._shell = shell
        self._name = name
        self._trust = trust
        self._queue: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        self._taken = self._shown = 0  # characters, each changed in one thread only
        self._dropped: set[str] = set()
        self._error: dict[str, Any] = {}

    def message(self, kind: str, content: dict[str, Any]) -> None:
        """A message of the sandbox's kernel, on the background loop.

        One that comes quicker than they can be shown is left out: `clear_output` makes room for
        more without end, and this kernel's memory is the user's.
        """
        size = _size(content)
        if self._taken - self._shown + size <= MOST_WAITING:
            self._taken += size
            self._queue.put((kind, content))

    def say(self, line: str) -> None:
        """A line of ours; from any thread."""
        self._queue.put(("say", {"text": line}))

    def follow(self, work: Coroutine[Any, Any, T], interrupt: Callable[[], bool]) -> T:
        """Do `work` on the background loop and show what comes until it is done; its result.

        The first interrupt calls `interrupt` (there) and goes on showing until the cell has ended;
        the second one cancels `work`, and so does the first if `interrupt` says False.

        Raises:
            KeyboardInterrupt: it was cancelled, and has ended.
        """
        tasks: list[asyncio.Task[T]] = []
        given_up = False

        async def carry_out() -> T:
            if given_up:
                work.close()
                raise asyncio.CancelledError
            # a future that is cancelled is over at once; the task is over when it has ended
            tasks.append(asyncio.create_task(work))
            return await tasks[0]

        def pressed(again: bool) -> None:
            nonlocal given_up
            if again or not interrupt():
                given_up = True
                for task in tasks:
                    task.cancel()

        try:
            future = submit(carry_out())  # within: an interrupt may come as it returns
            future.add_done_callback(lambda _: self._queue.put(None))
            presses = 0
            while True:
                try:
                    while (item := self._queue.get()) is not None:
                        if item[0] != "say":
                            self._shown += _size(item[1])
                        self._show(*item)
                    break
                except KeyboardInterrupt:
                    presses += 1
                    soon(functools.partial(pressed, presses > 1))
        except BaseException:  # an interrupt between these lines, or a front end that is gone
            soon(functools.partial(pressed, True))
            raise
        if future.cancelled():
            raise KeyboardInterrupt
        return future.result()

    def judge(self, result: CellResult) -> None:
        """Fail the user's cell if the sandbox's failed.

        Raises:
            CellFailed: with the sandbox's own traceback, or what befell the cell.
            SandboxError: the kernel had to be replaced, or a limit was reached.
        """
        said = befell(result.status, result.verdict, result.limit, result.restarted)
        lost = "; its variables are gone, its files are there" if result.restarted else ""
        if self._error and result.status == "error":
            if said:
                self._print(sys.stderr, f"{said}{lost}\n")
            raise in_sandbox(self._error["ename"], self._error["evalue"], self._error["traceback"])
        if result.status != "ok":
            raise SandboxError((said or f"the cell ended with `{result.status}`") + lost)
        if said:
            self._print(sys.stderr, f"{said}{lost}\n")

    # -- one message ------------------------------------------------------------------------------

    def _show(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "say":
            self._print(sys.stdout, f"{plain_text(content['text'])}\n")
        elif kind == "stream":
            text = content["text"] if self._trust else safe_stream(content["text"])
            self._print(sys.stderr if content["name"] == "stderr" else sys.stdout, text)
        elif kind == "clear_output":
            self._shell.display_pub.clear_output(content["wait"])
        elif kind == "error":
            self._error = content  # shown once, as the cell's own
        else:
            self._display(content, update=kind == "update_display_data")

    def _display(self, content: dict[str, Any], *, update: bool) -> None:
        data, metadata = content["data"], content["metadata"]
        if not self._trust:
            html = str(data.get("text/html", ""))
            active = [name for name, found in _ACTIVE.items() if found.search(html)]
            data, dropped = clean_bundle(data)
            metadata = safe_metadata(metadata)
            self._note((*dropped, *active))
        if not data:
            return
        name = content.get("transient", {}).get("display_id")
        transient = {"display_id": f"sandbox-{self._name}-{name}"} if name else {}
        self._shell.display_pub.publish(data, metadata, transient=transient, update=update)

    def _note(self, dropped: tuple[str, ...]) -> None:
        """Name what is not shown, each type once a cell."""
        for mime in dropped:
            if mime not in self._dropped and len(self._dropped) < 10:
                self._dropped.add(mime)
                line = f"not shown: {plain_text(mime)[:80]} (%%sandbox --trust shows everything)\n"
                self._print(sys.stderr, line)

    def _print(self, stream: Any, text: str) -> None:
        stream.write(text)
        if self._queue.empty():  # else more comes at once, and a flush waits for the front end
            stream.flush()


def _size(value: Any) -> int:
    """About how many characters a message has."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return 100 + sum(len(key) + _size(item) for key, item in value.items())
    return sum(map(_size, value), 100) if isinstance(value, list) else 10
