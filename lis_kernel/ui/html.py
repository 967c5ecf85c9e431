"""The live view's parts, drawn from the record: what moves while a run goes on."""

from __future__ import annotations

from lis_kernel import cards
from lis_kernel.cards import Clean
from lis_kernel.cards.parts import MUTED, bar, colour, row
from lis_kernel.cards.run import body, head, meters, step, strip
from lis_kernel.ui.record import Record

__all__ = ["foot_of", "head_of", "live_page", "past", "present", "steps_of"]

TAIL_LINES = 8
SHOWN = 60
"""Steps that a plain HTML view draws while the run goes on; it is sent again with each change."""


def head_of(record: Record) -> str:
    """State, task, what it took so far, what it waits for."""
    run = record.run
    shown = [head(run)]
    if record.begun:
        shown.append(f'<div style="margin-top:12px">{meters(run, live=True)}</div>')
    if len(run.steps) > 1:
        shown.append(f'<div style="margin-top:10px">{strip(run.steps)}</div>')
    if record.fetching:
        waits = []
        for label, event in list(record.fetching.items())[:4]:
            unit = 1e6 if event.unit == "bytes" else 1
            name = " MB" if event.unit == "bytes" else ""
            done, total = f"{event.done / unit:,.0f}", f"{event.total / unit:,.0f}{name}"
            part = event.done / event.total if event.total else 0.0
            waits.append(bar(label, done, part, of=total))
        shown.append(f'<div style="margin-top:10px">{row(waits)}</div>')
    shown += [
        f'<div style="{MUTED};font-size:12px;margin-top:8px">The model will be told: '
        f"{cards.escape(text)}</div>"
        for text in record.pending[:5]
    ]
    return "".join(shown)


def present(record: Record, clean: Clean | None) -> str:
    """The step that goes on: open, its text as it streams, its cell as it prints."""
    one = record.run.steps[-1]
    if record.streaming == "reasoning":
        tail = "\n".join(one.reasoning.rstrip().split("\n")[-TAIL_LINES:])[-2000:]
        thinking = cards.text(tail, f"{MUTED};font-size:12px")
        return _now(one.number, "the model is thinking", thinking)
    if record.streaming == "text":
        said = cards.markdown(one.text) if one.text.strip() else ""
        return _now(one.number, "the model is writing", said)
    words = {"human": "you", "message": "told"}.get(one.kind, "")
    return _now(one.number, words, body(one, clean))


def _now(number: int, words: str, inner: str) -> str:
    name = f"Turn {number}" if number else ""
    top = " · ".join(part for part in (name, words) if part)
    edge = f"border-left:2px solid;border-left-color:{colour('active')};padding-left:12px"
    return (
        f'<div style="{edge};margin:4px 0"><div style="{MUTED};font-size:12px;margin-bottom:4px">'
        f"{cards.escape(top)}</div>{inner}</div>"
    )


def past(one: cards.Step, clean: Clean | None) -> str:
    """A step that is over, folded."""
    return step(one, clean)


def steps_of(record: Record, clean: Clean | None) -> str:
    """The last steps, in a box that stays at its end while it grows."""
    steps = record.run.steps
    if not steps:
        return ""
    first = max(0, len(steps) - SHOWN)
    shown = [f'<div style="{MUTED};font-size:12px">{first} earlier steps</div>'] if first else []
    shown += [step(one, bare=n < len(steps) - 4) for n, one in enumerate(steps[first:-1], first)]
    shown.append(present(record, clean))
    return (
        '<div style="display:flex;flex-direction:column-reverse;max-height:560px;overflow:auto">'
        f"<div>{''.join(shown)}</div></div>"
    )


def foot_of(record: Record) -> str:
    """What it tried to reach, notes, the notebook."""
    lines = []
    for (host, allowed), count in list(record.network.items())[:20]:
        tone, word = ("good", "reached") if allowed else ("warn", "refused")
        times = f" {count}×" if count > 1 else ""
        lines.append(
            f'<div style="font-size:12px"><span style="{MUTED}">Network</span> '
            f'{cards.escape(host)} <span style="color:{colour(tone)}">{word}{times}</span></div>'
        )
    run = record.run
    lines += [
        f'<div style="{MUTED};font-size:12px">{cards.escape(note)}</div>' for note in run.notes[-6:]
    ]
    if run.path:
        where = cards.link(run.path, run.address) if run.address else cards.escape(run.path)
        lines.append(
            f'<div style="font-size:12px;word-wrap:break-word"><span style="{MUTED}">Notebook'
            f"</span> {where}</div>"
        )
    return "".join(lines)


def live_page(record: Record, files: list[cards.File], clean: Clean | None, hint: str = "") -> str:
    """The whole view in one piece, for a front end without widgets."""
    said = f'<div style="{MUTED};font-size:12px">{cards.escape(hint)}</div>' if hint else ""
    return cards.page(
        head_of(record),
        said,
        steps_of(record, clean),
        (cards.label("Files") + cards.files(files, 400_000)) if files else "",
        foot_of(record),
    )
