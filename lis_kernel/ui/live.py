"""`LiveView`: shows a run in a notebook while it goes on, and leaves a record that stays.

Events come on the run's own loop and are only noted; a thread draws, some ten times a second at
most. Where the front end has widgets and is heard while a cell runs (JupyterLab from 4.4,
Notebook 7), the view is made of widgets, with buttons, and the record behind it is brought up to
date now and then, so that it is there when the notebook is opened without them. Elsewhere the
record itself is the view, and in `jupyter console` it is lines of text.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lis_kernel import cards
from lis_kernel.agent import events
from lis_kernel.config import Budget
from lis_kernel.tools.clean import safe_html
from lis_kernel.trajectory import Trajectory, load
from lis_kernel.trajectory.card import card_of
from lis_kernel.ui import frontend, html
from lis_kernel.ui.asking import Asks
from lis_kernel.ui.frontend import Mode, Publish
from lis_kernel.ui.previews import Previews, Reader
from lis_kernel.ui.record import ALL, Controls, Part, Record

if TYPE_CHECKING:
    from lis_kernel.agent import Agent
    from lis_kernel.cli.view import LineView
    from lis_kernel.ui.widgets import Panel

__all__ = ["LiveView", "view_for_notebook"]

log = logging.getLogger(__name__)

WIDGET_SECONDS = 0.1
HTML_SECONDS = 0.4
"""Between two drawings; the second for a view that is sent whole each time."""
RECORD_SECONDS = 5.0
"""Between two states of the record behind widgets; and without them, of one that only waits."""
BYTES_PER_SECOND = 2_000_000
"""Of HTML that is sent again with each drawing: a step with large pictures is drawn less often."""
TICK_SECONDS = 1.0
PROBE_SECONDS = 6.0
"""A front end that has not answered by then has no widgets, or is not heard in time."""
NO_BUTTONS = (
    "There are no buttons here, as the kernel is not heard while a cell runs: the notebook's own "
    "stop button ends the run, and the record is kept."
)
AS_IT_WAS = "As it was at {time}. If the run went on, the rest stands in its notebook."
"""In the record behind widgets, which is seen where there are none: they have gone, or a copy."""
NOTHING = {"text/plain": "", "text/html": ""}


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
        usual: Mode = "html" if publish is not None else frontend.best_mode()
        self.mode: Mode = mode or usual
        self.draws = 0
        """How often it has drawn."""
        self._publish = publish or frontend.publish
        self._wake = threading.Event()
        self._asks = Asks(controls, self._wake.set)
        self._record = Record(budget)
        self._previews = Previews(sandbox)
        self._files: list[cards.File] = []
        self._display = f"lis-{uuid.uuid4().hex[:12]}"
        self._lock = threading.Lock()
        self._dirty: set[Part] = set()
        self._closing = threading.Event()
        self._closed = self._heard = False
        self._past: list[str] = []
        self._weight = 0
        self._kept = (0, "")
        """Steps and state of the record as it was last sent, while widgets are shown."""
        self._lines = self._make_lines() if self.mode == "lines" else None
        self._queue: list[events.Event] = []
        self._begun = self._sent = time.monotonic()
        self._panel: Panel | None = self._make_panel() if self.mode == "widgets" else None
        if self._lines is None:
            self._show_record("display_data", html.live_page(self._record, [], safe_html))
        if self._panel is not None:
            self._show_panel("display_data")
        self._context = contextvars.copy_context()  # it knows which cell the display belongs to
        self._thread = threading.Thread(
            target=self._context.run, args=(self._work,), name="lis-view", daemon=True
        )
        self._thread.start()

    @property
    def controls(self) -> Controls | None:
        return self._asks.controls

    @controls.setter
    def controls(self, controls: Controls) -> None:
        self._asks.controls = controls

    def follows(self, agent: Agent) -> None:
        """Show the run that `agent` is about to begin, and the files of its sandbox."""
        self.controls = agent
        self._previews = Previews(lambda: agent.sandbox)

    def __call__(self, event: events.Event) -> None:
        try:
            if self._asks.loop is None:
                self._asks.loop = asyncio.get_running_loop()
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
        return html.live_page(self._now(), self._files, safe_html)

    def close(self, trajectory: Trajectory | None = None) -> None:
        """The run is over: leave its record as plain HTML. Does nothing the second time.

        A `trajectory` that is the cell's value is then not shown once more. The record is sent by
        the cell that calls this, maybe a later one than the view's: nbclient hears no other.
        """
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        self._wake.set()
        self._thread.join(10)
        try:
            self._end(trajectory)
        except Exception:
            log.exception("the record of the run could not be shown")

    # -- the end ---------------------------------------------------------------------------------

    def _end(self, trajectory: Trajectory | None) -> None:
        if self._lines is not None:
            self._draw_lines()
            return
        final, plain = self._final(trajectory)
        self._show_record("update_display_data", final, plain)
        if self._panel is not None:
            self._show("update_display_data", f"{self._display}-live", NOTHING)
            self._panel.ends(final, self._heard)
        if trajectory is not None:
            frontend.once(trajectory)

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
            pause = max(pause, self._weight / BYTES_PER_SECOND)
            if (left := last + pause - time.monotonic()) > 0 and self._closing.wait(left):
                return
            try:
                self._draw()
            except Exception:
                log.exception("the view could not be drawn")
            last = time.monotonic()

    def _now(self) -> Record:
        with self._lock:
            self._record.shows(self._asks.state)
            self._record.tick()
            return self._record.snapshot()

    def _draw(self) -> None:
        if self._lines is not None:
            self._draw_lines()
            return
        self._choose()
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        now = self._now()
        if "files" in dirty:
            self._files = self._previews.of(now.listing)
        moves = now.begun and not now.paused and not now.ended
        if self._panel is not None and self.mode == "widgets":
            self._draw_panel(self._panel, now, dirty)
            self._keep(now)
        elif dirty or (moves and time.monotonic() - self._sent > RECORD_SECONDS):
            page = html.live_page(now, self._files, safe_html, NO_BUTTONS)
            self._weight = len(page)
            self._show_record("update_display_data", page)
        self.draws += 1

    def _draw_panel(self, panel: Panel, now: Record, dirty: set[Part]) -> None:
        panel.set(panel.head, html.head_of(now))
        if steps := now.run.steps:
            for one in steps[len(self._past) : -1]:
                self._past.append(html.past(one, safe_html))
            present = html.present(now, safe_html)
            self._weight = len(present)
            panel.set_steps(self._past, present)
        if "files" in dirty:
            label = cards.label("Files") if self._files else ""
            panel.set(panel.files, label + cards.files(self._files, 400_000) * bool(label))
        if dirty:
            panel.set(panel.foot, html.foot_of(now))
        panel.shows("paused" if now.paused else self._asks.state)
        hint = ""
        if now.paused and self._asks.takes_cells:
            said = f"or join with <code>lis attach {cards.escape(now.run_id)}</code>"
            hint = f"<span>{cards.escape(self._asks.trouble) or said}</span>"
        panel.takes_cells(hint)

    def _keep(self, now: Record) -> None:
        """Bring the record behind the widgets up to date, once a step, and not too often."""
        kept = (len(now.run.steps), now.run.state if now.paused else "")
        first = now.begun and not self._kept[0]
        if first or (kept != self._kept and time.monotonic() - self._sent > RECORD_SECONDS):
            self._kept = kept if kept[0] else (-1, "")
            hint = AS_IT_WAS.format(time=time.strftime("%H:%M:%S"))
            page = html.live_page(now, self._files, safe_html, hint)
            self._show_record("update_display_data", page)

    def _make_lines(self) -> LineView:
        from lis_kernel.cli.view import LineView

        return LineView(self._say_line)

    def _draw_lines(self) -> None:
        with self._lock:
            queue, self._queue = self._queue, []
        for event in queue:
            if self._lines is not None:
                self._lines(event)

    def _say_line(self, line: str) -> None:
        self._publish("stream", {"name": "stdout", "text": f"{line}\n"})

    # -- displays: the record, and while there are widgets a second one --------------------------

    def _show_record(self, kind: str, page: str, plain: str = "") -> None:
        self._sent = time.monotonic()
        # the widgets' sheet hides what has this class, for as long as there are widgets
        beside = "" if self._panel is None or self._closed else self._panel.beside
        named = f'<div class="{self._display}">{beside}{page}</div>'
        data = {"text/plain": plain or "a run of lis_kernel", "text/html": named}
        self._show(kind, self._display, data if page else NOTHING)

    def _show_panel(self, kind: str) -> None:
        from lis_kernel.ui.widgets import MIME

        assert self._panel is not None
        model = {"version_major": 2, "version_minor": 0, "model_id": self._panel.root.model_id}
        self._show(kind, f"{self._display}-live", {**NOTHING, MIME: model})

    def _show(self, kind: str, name: str, data: dict[str, Any]) -> None:
        content = {"data": dict(data), "metadata": {}, "transient": {"display_id": name}}
        self._publish(kind, content)

    # -- widgets ---------------------------------------------------------------------------------

    def _make_panel(self) -> Panel | None:
        try:
            from lis_kernel.ui.widgets import Panel

            return Panel(
                hides=self._display,
                stop=lambda: self._asks.call("stop"),
                pause=self._pause_or_hand_back,
                say=self.say,
                run=self._asks.run_cell,
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
                self._show("update_display_data", f"{self._display}-live", NOTHING)
            else:
                self._panel.ping()
        elif self.mode == "html" and self._heard:
            self.mode = "widgets"
            self._show_panel("update_display_data")
        else:
            return
        with self._lock:
            self._dirty |= ALL

    def _pause_or_hand_back(self) -> None:
        paused = self._record.paused or self._asks.state == "pausing"
        self._asks.call("resume" if paused else "pause")

    def say(self, text: str) -> None:
        """Have the model told `text` before its next turn, and show that it will be."""
        with self._lock:
            self._record.pending.append(text)
            self._dirty.add("head")
        self._asks.call("say", text)
