"""The parts that every card is made of: text, badges, bars, folds, tables, frames.

Inline styles only, and no scripts: a card must look the same in JupyterLab, Notebook 7, nbconvert
and VS Code, and as well as may be in a notebook that is not trusted, where JupyterLab keeps inline
styles and drops sheets. Colours are the theme's own where it has any. What is given as text is
escaped here; only arguments whose name ends in `html` are taken as they are.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Literal

__all__ = [
    "MONO",
    "MUTED",
    "Tone",
    "badge",
    "bar",
    "box",
    "clipped",
    "colour",
    "escape",
    "facts",
    "fold",
    "label",
    "link",
    "note",
    "page",
    "plain",
    "row",
    "section",
    "table",
    "text",
    "title",
]

Tone = Literal["good", "bad", "warn", "active", "plain"]

# `rgb(…)` within `var(…)`: JupyterLab's sanitizer keeps a colour that holds one, though no border
_COLOURS: dict[str, str] = {
    "good": "var(--jp-success-color1, var(--vscode-testing-iconPassed, rgb(46, 150, 80)))",
    "bad": "var(--jp-error-color1, var(--vscode-errorForeground, rgb(215, 65, 60)))",
    "warn": "var(--jp-warn-color1, var(--vscode-editorWarning-foreground, rgb(215, 125, 20)))",
    "active": "var(--jp-brand-color1, var(--vscode-textLink-foreground, rgb(30, 125, 220)))",
    "plain": "var(--jp-ui-font-color2, var(--vscode-descriptionForeground, rgb(120, 120, 120)))",
    "line": "rgba(128, 128, 128, 0.35)",
    "faint": "rgba(128, 128, 128, 0.22)",
    "ground": "var(--jp-layout-color1, var(--vscode-editor-background, transparent))",
}
WASH = "rgba(128, 128, 128, 0.08)"
"""A ground for code and the like that is seen on white and on black."""
MUTED = f"color:{_COLOURS['plain']}"
MONO = (
    "font-family:var(--jp-code-font-family, var(--vscode-editor-font-family, monospace));"
    "font-size:12px;line-height:1.5"
)
_UI = (
    "font-family:var(--jp-ui-font-family, var(--vscode-font-family, system-ui, sans-serif));"
    "font-size:13px;line-height:1.5"
)

_DROPPED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# what is read must be what runs: nothing may change the order of the letters of a line
_ODD = re.compile(r"[\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def colour(tone: str) -> str:
    """The CSS colour of a tone, or of `line`, `faint` and `ground`."""
    return _COLOURS[tone]


def plain(value: object) -> str:
    """Any text without control characters, and without those that reorder what is read."""
    return _ODD.sub("\ufffd", _DROPPED.sub("", str(value)))


def escape(value: object) -> str:
    """Any text as HTML that shows it."""
    return html.escape(plain(value))


def clipped(value: str, most: int) -> str:
    """At most `most` characters of one line; ends in `…` if there was more."""
    line = " ".join(value.split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def text(value: str, style: str = "") -> str:
    """A text with its line breaks; long words break too."""
    return f'<div style="white-space:pre-wrap;word-wrap:break-word;{style}">{escape(value)}</div>'


def label(value: str) -> str:
    """The small name of what stands under it."""
    return (
        f'<div style="{MUTED};font-size:11px;letter-spacing:0.4px;margin-bottom:3px">'
        f"{escape(value)}</div>"
    )


def badge(value: str, tone: Tone = "plain") -> str:
    """A word in a pill with a dot, in the colour of what it says."""
    ink = _COLOURS[tone]
    return (
        f'<span style="display:inline-flex;align-items:center;gap:6px;padding:1px 9px 1px 8px;'
        f"border:1px solid;border-radius:10px;color:{ink};font-size:12px;line-height:1.5;"
        f'font-weight:600;white-space:nowrap">'
        f'<span style="width:7px;height:7px;border-radius:4px;background-color:{ink}"></span>'
        f"{escape(value)}</span>"
    )


def bar(name: str, value: str, part: float | None, *, of: str = "") -> str:
    """A number with its name; with `part`, of what there is, a bar that warms up near its end."""
    tail = f'<span style="{MUTED};font-weight:400"> / {escape(of)}</span>' if of else ""
    drawn = ""
    if part is not None:
        part = min(1.0, max(0.0, part))
        tone = "bad" if part >= 0.95 else "warn" if part >= 0.8 else "active"
        drawn = (
            f'<div style="height:3px;margin-top:4px;border-radius:2px;overflow:hidden;'
            f'background-color:rgba(128, 128, 128, 0.22)"><div style="height:3px;'
            f'width:{100 * part:.1f}%;background-color:{_COLOURS[tone]}"></div></div>'
        )
    return (
        f'<div style="flex:1 1 88px;min-width:80px">{label(name)}'
        f'<div style="font-size:14px;font-weight:600;white-space:nowrap;line-height:1.3">'
        f"{escape(value)}{tail}</div>{drawn}</div>"
    )


def note(line: str, tone: Tone = "warn") -> str:
    """A small line in the colour of what it says."""
    return f'<div style="color:{_COLOURS[tone]};font-size:12px;margin-top:4px">{escape(line)}</div>'


def row(parts: Iterable[str], gap: int = 16) -> str:
    """Parts side by side; they wrap in a narrow window."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px {gap}px">{"".join(parts)}</div>'


def box(inner_html: str, tone: Tone | None = None) -> str:
    """A quiet ground with, for a tone, a line of its colour on the left."""
    edge = f"border-left:3px solid;border-left-color:{_COLOURS[tone]};" if tone else ""
    return (
        f'<div style="background-color:{WASH};{edge}border-radius:3px;padding:8px 12px;'
        f'overflow:auto;max-height:420px">{inner_html}</div>'
    )


def fold(summary_html: str, body_html: str, *, open: bool = False) -> str:
    """A line that opens what belongs to it."""
    return (
        f'<details{" open" if open else ""} style="margin:0">'
        f'<summary style="cursor:pointer;padding:4px 0;margin:0">{summary_html}</summary>'
        f'<div style="padding:2px 0 10px 0">{body_html}</div></details>'
    )


def title(left_html: str, right_html: str = "") -> str:
    """A line of which the left part gives way in a narrow window; stands in a fold's summary."""
    return (
        '<span style="display:inline-flex;align-items:baseline;gap:10px;'
        'width:calc(100% - 18px);min-width:0;vertical-align:top">'
        '<span style="flex:1 1 auto;min-width:0;overflow:hidden;'
        f'text-overflow:ellipsis;white-space:nowrap">{left_html}</span>'
        f'<span style="flex:0 0 auto;white-space:nowrap;{MUTED};font-size:12px">{right_html}</span>'
        "</span>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what stands for them, in two columns; the second of each pair is HTML."""
    cells = "".join(
        f'<div style="{MUTED};font-size:12px">{escape(name)}</div>'
        f'<div style="min-width:0;word-wrap:break-word;white-space:pre-wrap">{value_html}</div>'
        for name, value_html in pairs
    )
    return (
        f'<div style="display:grid;grid-template-columns:max-content minmax(0px, 1fr);'
        f'gap:4px 16px;align-items:baseline">{cells}</div>'
    )


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = (), *, note: str = "") -> str:
    """A table of plain texts that scrolls if it is too wide; numbers stand right."""
    cell = "padding:3px 12px 3px 0;white-space:nowrap;border:none;vertical-align:top"
    right = _numeric(rows)

    def cells(tag: str, values: Sequence[str], extra: str) -> str:
        return "".join(
            f'<{tag} style="{cell};text-align:{"right" if n in right else "left"};{extra}">'
            f"{escape(clipped(value, 120))}</{tag}>"
            for n, value in enumerate(values)
        )

    top = ""
    if head:
        names = cells("th", head, f"font-weight:600;border-bottom:1px solid {_COLOURS['line']}")
        top = f'<thead><tr style="background-color:transparent">{names}</tr></thead>'
    line = f"border-bottom:1px solid {_COLOURS['faint']}"
    body = "".join(
        f'<tr style="background-color:transparent">{cells("td", values, line)}</tr>'
        for values in rows
    )
    small = f"{MUTED};font-size:11px;margin-top:4px"
    more = f'<div style="{small}">{escape(note)}</div>' if note else ""
    return (
        '<div style="overflow:auto;max-height:360px"><table style="border-collapse:collapse;'
        f'margin:0;border:none;font-size:12px;table-layout:auto;width:auto">{top}'
        f"<tbody>{body}</tbody></table>{more}</div>"
    )


def _numeric(rows: Sequence[Sequence[str]]) -> set[int]:
    """The columns in which every value is a number, or is missing."""
    width = max((len(values) for values in rows), default=0)
    found = set()
    for n in range(width):
        column = [values[n].strip() for values in rows if n < len(values)]
        given = [value for value in column if value not in ("", "NaN", "None", "…", "...")]
        if given and all(_NUMBER.fullmatch(value) for value in given):
            found.add(n)
    return found


_NUMBER = re.compile(r"[-+−]?[$€£]?\d[\d,_ ]{0,40}(?:\.\d{0,40})?(?:e[-+]?\d{1,4})?\s?%?", re.I)


def link(value: str, address: str, *, download: str = "") -> str:
    """A link with `value` as its text; `download` is the name under which it is saved."""
    saved = f' download="{escape(download)}"' if download else ""
    return (
        f'<a href="{escape(address)}"{saved} style="color:{_COLOURS["active"]};'
        f'text-decoration:none">{escape(value)}</a>'
    )


def section(inner_html: str) -> str:
    """One part of a page, with a line above it."""
    line = f"border-top:1px solid {_COLOURS['faint']}"
    return f'<div style="{line};padding:12px 16px">{inner_html}</div>'


def page(head_html: str, *sections_html: str) -> str:
    """A card: its head, and sections under it; empty ones are left out."""
    body = "".join(section(part) for part in sections_html if part)
    return (
        # no `$5 and $6` of a text is math, and no command of MathJax is carried out
        '<div class="mathjax_ignore tex2jax_ignore" '
        f'style="{_UI};border:1px solid {_COLOURS["line"]};border-radius:6px;'
        f"background-color:{_COLOURS['ground']};margin:2px 0;max-width:960px;overflow:hidden;"
        f'text-align:left"><div style="padding:12px 16px">{head_html}</div>{body}</div>'
    )
