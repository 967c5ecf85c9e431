"""The card of a run: task, answer, how it stopped, what it took, every turn, the files.

`trajectory/card.py` fills a `Run` from a notebook, `ui/record.py` from a run's events while it goes
on, so a live view and a card that is made a year later look the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lis_kernel.cards.code import code, markdown
from lis_kernel.cards.files import File, files
from lis_kernel.cards.outputs import Clean, outputs
from lis_kernel.cards.parts import (
    MONO,
    MUTED,
    Tone,
    badge,
    bar,
    box,
    clipped,
    colour,
    escape,
    fold,
    label,
    link,
    note,
    page,
    row,
    text,
    title,
)

__all__ = ["Call", "Run", "Step", "amount", "call", "duration", "head", "meters", "run", "step"]

ROOM = 1_500_000
"""Characters of HTML that a card may take: it is kept in the notebook of whoever shows it."""
STEPS = 300

_TOOLS = {
    "execute_bash": "bash",
    "execute_python": "python",
    "str_replace_editor": "editor",
    "submit": "submit",
}


@dataclass
class Call:
    """A cell: a model's tool call, or what a person ran."""

    tool: str
    source: str
    outputs: Sequence[Any] = ()
    status: str = "running"
    """The kernel's, see `types.CellResult`, or `running`."""
    seconds: float = 0.0
    exit_code: int | None = None
    note: str = ""
    """What happened to it beside its outputs."""
    network: Sequence[tuple[str, bool, str]] = ()
    """What it tried to reach: host and port, whether it was let through, and why not."""

    @property
    def failed(self) -> bool:
        return self.status not in ("ok", "running") or bool(self.exit_code)


@dataclass
class Step:
    """One turn of the model; or, between two, a person's cell or words to the model."""

    kind: Literal["turn", "human", "message"] = "turn"
    number: int = 0
    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    @property
    def tone(self) -> Tone:
        if self.kind in ("human", "message"):
            return "active"
        if any(call.failed for call in self.calls):
            return "bad"
        if any(call.status == "running" for call in self.calls):
            return "active"
        return "good" if self.calls else "warn" if self.notes else "plain"


@dataclass
class Run:
    """What a card says of a run; numbers that are not known are None."""

    task: str = ""
    model: str = ""
    backend: str = ""
    state: str = "unfinished"
    tone: Tone = "plain"
    detail: str = ""
    answer: str | None = None
    submitted: bool = False
    turns: int = 0
    tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_seconds: float | None = None
    steps: list[Step] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    """How many cells ran into which limit."""
    notes: list[str] = field(default_factory=list)
    path: str = ""
    address: str = ""
    """Of the notebook, relative to the page that shows the card."""


# -- words -----------------------------------------------------------------------------------


def duration(seconds: float, *, whole: bool = False) -> str:
    """`0.21 s`, `41 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        digits = 0 if whole or seconds < 0.005 else 2 if seconds < 1 else 1
        return f"{seconds:.{digits}f} s"
    most, least = divmod(int(seconds), 60) if seconds < 3600 else divmod(int(seconds) // 60, 60)
    units = ("min", "s") if seconds < 3600 else ("h", "min")
    return f"{most} {units[0]} {least:02d} {units[1]}" if least else f"{most} {units[0]}"


def amount(count: int) -> str:
    """`9,876`, `34.1k`, `1.20M`."""
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1e3:.1f}k" if count < 1_000_000 else f"{count / 1e6:.2f}M"


def _money(cost: float) -> str:
    return f"${cost:.4f}" if 0 < cost < 0.1 else f"${cost:.2f}"


# -- parts -----------------------------------------------------------------------------------


def head(run: Run) -> str:
    """Badge, model and task."""
    made = " · ".join(part for part in (run.model, run.backend) if part)
    short = len(run.task) <= 240
    font = "font-size:15px;font-weight:600;line-height:1.4" if short else "font-size:13px"
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center;'
        f'margin-bottom:8px">{badge(run.state, run.tone)}<span style="{MUTED};font-size:12px;'
        f'min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap">{escape(made)}'
        f"</span></div>"
        f'<div style="overflow:auto;max-height:160px">{text(run.task, font)}</div>'
    )


def meters(run: Run, *, live: bool = False) -> str:
    """Turns, tokens, cost and time, against the budget where there is one."""

    def part(used: float, most: float | None) -> float | None:
        return used / most if most else None

    shown = [
        bar(
            "Turns",
            f"{run.turns:,}",
            part(run.turns, run.max_turns) if live else None,
            of=f"{run.max_turns:,}" if run.max_turns else "",
        ),
        bar(
            "Tokens",
            amount(run.tokens),
            part(run.tokens, run.max_tokens),
            of=amount(run.max_tokens) if run.max_tokens else "",
        ),
    ]
    if run.cost is not None or run.max_cost:
        most = _money(run.max_cost) if run.max_cost else ""
        cost = run.cost or 0.0
        shown.append(bar("Cost", _money(cost), part(cost, run.max_cost), of=most))
    shown.append(
        bar(
            "Time",
            duration(run.seconds, whole=live),
            part(run.seconds, run.max_seconds),
            of=duration(run.max_seconds, whole=True) if run.max_seconds else "",
        )
    )
    return row(shown)


def strip(steps: Sequence[Step]) -> str:
    """A mark for each step, in the colour of how it went."""
    width = 16 if len(steps) <= 40 else 8
    marks = "".join(
        f'<span title="{escape(_spoken(one))}" style="width:{width}px;height:6px;border-radius:3px;'
        f'display:inline-block;background-color:{colour(one.tone)}"></span>'
        for one in steps[:STEPS]
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:4px">{marks}</div>'


def _spoken(one: Step) -> str:
    if one.kind in ("human", "message"):
        return "a person's cell" if one.kind == "human" else "words to the model"
    tools = ", ".join(_TOOLS.get(call.tool, call.tool) for call in one.calls)
    how = {"bad": "failed", "active": "running"}.get(one.tone, "ok")
    return f"turn {one.number}: {f'{tools}, {how}' if tools else 'no action'}"


_MARKS = re.compile(r"^[#>\s]+|\*\*|__|`")
"""Of Markdown, in a line that shows its text alone."""
_EDIT = re.compile(r'str_replace_editor\(\s*"(\w+)",\s*path="([^"\\\n]+)"')
"""Of an editor's call what tells it from others: its arguments stand on lines of their own."""
_SAYS = re.compile(r"^The user says: (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^~{4,}$", re.MULTILINE)
"""The last one ends what was run: what follows is said by people, and not by what they ran."""


def _first_line(call: Call) -> str:
    source = call.source.removeprefix("%%bash\n")
    if edit := _EDIT.match(source):
        return f"{edit[1]} {edit[2]}"
    return next((line for line in source.split("\n") if line.strip()), "")


def _status(call: Call) -> str:
    if call.status == "running":
        since = f" {duration(call.seconds, whole=True)}" if call.seconds >= 1 else ""
        return f'<span style="color:{colour("active")}">running{since}</span>'
    words = [duration(call.seconds)]
    if call.exit_code:
        words.insert(0, f"exit code {call.exit_code}")
    elif call.status not in ("ok", "error"):
        words.insert(0, call.status)
    mark, tone = ("✗", "bad") if call.failed else ("✓", "good")
    return f'<span style="color:{colour(tone)}">{mark}</span> {escape(" · ".join(words))}'


def call(call: Call, clean: Clean | None = None, *, bare: bool = False) -> str:
    """A cell: what it is, its code, and, unless `bare`, its outputs."""
    bash = call.tool == "execute_bash" or call.source.startswith("%%bash\n")
    name = _TOOLS.get(call.tool, call.tool)
    source = call.source.removeprefix("%%bash\n") if bash else call.source
    top = (
        f'<div style="display:flex;gap:10px;align-items:baseline;margin:0 0 4px 0;font-size:12px;'
        f'{MUTED}"><span style="flex:1 1 auto">{escape(name)}</span>'
        f'<span style="white-space:nowrap">{_status(call)}</span></div>'
    )
    shown = [top, code(source, "bash" if bash else "python")]
    if call.outputs:
        found = "" if bare else outputs(call.outputs, clean)
        shown.append(found or f'<div style="{MUTED};font-size:12px">output not shown</div>' * bare)
    warned = [call.note] if call.note else []
    warned += [
        f"network: {host} {'reached' if allowed else f'refused ({why})' if why else 'refused'}"
        for host, allowed, why in list(call.network)[:20]
    ]
    shown += [note(line) for line in warned]
    return f'<div style="margin:0 0 12px 0">{"".join(shown)}</div>'


def body(one: Step, clean: Clean | None = None, *, bare: bool = False) -> str:
    """What a step holds: thoughts folded, words, cells, notes."""
    shown = []
    if one.reasoning.strip():
        thought = text(one.reasoning.strip()[:20_000], f"{MUTED};font-size:12px")
        shown.append(fold(f'<span style="{MUTED};font-size:12px">thoughts</span>', thought))
    if one.text.strip():
        said = text(one.text, MONO) if one.kind == "message" else markdown(one.text)
        shown.append(f'<div style="margin:0 0 6px 0">{said}</div>')
    shown += [call(cell, clean, bare=bare) for cell in one.calls]
    shown += [note(line) for line in one.notes]
    return "".join(shown)


def step(one: Step, clean: Clean | None = None, *, open: bool = False, bare: bool = False) -> str:
    """A step as a line that opens."""
    first = one.calls[0] if one.calls else None
    if one.kind == "message":
        said = [words[1] for words in _SAYS.finditer(_FENCE.split(one.text)[-1])]
        line = clipped(" · ".join(said) or "what you ran, and what it gave", 160)
    elif one.text.strip():
        line = clipped(_MARKS.sub("", one.text.strip().split("\n")[0]), 160)
    elif first is not None:
        line = clipped(_first_line(first), 160)
    else:
        line = clipped(" ".join(one.notes), 160) or "no action"
    names = {"turn": str(one.number), "human": "you", "message": "told"}
    name = names[one.kind]
    ink = MUTED if one.kind == "turn" else f"color:{colour('active')};font-weight:600"
    font = MONO if first is not None and not one.text.strip() else ""
    left = (
        f'<span style="{ink};display:inline-block;min-width:34px">{name}</span> '
        f'<span title="{escape(line)}" style="{font}">{escape(line)}</span>'
    )
    right = ""
    if len(one.calls) > 1:
        bad = sum(cell.failed for cell in one.calls)
        tone, mark = ("bad", f"{bad} failed") if bad else ("good", "✓")
        spent = duration(sum(cell.seconds for cell in one.calls))
        right = f'{len(one.calls)} calls · <span style="color:{colour(tone)}">{mark}</span> {spent}'
    elif first is not None:
        right = _status(first)
    shown = replace(one, text="") if one.text.strip() == line and len(line) < 100 else one
    inner = f'<div style="margin-left:14px">{body(shown, clean, bare=bare)}</div>'
    return fold(title(left, right), inner, open=open)


def answer(run: Run) -> str:
    """What the run found; said with care where it was not submitted."""
    if run.answer is None:
        return ""
    held = run.answer if len(run.answer) <= 20_000 else f"{run.answer[:20_000]}…"
    shown = box(text(held, "font-size:14px"), "good" if run.submitted else "warn")
    return label("Answer" if run.submitted else "Answer, not submitted: do not rely on it") + shown


def foot(run: Run) -> str:
    """The notebook, limits that were reached, and notes."""
    lines = []
    if run.limits:
        reached = ", ".join(f"{name.replace('_', ' ')} {n}×" for name, n in run.limits.items())
        lines.append(note(f"Limits reached: {reached}"))
    lines += [note(line, "plain") for line in run.notes[:20]]
    if run.path:
        where = link(run.path, run.address) if run.address else escape(run.path)
        lines.append(
            f'<div style="font-size:12px;margin-top:{4 if lines else 0}px;word-wrap:break-word">'
            f'<span style="{MUTED}">Notebook</span> {where}</div>'
        )
    return "".join(lines)


def run(run: Run, clean: Clean | None = None) -> str:
    """The whole card."""
    room = ROOM
    shown = []
    for one in run.steps[:STEPS]:
        made = step(one, clean)
        if len(made) > room:
            made = step(one, bare=True)
        if len(made) > room:
            break
        room -= len(made)
        shown.append(made)
    if (more := len(run.steps) - len(shown)) > 0:
        shown.append(note(f"{more} more steps are in the notebook", "plain"))
    detail = note(run.detail, "bad" if run.tone == "bad" else "plain") if run.detail else ""
    marks = f'<div style="margin-top:12px">{strip(run.steps)}</div>' if len(run.steps) > 1 else ""
    return page(
        head(run) + detail,
        answer(run),
        meters(run) + marks,
        f'<div style="max-height:720px;overflow:auto">{"".join(shown)}</div>' if shown else "",
        (label("Files") + files(run.files, room)) if run.files else "",
        foot(run),
    )
