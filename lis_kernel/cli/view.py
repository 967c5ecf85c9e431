"""The live view of a run in the terminal: a reader of events, nothing depends on it.

On a terminal, finished parts are printed for good and a few moving lines stay below: the text as it
streams, the running cell's last output, turn, tokens, cost and time. Elsewhere: plain lines. What
a model or a sandbox said is stripped of control characters before it is printed.
"""

from __future__ import annotations

import html
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from lis_kernel.agent import events
from lis_kernel.kernel.outputs import Shown
from lis_kernel.tools.observation import befell
from lis_kernel.tools.terminal import for_people, one_line
from lis_kernel.types import CellResult, Observation, Output, StopReason, ToolCall, Usage

__all__ = ["LineView", "TerminalView", "View", "view_for"]

QUIET_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""
OUTPUT_LINES = 12
MOVING_LINES = 8
TAIL_CHARS = 200_000
"""Of one stream, that is kept for the view."""


def view_for(quiet: bool) -> View:
    """The view that fits: none beside --json, moving on a terminal, lines elsewhere."""
    if quiet:
        return View()
    return TerminalView() if sys.stdout.isatty() else LineView()


class View(AbstractContextManager["View"]):
    """Shows nothing; base of the others."""

    def __call__(self, event: events.Event) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def clipped(text: str, limit: int) -> str:
    """The first lines of `text`, safe to print, with a note of how many are left out."""
    lines = [line[:400] for line in for_people(text).rstrip("\n").split("\n")]
    if len(lines) <= limit:
        return "\n".join(lines)
    head = lines[: limit * 2 // 3]
    tail = lines[-(limit - len(head)) :]
    return "\n".join([*head, f"… {len(lines) - limit} more lines …", *tail])


def markdown(text: str) -> Markdown:
    """`text`, safe to print, as Markdown, in which `&#x202e;` and `&rlm;` would be characters."""

    def checked(entity: re.Match[str]) -> str:
        return entity[0] if for_people(html.unescape(entity[0])) else "\ufffd"

    return Markdown(re.sub(r"&#?\w+;", checked, text))


def output_text(output: Output) -> str:
    """An output as one text: what it prints, or what kind of thing it shows."""
    kind = output.get("output_type")
    if kind == "stream":
        return str(output.get("text", ""))
    if kind == "error":
        return "\n".join(str(line) for line in output.get("traceback", []))
    data = output.get("data", {})
    other = [mime for mime in data if mime != "text/plain"]
    shown = str(data.get("text/plain", ""))
    return (
        f"{shown}{'  ' if shown and other else ''}{'[' + ', '.join(other) + ']' if other else ''}"
    )


def printed(outputs: Iterable[Output]) -> str:
    """What a cell shows, as one text."""
    text = ""
    for output in outputs:
        piece = output_text(output)
        if output.get("output_type") != "stream" and piece:
            text += "" if text.endswith("\n") or not text else "\n"
            piece = piece.rstrip("\n") + "\n"
        text += piece
    return text


def persons_code(source: str, limit: int) -> Syntax:
    """A person's cell with its colours."""
    bash = source.startswith("%%bash\n")
    code, lexer = (source[7:], "bash") if bash else (source, "python")
    return Syntax(clipped(code, limit), lexer, theme="ansi_dark", background_color="default")


def highlighted(call: ToolCall, source: str, limit: int) -> Syntax:
    """A call's cell with its colours: the command itself for bash, else the source."""
    bash = call.name == "execute_bash"
    code = str(call.arguments.get("command", "")) if bash else source
    lexer = "bash" if bash else "python"
    return Syntax(clipped(code, limit), lexer, theme="ansi_dark", background_color="default")


def fetching(event: events.Fetching) -> str:
    """How far something slow is, in words and with a bar."""
    done, total, label = event.done, event.total, one_line(event.label)
    part = min(1.0, done / total) if total else 0.0
    bar = "━" * round(30 * part) + "─" * (30 - round(30 * part))
    if event.unit == "parts":
        return f"{label} {bar} {done} of {total}"
    return f"{label} {bar} {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"


def money(usage: Usage) -> str:
    """Tokens and cost of a run so far."""
    cost = "" if not usage.cost_usd else f" · ${usage.cost_usd:.4f}"
    return f"{usage.total_tokens:,} tokens{cost}"


def reached(verdicts: Mapping[str, int]) -> str:
    """The limits that cells ran into, e.g. `oom 2×, timeout 1×`."""
    return ", ".join(f"{one_line(name)} {count}×" for name, count in verdicts.items())


def note_of(result: CellResult) -> str:
    """What happened to a cell beside its outputs, safe to print; mostly nothing."""
    return befell(result.status, result.verdict, result.limit, result.restarted)


class LineView(View):
    """Plain lines, for logs and pipes."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say
        self._shown = Shown(tail=TAIL_CHARS)
        self._next_line = 0.0

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RunStarted(path, task, config):
                self._say(f"task: {clipped(task.prompt, 6)}")
                model, backend = one_line(config.model.name), one_line(config.sandbox.backend)
                self._say(f"model: {model}, sandbox: {backend}")
                self._say(f"notebook: {path}")
            case events.Note(text):
                self._say(f"note: {for_people(text)}")
            case events.Fetching():
                if (now := time.monotonic()) >= self._next_line:
                    self._next_line = now + QUIET_SECONDS
                    self._say(fetching(event))
            case events.ReplyFinished(reply, said, usage):
                self._say(f"--- {money(usage)}, {reply.seconds:.1f} s")
                if text := for_people(said).strip():
                    self._say(text)
            case events.CallStarted(call, source):
                self._shown = Shown(tail=TAIL_CHARS)
                self._say(f">>> {one_line(call.name)}\n{clipped(source, 30)}")
            case events.CallOutput(kind, content):
                self._shown.feed(kind, content)
            case events.CallFinished(result, observation):
                self._say_printed()
                word = "failed" if observation.is_error else "ok"
                note = note_of(result)
                self._say(f"<<< {word}, {result.seconds:.2f} s{note and f': {note}'}")
            case events.RunEnded(reason, detail, answer, path):
                self._say(f"stopped: {reason.value} {for_people(detail)}".rstrip())
                self._say(f"answer: {for_people(answer)}" if answer is not None else "no answer")
                self._say(f"notebook: {path}")
            case events.Paused():
                self._say("paused: people may run cells, `lis resume` hands back to the model")
            case events.Resumed():
                self._say("resumed: the model goes on")
            case events.Said(text):
                self._say(f"told: {clipped(text, 30)}")
            case events.HumanStarted(source):
                self._shown = Shown(tail=TAIL_CHARS)
                self._say(f">>> a person\n{clipped(source, 30)}")
            case events.HumanFinished(result):
                self._say_printed()
                note = note_of(result)
                self._say(f"<<< {result.status}, {result.seconds:.2f} s{note and f': {note}'}")
            case _:
                return
        sys.stdout.flush()

    def _say_printed(self) -> None:
        if (text := printed(self._shown.outputs)).strip():
            self._say(clipped(text, 2 * OUTPUT_LINES))


class TerminalView(View):
    """A moving view for a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._started = time.monotonic()
        self._turn = 0
        self._usage = Usage()
        self._said = ""
        self._thought = ""
        self._shown = Shown(tail=TAIL_CHARS)
        self._doing = "starting"
        self._verdicts: Counter[str] = Counter()
        self._fetching: dict[str, str] = {}
        """By label: the sandbox's packages and the model's weights may come at once."""
        self._max_turns = 0
        self._live = Live(
            console=self.console, get_renderable=self._moving, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _moving(self) -> RenderableType:
        seconds = time.monotonic() - self._started
        bar = Text.assemble(
            (f" turn {self._turn}/{self._max_turns} ", "reverse"),
            f" {self._doing} · {money(self._usage)} · {seconds:.0f} s · Ctrl-C stops",
            style="dim",
        )
        tail = (self._said or self._thought or printed(self._shown.outputs)).rstrip()
        lines = for_people(tail).split("\n")[-MOVING_LINES:] if tail else []
        lines += self._fetching.values()
        width = max(20, self.console.width - 4)
        shown = Text(
            "\n".join(line[:width] for line in lines), style="dim" if self._thought else ""
        )
        return Group(Padding(shown, (0, 2)), bar) if lines else bar

    def __call__(self, event: events.Event) -> None:
        say = self.console.print
        match event:
            case events.RunStarted(_, task, config):
                self._max_turns = config.budget.turns
                names = ", ".join(path.name for path in task.files)
                prompt = Text(clipped(task.prompt, 12))
                if names:
                    prompt.append(f"\nfiles: {one_line(names, 2000)}", style="dim")
                model, backend = one_line(config.model.name), one_line(config.sandbox.backend)
                name = Text(f"{model} · {backend}")
                say(Panel(prompt, title=name, title_align="left", border_style="blue"))
            case events.Note(text):
                say(Text(f"  {for_people(text)}", style="yellow"))
            case events.Fetching(done, total, label):
                self._fetching[label] = fetching(event)
                if done >= total:
                    del self._fetching[label]
            case events.TurnStarted(turn):
                self._fetching.clear()
                self._turn, self._said, self._thought, self._shown = turn, "", "", Shown()
                self._doing = "the model is writing"
            case events.TextStreamed("text", text):
                self._said += text
            case events.TextStreamed(_, text):
                self._thought += text
            case events.ReplyFinished(_, said, usage):
                self._usage, self._said, self._thought = usage, "", ""
                say(Rule(Text(f"turn {self._turn}", style="dim"), align="left", style="dim"))
                if text := for_people(said).strip():
                    say(Padding(markdown(text), (0, 0, 0, 2)))
            case events.CallStarted(call, source):
                tool = one_line(call.name)
                self._doing, self._shown = f"{tool} is running", Shown(tail=TAIL_CHARS)
                body = highlighted(call, source, 30)
                say(Panel(body, title=Text(tool), title_align="left", border_style="dim"))
            case events.CallOutput(kind, content):
                self._shown.feed(kind, content)
            case events.CallFinished(result, observation):
                self._finished(result, observation)
            case events.RunEnded(reason, detail, answer, path):
                self._live.stop()
                self._end(reason, detail, answer, str(path))
            case _:
                self._people(event)

    def _people(self, event: events.Event) -> None:
        """What people do in a run that they have paused."""
        say = self.console.print
        match event:
            case events.Paused():
                self._doing = "paused, `lis resume` hands back to the model"
            case events.Resumed():
                self._doing = "the model goes on"
            case events.Said(text):
                say(Text(f"  {clipped(text, 30)}", style="cyan"))
            case events.HumanStarted(source):
                self._shown = Shown(tail=TAIL_CHARS)
                title = Text("a person")
                say(Panel(persons_code(source, 30), title=title, title_align="left"))
            case events.HumanFinished(result):
                self._show_printed()
                style = "green" if result.status == "ok" else "red"
                line = Text(f"{result.status} {result.seconds:.2f} s", style=style)
                say(Padding(line, (0, 0, 0, 2)))

    def _show_printed(self) -> None:
        if (text := printed(self._shown.outputs)).strip():
            self.console.print(Padding(Text(clipped(text, OUTPUT_LINES)), (0, 0, 0, 2)))
        self._shown = Shown()

    def _finished(self, result: CellResult, observation: Observation) -> None:
        self._show_printed()
        mark, style = ("✗", "red") if observation.is_error else ("✓", "green")
        code = "" if observation.exit_code is None else f" exit code {observation.exit_code}"
        line = Text(f"{mark}{code} {result.seconds:.2f} s", style=style)
        if note := note_of(result):
            line.append(f"  {note}", style="yellow")
        if result.verdict is not None:
            self._verdicts[result.verdict] += 1
        self.console.print(Padding(line, (0, 0, 0, 2)))

    def _end(self, reason: StopReason, detail: str, answer: str | None, path: str) -> None:
        good = reason is StopReason.SUBMITTED
        seconds = time.monotonic() - self._started
        body = Text(for_people(answer) if answer is not None else "no answer file")
        if not good and answer is not None:
            body.append("\n(not submitted: do not rely on it)", style="yellow")
        if detail:
            body.append(f"\n{for_people(detail)}", style="red")
        if self._verdicts:
            body.append(f"\nlimits reached: {reached(self._verdicts)}", style="yellow")
        turns = f"{self._turn} turn{'s' if self._turn != 1 else ''}"
        title = (
            f"{reason.value.replace('_', ' ')} · {turns} · {money(self._usage)} · {seconds:.1f} s"
        )
        style = "green" if good else "red"
        self.console.print(Panel(body, title=Text(title), title_align="left", border_style=style))
        self.console.print(Text(f"notebook: {path}"), soft_wrap=True)
