"""`LiveView`: shows a run in a notebook while it goes on, and leaves a record that stays.

Events come on the run's own loop and are only noted; a thread draws, some ten times a second at
most. Where the front end has widgets and is heard while a cell runs (JupyterLab from 4.4,
Notebook 7), the view is made of widgets, with buttons; elsewhere it is HTML that is replaced as
things happen, and in `jupyter console` lines of text. At the end plain HTML stays in any of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from lis_kernel import cards
from lis_kernel._sync import _background_loop
from lis_kernel.agent import events
from lis_kernel.cli.view import LineView
from lis_kernel.config import Budget
from lis_kernel.tools.clean import safe_html
from lis_kernel.trajectory import Trajectory, load
from lis_kernel.trajectory.card import card_of
from lis_kernel.ui import html
from lis_kernel.ui.previews import Previews, Reader
from lis_kernel.ui.record import ALL, Controls, Part, Record

if TYPE_CHECKING:
    from lis_kernel.agent import Agent
    from lis_kernel.ui.widgets import Panel

__all__ = ["LiveView", "Publish", "in_notebook", "view_for_notebook"]

log = logging.getLogger(__name__)

Publish = Callable[[str, dict[str, Any]], None]
"""Sends one message of a cell: its kind and its content."""
Mode = Literal["widgets", "html", "lines"]

WIDGET_SECONDS = 0.1
HTML_SECONDS = 0.4
"""Between two drawings; the second for a view that is sent whole each time."""
TICK_SECONDS = 1.0
PROBE_SECONDS = 6.0
"""A front end that has not answered by then has no widgets, or is not heard in time."""
NO_BUTTONS = (
    "There are no buttons here, as the kernel is not heard while a cell runs: the notebook's own "
    "stop button ends the run, and the record is kept."
)


def in_notebook() -> bool:
    """Whether IPython runs here as the kernel of a Jupyter front end."""
    return _kernel() is not None


def view_for_notebook(
    controls: Controls | None = None,
    budget: Budget | None = None,
    *,
    sandbox: Reader = None,
    publish: Publish | None = None,
) -> LiveView:
    """A view under the cell that runs now; to be called, and closed, in that cell's thread.

    Args:
        controls: who is at work, an `Agent`; may be set later as `view.controls`.
        budget: None takes the run's own.
        sandbox: where files are read for their previews, or a function that says where.
        publish: sends a message of the cell; None takes IPython's own way.
    """
    return LiveView(controls, budget, sandbox=sandbox, publish=publish)


class LiveView:
    """See `view_for_notebook`. Called with each event of a run, from any thread; never raises."""

    def __init__(
        self,
        controls: Controls | None = None,
        budget: Budget | None = None,
        *,
        sandbox: Reader = None,
        publish: Publish | None = None,
        mode: Mode | None = None,
    ) -> None:
        self.controls = controls
        self.mode: Mode = mode or _mode(publish)
        self.draws = 0
        """How often it has drawn."""
        self._record = Record(budget)
        self._previews = Previews(sandbox)
        self._files: list[cards.File] = []
        self._publish = publish or _publish
        self._display = f"lis-{uuid.uuid4().hex}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._dirty: set[Part] = set()
        self._closing = threading.Event()
        self._closed = False
        self._heard = False
        self._past: list[str] = []
        self._trouble = ""
        self._lines = LineView(self._say_line) if self.mode == "lines" else None
        self._queue: list[events.Event] = []
        self._panel: Panel | None = self._make_panel() if self.mode == "widgets" else None
        self._begun = time.monotonic()
        if self._lines is None:
            self._show("display_data", html.live_page(self._record, [], safe_html))
        self._context = contextvars.copy_context()  # it knows which cell the display belongs to
        self._thread = threading.Thread(
            target=self._context.run, args=(self._work,), name="lis-view", daemon=True
        )
        self._thread.start()

    def follows(self, agent: Agent) -> None:
        """Show the run that `agent` is about to begin, and the files of its sandbox."""
        self.controls = agent
        self._previews = Previews(lambda: agent.sandbox)

    def __call__(self, event: events.Event) -> None:
        try:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
        except RuntimeError:
            pass
        try:
            with self._lock:
                self._dirty |= self._record.feed(event)
                if self._lines is not None:
                    self._queue.append(event)
        except Exception:
            log.exception("the view could not take an event")
        self._wake.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def html(self) -> str:
        """The record as it stands."""
        with self._lock:
            self._record.tick()
            now = self._record.snapshot()
        return html.live_page(now, self._files, safe_html)

    def close(self, trajectory: Trajectory | None = None) -> None:
        """The run is over: leave its record as plain HTML. Does nothing the second time.

        A `trajectory` that is the cell's value is then not shown once more.
        """
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        self._wake.set()
        self._thread.join(10)
        try:
            if self._thread.is_alive():  # it is in that context still
                self._end(trajectory)
            else:
                self._context.run(self._end, trajectory)
        except Exception:
            log.exception("the record of the run could not be shown")

    # -- the end ---------------------------------------------------------------------------------

    def _end(self, trajectory: Trajectory | None) -> None:
        if self._lines is not None:
            self._draw_lines()
            return
        final, plain = self._final(trajectory)
        self._show("update_display_data", final, plain, live=False)
        if self._panel is not None:
            self._panel.ends(final, self._heard)
        if trajectory is not None:
            _once(trajectory)

    def _final(self, trajectory: Trajectory | None) -> tuple[str, str]:
        """The record as HTML and as text; nothing if there was no run."""
        record = self._record
        if not record.begun and trajectory is None:
            return "", ""
        try:
            if trajectory is None and record.ended and record.path is not None:
                trajectory = load(record.path)
            if trajectory is not None:
                return cards.run(card_of(trajectory), safe_html), repr(trajectory)
        except Exception as error:
            log.debug("the notebook cannot be read back: %s", error)
        record.tick()
        run = record.run
        if not record.ended:
            run.state, run.tone = "broken off", "bad"
        run.files = self._files
        return cards.run(run, safe_html), f"{run.state} after {run.turns} turns: {run.path}"

    # -- drawing: all of it in the view's own thread ---------------------------------------------

    def _work(self) -> None:
        last = 0.0
        while not self._closing.is_set():
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
            pause = WIDGET_SECONDS if self.mode == "widgets" else HTML_SECONDS
            if (left := last + pause - time.monotonic()) > 0 and self._closing.wait(left):
                return
            try:
                self._draw()
            except Exception:
                log.exception("the view could not be drawn")
            last = time.monotonic()

    def _draw(self) -> None:
        if self._lines is not None:
            self._draw_lines()
            return
        self._choose()
        with self._lock:
            dirty, self._dirty = self._dirty, set()
            if self.controls is not None:
                self._record.shows(self.controls.state)
            self._record.tick()
            now = self._record.snapshot()
        if "files" in dirty:
            self._files = self._previews.of(now.listing)
        if self._panel is not None and self.mode == "widgets":
            self._draw_panel(self._panel, now, dirty)
        elif dirty or time.monotonic() - self._begun < TICK_SECONDS:
            hint = NO_BUTTONS if not now.ended else ""
            self._show("update_display_data", html.live_page(now, self._files, safe_html, hint))
        self.draws += 1

    def _draw_panel(self, panel: Panel, now: Record, dirty: set[Part]) -> None:
        panel.set(panel.head, html.head_of(now))
        if steps := now.run.steps:
            for one in steps[len(self._past) : -1]:
                self._past.append(html.past(one, safe_html))
            panel.set_steps(self._past, html.present(now, safe_html))
        if "files" in dirty:
            label = cards.label("Files") if self._files else ""
            panel.set(panel.files, label + cards.files(self._files, 400_000) * bool(label))
        if dirty:
            panel.set(panel.foot, html.foot_of(now))
        self._draw_controls(panel, now)

    def _draw_controls(self, panel: Panel, now: Record) -> None:
        from lis_kernel.ui.widgets import HAND_BACK, PAUSE, PAUSING

        state = self.controls.state if self.controls is not None else ""
        if now.paused:
            panel.shows(HAND_BACK)
        else:
            panel.shows(PAUSING if state == "pausing" else PAUSE)
        hint = ""
        if now.paused and hasattr(self.controls, "run_cell"):
            said = f"or join with <code>lis attach {cards.escape(now.run_id)}</code>"
            hint = f"<span>{cards.escape(self._trouble) or said}</span>"
        panel.takes_cells(hint)

    def _draw_lines(self) -> None:
        with self._lock:
            queue, self._queue = self._queue, []
        for event in queue:
            if self._lines is not None:
                self._lines(event)

    def _say_line(self, line: str) -> None:
        self._publish("stream", {"name": "stdout", "text": f"{line}\n"})

    def _show(self, kind: str, page: str, plain: str = "", *, live: bool = True) -> None:
        data: dict[str, Any] = {"text/plain": plain or "a run of lis_kernel", "text/html": page}
        if not page:
            data = {"text/plain": "", "text/html": ""}
        if live and self._panel is not None and self.mode == "widgets":
            from lis_kernel.ui.widgets import MIME

            data[MIME] = {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self._panel.root.model_id,
            }
        content = {"data": data, "metadata": {}, "transient": {"display_id": self._display}}
        self._publish(kind, content)

    # -- widgets ---------------------------------------------------------------------------------

    def _make_panel(self) -> Panel | None:
        try:
            from lis_kernel.ui.widgets import Panel

            return Panel(
                stop=lambda: self._ask("stop"),
                pause=self._pause_or_hand_back,
                say=self._say,
                run=self._run_cell,
                alive=self._answered,
            )
        except Exception as error:  # not installed, or of another kernel's kind
            log.debug("no widgets: %s", error)
            self.mode = "html"
            return None

    def _answered(self) -> None:
        self._heard = True
        self._wake.set()

    def _choose(self) -> None:
        """Go over to plain HTML if nobody answers, and back if someone does after all."""
        if self._panel is None:
            return
        if self.mode == "widgets" and not self._heard:
            if time.monotonic() - self._begun > PROBE_SECONDS:
                self.mode = "html"
                with self._lock:
                    self._dirty |= ALL
            else:
                self._panel.ping()
        elif self.mode == "html" and self._heard:
            self.mode = "widgets"
            with self._lock:
                self._dirty |= ALL
            self._show("update_display_data", self.html())

    def _ask(self, what: str, *words: str) -> None:
        """Call one of the controls on the run's own loop."""
        if self.controls is not None:
            loop = self._loop or _background_loop()
            loop.call_soon_threadsafe(getattr(self.controls, what), *words)
            loop.call_soon_threadsafe(self._wake.set)

    def _pause_or_hand_back(self) -> None:
        paused = self._record.paused or getattr(self.controls, "state", "") == "pausing"
        self._ask("resume" if paused else "pause")

    def _say(self, text: str) -> None:
        with self._lock:
            self._record.pending.append(text)
            self._dirty.add("head")
        self._ask("say", text)

    def _run_cell(self, source: str) -> None:
        run_cell = getattr(self.controls, "run_cell", None)
        if run_cell is None:
            return
        work: Coroutine[Any, Any, Any] = run_cell(source)
        future = asyncio.run_coroutine_threadsafe(work, self._loop or _background_loop())

        def over(_: Any) -> None:
            error = None if future.cancelled() else future.exception()
            self._trouble = "" if error is None else str(error)
            self._wake.set()

        future.add_done_callback(over)


# -- the front end ---------------------------------------------------------------------------


def _kernel() -> Any:
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)


def _mode(publish: Publish | None) -> Mode:
    """What the front end that asked for the running cell can most likely show."""
    kernel = _kernel()
    if publish is not None or kernel is None:
        return "html"
    parent = kernel.get_parent() or {}
    page = "cellId" in parent.get("metadata", {})
    named = parent.get("header", {}).get("username", "")  # pages leave it empty
    if not page and named and parent.get("content", {}).get("allow_stdin"):
        return "lines"
    subshells = getattr(kernel, "_supports_kernel_subshells", False)
    return "widgets" if page and subshells else "html"


def _publish(kind: str, content: dict[str, Any]) -> None:
    """Send as IPython does, so that it goes where the cell's other output goes."""
    from IPython import get_ipython

    shell = get_ipython()
    if kind == "stream":
        import sys

        sys.stdout.write(content["text"])
        sys.stdout.flush()
    elif shell is not None:
        shell.display_pub.publish(
            content["data"],
            content["metadata"],
            transient=content["transient"],
            update=kind == "update_display_data",
        )


def _once(trajectory: Trajectory) -> None:
    """Until the running cell is over its value has been shown already."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    trajectory.shown = True

    def after(*_: Any) -> None:
        trajectory.shown = False
        shell.events.unregister("post_run_cell", after)

    shell.events.register("post_run_cell", after)
