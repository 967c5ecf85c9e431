"""What a person asks for by the view's buttons, carried to the run's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from lis_kernel._sync import _background_loop
from lis_kernel.ui.record import Controls

__all__ = ["Asks"]


class Asks:
    """Called in the thread in which widgets are heard; `controls` may come later than it.

    Args:
        changed: called when something may have changed.
    """

    def __init__(self, controls: Controls | None, changed: Callable[[], None]) -> None:
        self.controls = controls
        self.loop: asyncio.AbstractEventLoop | None = None
        self.trouble = ""
        """Why the last cell could not be run."""
        self._changed = changed

    @property
    def state(self) -> str:
        """Of the agent; empty if it is not known."""
        return "" if self.controls is None else self.controls.state

    @property
    def takes_cells(self) -> bool:
        """Whether a person's cells can be run while the model waits."""
        return hasattr(self.controls, "run_cell")

    def call(self, what: str, *words: str) -> None:
        """Have one of the controls called."""
        if self.controls is not None:
            loop = self.loop or _background_loop()
            loop.call_soon_threadsafe(getattr(self.controls, what), *words)
            loop.call_soon_threadsafe(self._changed)

    def run_cell(self, source: str) -> None:
        """Run a person's cell; what comes of it are events of the run."""
        run_cell = getattr(self.controls, "run_cell", None)
        if run_cell is None:
            return
        work: Coroutine[Any, Any, Any] = run_cell(source)
        future = asyncio.run_coroutine_threadsafe(work, self.loop or _background_loop())

        def over(_: Any) -> None:
            error = None if future.cancelled() else future.exception()
            self.trouble = "" if error is None else str(error)
            self._changed()

        future.add_done_callback(over)
