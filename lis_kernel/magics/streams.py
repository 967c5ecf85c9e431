"""Runs a cell in a sandbox and shows what it shows under the user's own cell, as it comes.

Messages arrive on the background loop and are passed on by the thread that runs the user's cell, so
they belong to it. What is shown is cleaned first, unless the user trusts the sandbox.
"""

from __future__ import annotations

import queue
import sys
from concurrent.futures import Future
from typing import Any

from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import clear_output

from lis_kernel._sync import soon, submit
from lis_kernel.agent.shared import SharedSandbox
from lis_kernel.tools.clean import clean_bundle, safe_metadata, safe_stream
from lis_kernel.types import CellResult

__all__ = ["CellFailed", "Shown", "run_cell"]

Message = tuple[str, dict[str, Any]]


class CellFailed(Exception):
    """A sandbox's cell failed: the user's cell fails with it, and shows the sandbox's traceback."""

    def __init__(self, name: str, text: str, traceback: list[str]) -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self._lines = traceback or [str(self)]

    def _render_traceback_(self) -> list[str]:
        """Asked by IPython in place of the traceback of the magic."""
        return self._lines


class Shown:
    """Passes a sandbox's messages on to the front end of `shell`."""

    def __init__(self, shell: InteractiveShell, trust: bool) -> None:
        self._publisher: DisplayPublisher = shell.display_pub
        self._trust = trust
        self._told: set[str] = set()
        self.failure: CellFailed | None = None

    def pass_on(self, kind: str, content: dict[str, Any]) -> None:
        """One message, in the thread of the user's cell."""
        if kind == "stream":
            stream = sys.stdout if content["name"] == "stdout" else sys.stderr
            stream.write(content["text"] if self._trust else safe_stream(content["text"]))
            stream.flush()
        elif kind == "clear_output":
            clear_output(wait=content["wait"])
        elif kind == "error":
            name, text = safe_stream(content["ename"]), safe_stream(content["evalue"])
            self.failure = CellFailed(name, text, [safe_stream(x) for x in content["traceback"]])
        else:
            self._display(content, kind == "update_display_data")

    def _display(self, content: dict[str, Any], update: bool) -> None:
        data, metadata = content["data"], content["metadata"]
        if not self._trust:
            cleaned = clean_bundle(data)
            data, metadata = cleaned.data, safe_metadata(metadata)
            self._name(cleaned.dropped)
            if not data:
                return
        transient = content.get("transient", {})
        self._publisher.publish(data, metadata, transient=transient, update=update)

    def _name(self, dropped: tuple[str, ...]) -> None:
        """Say once of each type that it is not shown."""
        new = [ascii(mime)[1:-1][:80] for mime in dropped if mime not in self._told]
        self._told.update(dropped)
        if new:
            print(
                f"[not shown: {', '.join(sorted(new))}; --trust shows all that the sandbox sends]",
                file=sys.stderr,
            )


def run_cell(
    shell: InteractiveShell,
    shared: SharedSandbox,
    source: str,
    *,
    timeout: float | None = None,
    trust: bool = False,
) -> CellResult:
    """Run `source` in `shared` and show what comes; an interrupt interrupts the sandbox's cell.

    `timeout` in seconds, None for the sandbox's own.

    Raises:
        CellFailed: the cell did.
        KeyboardInterrupt: pressed a second time, while the cell does not end.
        SandboxBusy, SandboxError, KernelError, ConfigError: see `SharedSandbox.execute`.
    """
    messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    shown = Shown(shell, trust)
    running: Future[CellResult] = submit(
        shared.execute(
            source, timeout=timeout, on_message=lambda kind, content: messages.put((kind, content))
        )
    )
    running.add_done_callback(lambda _: messages.put(None))
    presses = 0
    while True:
        try:
            message = messages.get()
            if message is None:
                break
            shown.pass_on(*message)
        except KeyboardInterrupt:
            presses += 1
            if presses > 1:
                running.cancel()
                raise
            soon(shared.interrupt)
    result = running.result()
    if shown.failure is not None:
        raise shown.failure
    if result.status != "ok":
        raise CellFailed(*_what_befell(result))
    return result


def _what_befell(result: CellResult) -> tuple[str, str, list[str]]:
    """A cell that was stopped says nothing itself."""
    limit = f" ({result.limit})" if result.limit else ""
    after = "; its variables are gone" if result.restarted else ""
    if result.verdict == "timeout" or result.status == "timeout":
        return "Timeout", f"the cell took longer than it may{limit}{after}", []
    return (result.verdict or result.status).capitalize(), f"the cell was ended{limit}{after}", []
