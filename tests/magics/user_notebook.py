"""A user's kernel, driven as a front end does, and what stands under its cells."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

__all__ = ["Cell", "Notebook"]


@dataclass
class Cell:
    """A cell that was run, with its messages in order and what they come to."""

    msg_id: str
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    reply: dict[str, Any] | None = None
    begun: bool = False
    idle: bool = False

    @property
    def over(self) -> bool:
        return self.idle and self.reply is not None

    @property
    def ok(self) -> bool:
        return self.reply is not None and self.reply["status"] == "ok"

    def stream(self, name: str = "stdout") -> str:
        """Everything that was printed there."""
        kept = [c["text"] for kind, c in self.messages if kind == "stream" and c["name"] == name]
        return "".join(kept)

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The bundles that stand under the cell: updated, and cleared where it was cleared."""
        shown: list[tuple[str | None, dict[str, Any]]] = []
        clear = False
        for kind, content in self.messages:
            if kind == "clear_output":
                clear = content["wait"]
                shown = shown if clear else []
            elif kind in ("display_data", "execute_result"):
                shown = [] if clear else shown
                clear = False
                shown.append((content.get("transient", {}).get("display_id"), content["data"]))
            elif kind == "update_display_data":
                name = content["transient"]["display_id"]
                shown = [(n, content["data"] if n == name else data) for n, data in shown]
        return [data for _, data in shown]

    @property
    def error(self) -> str:
        """The traceback that is shown, as text."""
        found = [content for kind, content in self.messages if kind == "error"]
        assert len(found) <= 1, "an error is shown once"
        return "\n".join(found[0]["traceback"]) if found else ""

    @property
    def ename(self) -> str:
        return str((self.reply or {}).get("ename", ""))


class Notebook:
    """A kernel in `folder`; ends with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = KernelManager(kernel_name="python3")
        self.cells: dict[str, Cell] = {}

    def __enter__(self) -> Self:
        self.manager.start_kernel(cwd=str(self.folder))
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=False)

    def start(self, source: str) -> Cell:
        """Run a cell; do not wait."""
        cell = Cell(self.client.execute(source, allow_stdin=False))
        self.cells[cell.msg_id] = cell
        return cell

    def run(self, source: str, seconds: float = 90) -> Cell:
        return self.finish(self.start(source), seconds)

    def finish(self, cell: Cell, seconds: float = 90) -> Cell:
        self.until(lambda: cell.over, seconds)
        return cell

    def value(self, expression: str) -> Any:
        """What an expression is in the user's kernel, by its repr."""
        cell = self.run(f"print(repr({expression}))")
        assert cell.ok, cell.error
        return cell.stream().rstrip("\n")

    def until(self, true: Callable[[], Any], seconds: float = 60) -> None:
        """Take what comes until something holds."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, [cell.messages for cell in self.cells.values()][-1]
            with contextlib.suppress(queue.Empty):
                self._iopub(self.client.get_iopub_msg(timeout=0.05))
            with contextlib.suppress(queue.Empty):
                message = self.client.get_shell_msg(timeout=0)
                cell = self.cells.get(message["parent_header"].get("msg_id"))
                if cell is not None:
                    cell.reply = message["content"]

    def _iopub(self, message: dict[str, Any]) -> None:
        cell = self.cells.get(message["parent_header"].get("msg_id"))
        kind, content = message["msg_type"], message["content"]
        if cell is None:
            return
        if kind == "execute_input":
            cell.begun = True
            return
        if kind == "status":
            cell.idle = cell.idle or content["execution_state"] == "idle"
        else:
            cell.messages.append((kind, content))
            cell.times.append(time.monotonic())

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def complete(self, text: str, *, whole: bool = True) -> list[str]:
        """What completion offers at the `|` in `text`; with `whole`, words that begin so."""
        cursor = text.index("|")
        source = text.replace("|", "", 1)
        self.until(lambda: all(cell.over for cell in self.cells.values()))
        reply = self.client.complete(source, cursor, reply=True, timeout=30)["content"]
        assert reply["status"] == "ok"
        assert reply["cursor_end"] == cursor
        before = source[reply["cursor_start"] : cursor]
        matches = list(reply["matches"])
        assert not whole or "<unknown>" not in str(reply["metadata"]), "JupyterLab shows it"
        assert not whole or all(match.startswith(before) for match in matches), (before, reply)
        return matches
