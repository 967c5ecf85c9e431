"""Code in the theme's own colours; and a model's Markdown, of which nothing loads or runs."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, Literal

from lis_kernel.cards.parts import MONO, WASH, colour, escape, plain, text

__all__ = ["code", "markdown", "pre"]

Language = Literal["python", "bash", "json", "text"]

MOST = 20_000
"""Characters of code that get colours: each coloured word is some hundred characters of HTML."""

_INKS = {
    "Keyword": ("keyword", "rgb(60, 140, 60)", ";font-weight:bold"),
    "Operator.Word": ("keyword", "rgb(60, 140, 60)", ";font-weight:bold"),
    "Literal.String": ("string", "rgb(200, 80, 70)", ""),
    "Literal.Number": ("number", "rgb(60, 140, 60)", ""),
    "Comment": ("comment", "rgb(90, 140, 140)", ";font-style:italic"),
    "Name.Builtin": ("builtin", "rgb(60, 140, 60)", ""),
    "Name.Function": ("def", "rgb(70, 110, 230)", ""),
    "Name.Class": ("def", "rgb(70, 110, 230)", ""),
    "Name.Decorator": ("meta", "rgb(170, 80, 220)", ""),
    "Name.Variable": ("variable-2", "rgb(60, 120, 190)", ""),
    "Name.Tag": ("def", "rgb(70, 110, 230)", ""),
}


def code(source: str, language: Language = "python") -> str:
    """A block of code; long lines scroll."""
    return pre(_coloured(source.rstrip("\n"), language), ground=True)


def pre(inner_html: str, *, ground: bool = False, tint: str = "", most: int = 360) -> str:
    """Monospaced text as it is; scrolls within `most` pixels of height."""
    back = f"background-color:{tint or (WASH if ground else 'transparent')};"
    pad = "padding:8px 12px" if ground or tint else "padding:4px 0"
    return (
        f'<pre style="{MONO};{back}{pad};margin:0;border:none;border-radius:3px;overflow:auto;'
        f'max-height:{most}px;white-space:pre;color:inherit">{inner_html}</pre>'
    )


@lru_cache(maxsize=64)
def _coloured(source: str, language: Language) -> str:
    lexer = _lexer(language)
    if lexer is None or len(source) > MOST:
        return escape(source)
    pieces: list[tuple[str, str]] = []
    try:
        for kind, word in lexer.get_tokens(source):
            style = _style(str(kind).removeprefix("Token.")) if word.strip() else None
            if pieces and (style is None or pieces[-1][0] == style):
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + word)
            else:
                pieces.append((style or "", word))
    except Exception:  # a lexer of another's, and any text
        return escape(source)
    return "".join(
        f'<span style="{style}">{escape(word)}</span>' if style else escape(word)
        for style, word in pieces
    ).rstrip("\n")


@cache
def _style(kind: str) -> str:
    while kind:
        if (found := _INKS.get(kind)) is not None:
            name, usual, more = found
            return f"color:var(--jp-mirror-editor-{name}-color, {usual}){more}"
        kind = kind.rpartition(".")[0]
    return ""


@cache
def _lexer(language: Language) -> Any:
    """Pygments' lexer, or None: it comes with IPython, and may be missing elsewhere."""
    try:
        from pygments.lexers import get_lexer_by_name
    except ImportError:
        return None
    return get_lexer_by_name(language, stripnl=False)


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    # a picture's address would be asked for what it says; HTML stays text
    parser = MarkdownIt("commonmark", {"html": False}).disable(["image"]).enable("table")
    line, faint = (f"border-bottom:1px solid {colour(name)}" for name in ("line", "faint"))
    quote = f"border-left:3px solid {colour('line')}"
    cell = "text-align:left;padding:3px 12px 3px 0"
    styles = {
        "paragraph_open": "margin:0 0 8px 0",
        "bullet_list_open": "margin:0 0 8px 0;padding-left:22px",
        "ordered_list_open": "margin:0 0 8px 0;padding-left:22px",
        "blockquote_open": f"margin:0 0 8px 0;padding-left:10px;{quote}",
        "heading_open": "margin:4px 0 6px 0;font-size:14px;font-weight:600;line-height:1.4",
        "table_open": "border-collapse:collapse;margin:0 0 8px 0;font-size:12px",
        "th_open": f"{cell};{line}",
        "td_open": f"{cell};{faint}",
        "tr_open": "background-color:transparent",
        "code_inline": f"{MONO};background-color:{WASH};padding:1px 4px;border-radius:3px",
    }

    def dressed(state: Any) -> None:
        for token in state.tokens:
            for one in (token, *(token.children or ())):
                if (style := styles.get(one.type)) is not None:
                    one.attrSet("style", style)
                elif one.type == "link_open":
                    one.attrSet("target", "_blank")
                    one.attrSet("rel", "noopener noreferrer nofollow")
                if one.type.startswith("heading_"):
                    one.tag = "div"

    parser.core.ruler.push("dressed", dressed)

    def block(renderer: Any, tokens: Any, at: int, options: Any, env: Any) -> str:
        token = tokens[at]
        named = (token.info or "").strip().split(" ")[0]
        language: Language = "bash" if named in ("bash", "sh", "shell") else "text"
        if named in ("python", "py", "json"):
            language = "json" if named == "json" else "python"
        return f'<div style="margin:0 0 8px 0">{code(token.content, language)}</div>'

    parser.add_render_rule("fence", block)
    parser.add_render_rule("code_block", block)
    return parser


def markdown(source: str, style: str = "") -> str:
    """A model's text: Markdown without pictures and without HTML."""
    source = plain(source).strip()
    if len(source) > MOST:
        return text(source, style)
    try:
        made = _parser().render(source)
    except Exception:  # not installed, or a text that it cannot take
        return text(source, style)
    return f'<div style="word-wrap:break-word;overflow-x:auto;{style}">{made}</div>'
