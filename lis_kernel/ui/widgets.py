"""The live view as widgets: parts that are replaced one by one, and buttons.

A step that is over keeps its widget, so that what a person unfolds stays so while the run goes on.
Callbacks come from the thread in which the kernel handles messages of widgets: under JupyterLab
that is a subshell, which answers while the cell runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
from ipywidgets import HTML, Button, HBox, Layout, Text, Textarea, VBox

__all__ = ["MIME", "Panel"]

MIME = "application/vnd.jupyter.widget-view+json"

VIEW = "lis-view"
"""Class of all that the widgets show, the record at the end as well."""
GONE = "jupyter-widgets-disconnected"

SHEET = """<style>
.lis-live { border: 1px solid var(--jp-border-color2, rgba(128, 128, 128, 0.35));
  border-radius: 6px; max-width: 960px; margin: 2px 0; overflow: hidden;
  background: var(--jp-layout-color1, transparent); }
.lis-live .widget-html { margin: 0; width: auto; height: auto; overflow: visible; min-width: 0; }
.lis-live .widget-html > .widget-label { display: none; }
.lis-live .widget-html-content { font-family: var(--jp-ui-font-family, system-ui, sans-serif);
  font-size: 13px; line-height: 1.5; min-width: 0; }
.lis-live .lis-part { padding: 12px 16px; margin: 0; overflow: visible;
  border-top: 1px solid rgba(128, 128, 128, 0.22); }
.lis-live .lis-head { border-top: none; }
.lis-live .lis-empty { display: none; }
.lis-live .lis-steps { display: flex; flex-direction: column-reverse; max-height: 560px;
  overflow: auto; }
.lis-live .lis-steps > .widget-vbox { flex: 0 0 auto; overflow: visible; margin: 0; }
.lis-live .lis-row { flex-wrap: wrap; gap: 8px; align-items: center; overflow: visible;
  padding: 8px 16px; }
.lis-live .lis-row .jupyter-button, .lis-live .lis-code .jupyter-button { width: auto; margin: 0;
  padding: 0 12px; border-radius: 3px; }
.lis-live .lis-row .jupyter-button i { margin-right: 6px; }
.lis-live .lis-stop { color: var(--jp-error-color1, rgb(215, 65, 60)); }
.lis-live .lis-row .widget-text { flex: 1 1 200px; width: auto; min-width: 140px; margin: 0; }
.lis-live .lis-row .widget-text input { border-radius: 3px; }
.lis-live .lis-code { gap: 8px; padding: 0 16px 12px 16px; margin: 0; overflow: visible; }
.lis-live .lis-code .widget-textarea { width: auto; height: auto; margin: 0; }
.lis-live .lis-code textarea { font-family: var(--jp-code-font-family, monospace);
  font-size: 12px; line-height: 1.5; border-radius: 3px; min-height: 66px; }
.lis-live.jupyter-widgets-disconnected .lis-row, .lis-live.jupyter-widgets-disconnected .lis-code {
  display: none; }
.lis-live.jupyter-widgets-disconnected::after { order: -1; padding: 8px 16px; font-size: 12px;
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); color: var(--jp-warn-color1, #c60);
  border-bottom: 1px solid rgba(128, 128, 128, 0.22);
  content: "The kernel is not heard any more, and this is how far it was seen."
    " What was done stands in the run's notebook, see below."; }
.lis-live .lis-code .widget-hbox { gap: 12px; align-items: center; flex-wrap: wrap;
  overflow: visible; margin: 0; }
</style>"""

Face = tuple[str, str, str]
"""Of a button: its words, its icon, and what it says when pointed at."""
PAUSE = ("Pause / take over", "pause", "Have the model wait after this step; the sandbox is yours")
PAUSING = ("Pausing…", "hourglass-half", "Click to let the model go on after all")
HAND_BACK = ("Hand back", "play", "Let the model go on, told what you ran and said")
FACES: dict[str, Face] = {"pausing": PAUSING, "paused": HAND_BACK}


class Panel:
    """The widgets, and what they ask for.

    Args:
        hides: class of what is not to be seen beside the widgets: the same without them.
        stop, pause, say, run: called with what a person wants; `pause` also hands back.
        alive: called when a front end has answered a `ping`.
    """

    def __init__(
        self,
        *,
        hides: str,
        stop: Callable[[], None],
        pause: Callable[[], None],
        say: Callable[[str], None],
        run: Callable[[str], None],
        alive: Callable[[], None],
    ) -> None:
        self.head, self.files, self.foot = (self._html("lis-part") for _ in range(3))
        self.head.add_class("lis-head")
        self.hint = HTML()
        self._past: list[HTML] = []
        self.present = HTML()
        self._steps = VBox([self.present])
        self.steps = VBox([self._steps])
        self.steps.add_class("lis-part").add_class("lis-steps")
        self._stop = Button(description="Stop", icon="stop", tooltip="End the run and keep it")
        self._stop.add_class("lis-stop")
        self._pause = Button()
        self._words = Text(placeholder="Say something to the model, for its next turn")
        self._send = Button(description="Send", icon="paper-plane")
        self.controls = HBox([self._pause, self._stop, self._words, self._send])
        self.controls.add_class("lis-part").add_class("lis-row")
        self._code = Textarea(
            rows=3,
            placeholder="Python in the model's own kernel; %%bash on the first line: its shell",
        )
        self._go = Button(description="Run", icon="play")
        self.cell = VBox([self._code, HBox([self._go, self.hint])])
        self.cell.add_class("lis-code").add_class("lis-empty")
        self._hides = (
            f"<style>.{hides}, .jp-OutputArea-child:has(.{hides}) {{ display: none; }}\n"
            # a broken link in front of each part, once the kernel has gone
            f".{VIEW}.{GONE}::before, .{VIEW} .{GONE}::before {{ display: none; }}</style>"
        )
        self.beside = (
            f"<style>.jp-OutputArea-child:has(.{hides}) + .jp-OutputArea-child:not(:has(.{VIEW}))"
            ":has(> .jp-OutputArea-output:not([data-mime-type])) { display: none; }</style>"
        )
        """For the record: JupyterLab is not to say in the widgets' place that there are none."""
        sheet = HTML(SHEET + self._hides)
        sheet.layout.display = "none"
        self.root = VBox(
            [sheet, self.head, self.controls, self.cell, self.steps, self.files, self.foot]
        )
        self.root.add_class("lis-live").add_class(VIEW)
        self._face: Face | None = None
        self.shows("")
        self._listen(stop, pause, say, run)
        self._alive = alive
        self._pings: list[Any] = []
        for widget in (self._stop, self._pause, self._words, self._send, self._code, self._go):
            _heard(widget)

    @staticmethod
    def _html(name: str) -> HTML:
        made = HTML()
        made.add_class(name)
        made.add_class("lis-empty")
        return made

    def _listen(
        self,
        stop: Callable[[], None],
        pause: Callable[[], None],
        say: Callable[[str], None],
        run: Callable[[str], None],
    ) -> None:
        def send(_: Any) -> None:
            if text := self._words.value.strip():
                self._words.value = ""
                say(text)

        def go(_: Any) -> None:
            if self._code.value.strip():
                run(self._code.value)
                self._code.value = ""

        self._stop.on_click(lambda _: stop())
        self._pause.on_click(lambda _: pause())
        self._send.on_click(send)
        self._go.on_click(go)
        with warnings.catch_warnings():  # its successor sends when the field is left, too
            warnings.simplefilter("ignore")
            self._words.on_submit(send)

    def ping(self) -> None:
        """Ask whether a front end holds our widgets, and is heard while the cell runs.

        It is to copy one text to another, which it does where it knows the models, drawn or not,
        and says so. Each time with new ones: an answer that waits for the end of the cell, as the
        first do that come before there is a subshell, holds back all others of its model.
        """
        near, far = Layout(width="1px"), Layout(width="0px")
        far.observe(lambda _: self._alive(), "width")
        _heard(far)
        self._pings += [near, far, ipywidgets.jsdlink((near, "width"), (far, "width"))]

    # -- what it shows ---------------------------------------------------------------------------

    def shows(self, state: str) -> None:
        """Have the pause button say what it does now."""
        face = FACES.get(state, PAUSE)
        if face != self._face:
            self._face = face
            self._pause.description, self._pause.icon, self._pause.tooltip = face
            self._pause.button_style = "primary" if face == HAND_BACK else ""

    def takes_cells(self, hint: str) -> None:
        """Show the place for a person's cell, with `hint` beside it; hide it if that is empty."""
        if hint != self.hint.value:
            self.hint.value = hint
            _shown(self.cell, bool(hint))

    @staticmethod
    def set(part: HTML, html: str) -> None:
        """Change one part, if it changed; without content it is not there."""
        if part.value != html:
            part.value = html
            _shown(part, bool(html))

    def set_steps(self, past: list[str], present: str) -> None:
        """Steps that are over, of which the first have been shown before, and the one that runs."""
        new = [HTML(html) for html in past[len(self._past) :]]
        if new:
            self._past += new
            self.present.value = present
            self._steps.children = (*self._past, self.present)
        elif self.present.value != present:
            self.present.value = present

    def ends(self, html: str, heard: bool) -> None:
        """Show nothing but the record; for pages that were opened while it ran.

        Where nobody was heard what a page has said waits for the cell's end, so that all stays open
        to take it.
        """
        gone = list(_inside(self.root)) + self._pings
        self.root.remove_class("lis-live")
        self.root.children = (HTML(self._hides + html),)
        for widget in gone if heard else ():
            widget.close()


def _inside(box: Any) -> Iterator[Any]:
    """Every widget below `box`."""
    for child in getattr(box, "children", ()):
        yield child
        yield from _inside(child)


def _heard(widget: Any) -> None:
    """Have messages to a widget handled where the front end sends them, be that a subshell.

    From 7.4 on ipykernel hands them to the shell that spoke last to the widget, which is the one
    whose cell is running.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda _, chosen: chosen


def _shown(widget: Any, there: bool) -> None:
    if there:
        widget.remove_class("lis-empty")
    else:
        widget.add_class("lis-empty")
