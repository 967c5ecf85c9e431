"""Style sheets and `style` attributes of a sandbox, made harmless: a table stays pretty, no more.

Used by `tools/markup.py`. What is kept has an allow-listed property and a value that loads nothing;
a rule reaches only what stands inside the fragment that it came with, whose names are its own.
"""

from __future__ import annotations

import re

__all__ = ["PROPERTIES", "declarations", "renamed", "rules"]

PROPERTIES = {
    *("background", "background-color", "color", "opacity", "accent-color"),
    *("font", "font-family", "font-size", "font-style", "font-weight", "font-variant"),
    *("line-height", "letter-spacing", "word-spacing", "text-align", "text-decoration"),
    *("text-indent", "text-transform", "text-overflow", "text-shadow", "vertical-align"),
    *("white-space", "word-break", "word-wrap", "overflow-wrap", "writing-mode", "direction"),
    *("border", "border-collapse", "border-spacing", "border-color", "border-style"),
    *("border-width", "border-radius", "border-top", "border-right", "border-bottom"),
    *("border-left", "box-shadow", "box-sizing", "outline", "caption-side", "empty-cells"),
    *("margin", "margin-top", "margin-right", "margin-bottom", "margin-left"),
    *("padding", "padding-top", "padding-right", "padding-bottom", "padding-left"),
    *("width", "height", "min-width", "min-height", "max-width", "max-height", "table-layout"),
    *("display", "float", "clear", "overflow", "overflow-x", "overflow-y", "visibility"),
    *("flex", "flex-direction", "flex-wrap", "gap", "align-items", "justify-content"),
    *("grid-template-columns", "grid-template-rows", "grid-column", "grid-row", "list-style-type"),
}
"""Nothing that positions: a fragment cannot lie over the page that shows it."""

_FUNCTIONS = {
    *("rgb", "rgba", "hsl", "hsla", "hwb", "lab", "lch", "oklab", "oklch", "color-mix", "var"),
    *("calc", "min", "max", "clamp", "linear-gradient", "radial-gradient", "repeat", "minmax"),
}
_FUNCTION = re.compile(r"([\w-]*)\(")
_VALUE = re.compile(r"[\w\s.,%#()+*/!'\"-]{1,500}")
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_SELECTOR = re.compile(r"(?![~+])[\w\s.#:>+~*()\[\]=\"'-]{1,300}")
_NAME = re.compile(r"([.#])([a-zA-Z_][\w-]*)")
_KEPT = {"dataframe"}
"""Class names that front ends have a style for, and that are no part of any program's page."""

MAX_RULES = 20_000


def renamed(name: str, scope: str) -> str:
    """A class or id under a name that only the fragment `scope` has."""
    return name if name in _KEPT else f"{scope}-{name}"


def declarations(text: str) -> str:
    """The harmless ones of `a: b; c: d`, or nothing."""
    kept = []
    for part in text.split(";"):
        name, _, value = part.partition(":")
        name, value = name.strip().lower(), value.strip()
        if (
            name in PROPERTIES
            and _VALUE.fullmatch(value)
            and all(found.lower() in _FUNCTIONS for found in _FUNCTION.findall(value))
        ):
            kept.append(f"{name}: {value}")
    return "; ".join(kept)


def rules(sheet: str, scope: str) -> str:
    """The harmless rules of a style sheet, for what stands inside the element `#scope` alone.

    Rules in blocks (`@media`) and those with an unusual selector are left out.
    """
    kept = []
    for rule in _COMMENT.sub(" ", sheet).split("}", MAX_RULES)[:MAX_RULES]:
        head, brace, text = rule.partition("{")
        body = declarations(text) if brace and "{" not in text else ""
        selectors = [part.strip() for part in head.split(",")]
        if body and all(_SELECTOR.fullmatch(part) for part in selectors):
            own = (
                _NAME.sub(lambda name: name[1] + renamed(name[2], scope), part)
                for part in selectors
            )
            kept.append(", ".join(f"#{scope} {part}" for part in own) + f" {{ {body} }}")
    return "\n".join(kept)
