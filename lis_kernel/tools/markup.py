"""HTML and Markdown of a sandbox or a model, made harmless: data frames and tables stay pretty.

Used by `tools/clean.py` and by views. A page that shows what we made runs it as its own, so all is
allow-listed: no script, no form, nothing that loads from elsewhere by itself (a picture's address
can carry data out of a sandbox without network), nothing that lies over the page, no name that the
page knows. First the tags are straightened here, so that no parser takes quadratic time over
them; then `nh3` has the last word.
"""

from __future__ import annotations

import hashlib
import html
import re

import nh3

from lis_kernel.tools import css

__all__ = ["safe_html", "safe_latex", "safe_markdown", "svg_image"]

MAX_DEPTH = 200
MAX_CHARS = 3_000_000
MAX_MARKDOWN = 100_000
PIECE = 20_000

_VOID = {"br", "hr", "img", "col"}
_TAGS = {
    *("a", "abbr", "article", "b", "bdi", "bdo", "big", "blockquote", "center", "cite", "code"),
    *("data", "dd", "del", "details", "dfn", "div", "dl", "dt", "em", "figcaption", "figure"),
    *("footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "i", "ins", "kbd", "li", "mark"),
    *("meter", "ol", "p", "pre", "progress", "q", "rp", "rt", "ruby", "s", "samp", "section"),
    *("small", "span", "strike", "strong", "sub", "summary", "sup", "time", "tt", "u", "ul", "var"),
    *("table", "caption", "colgroup", "thead", "tbody", "tfoot", "tr", "th", "td"),
} | _VOID
_ATTRIBUTES = {
    "*": {"style", "class", "id", "title", "dir", "lang"}
    | {"align", "valign", "bgcolor", "width", "height"},
    "a": {"href"},
    "img": {"src", "alt"},
    "table": {"border", "cellpadding", "cellspacing", "rules", "frame"},
    "th": {"colspan", "rowspan", "scope", "halign", "nowrap"},
    "td": {"colspan", "rowspan", "headers", "halign", "nowrap"},
    "col": {"span"},
    "colgroup": {"span"},
    "ol": {"start", "type", "reversed"},
    "li": {"value"},
    "details": {"open"},
    "progress": {"value", "max"},
    "meter": {"value", "min", "max", "low", "high", "optimum"},
}
_HIDDEN = {
    *("script", "style", "template", "iframe", "object", "noscript", "noembed", "noframes"),
    *("textarea", "title", "xmp", "plaintext", "svg", "math", "select", "head", "audio", "video"),
}
"""Elements that go with all that is in them."""

_NEXT = re.compile(r"<(?:!--(?P<comment>)|(?P<close>/)?(?P<name>[a-zA-Z][\w:-]*)|[!?/](?P<odd>))")
_ATTRIBUTE = re.compile(
    r"""[\s/]*(?P<name>[^\s"'<>/=]+)(?:\s*=\s*(?:"(?P<two>[^"]*)"|'(?P<one>[^']*)'"""
    r"""|(?P<bare>[^\s"'<>]+)))?"""
)
_TAG_END = re.compile(r"[^>]*>")
_PICTURE = re.compile(
    r"data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*", re.ASCII
)
_LINK = re.compile(r"(?:https?://|mailto:)[^\s]*", re.IGNORECASE)
_TEX = re.compile(
    r"\\+(?=(?:href|url|style|class|cssId|data|require|unicode|includegraphics|html\w*|csname"
    r"|mmlToken|bbox)\b)",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\$\$.{1,9999}?\$\$|(?<![\\$])\$(?=[^\s$])[^$\n]*?(?<=[^\s\\])\$(?!\d)"
    r"|\\\[.{1,999}?\\\]|\\\(.{1,999}?\\\)",
    re.DOTALL,
)
_CODE = re.compile(r"^(`{3,}+|~{3,}+).*?^\1|(?<!`)`++[^`\n]++`++", re.DOTALL | re.MULTILINE)


def safe_html(text: str) -> str:
    """`text`, a fragment of HTML, as one `div` that does no harm in a trusted page."""
    if len(text) > MAX_CHARS:
        return f"<pre>{html.escape(text[:10_000])}…</pre>"
    scope = "lis" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:10]
    straight, sheets = _straightened(text)

    def attribute(tag: str, name: str, value: str) -> str | None:
        if name == "style":
            return css.declarations(value) or None
        if name in ("class", "headers"):
            return " ".join(css.renamed(part, scope) for part in value.split())
        if name == "id":
            return css.renamed(value, scope)
        if name == "href":
            if value.startswith("#"):
                return f"#{css.renamed(value[1:], scope)}"
            return value if _LINK.fullmatch(value.strip()) else None
        if name == "src":
            return value if _PICTURE.fullmatch(value) else None
        return value

    inner = nh3.clean(
        straight,
        tags=_TAGS,
        clean_content_tags={"script", "style"},
        attributes=_ATTRIBUTES,
        attribute_filter=attribute,
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    sheet = css.rules("\n".join(sheets), scope)
    style = f"<style>\n{sheet}\n</style>\n" if sheet else ""
    return f'<div id="{scope}" style="overflow: auto">{style}{safe_latex(inner)}</div>'


def safe_latex(text: str) -> str:
    """`text` without the commands by which MathJax can link, load, or style a page."""
    return _TEX.sub("", text)


def safe_markdown(text: str) -> str:
    """`text`, Markdown that may hold HTML and math, as harmless HTML."""
    from markdown_it import MarkdownIt

    if len(text) > MAX_MARKDOWN:
        return safe_html(f"<pre>{html.escape(text)}</pre>")
    held: list[str] = []
    mark = "lismath" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:10]

    def hold(math: re.Match[str]) -> str:
        held.append(html.escape(math[0]))
        return f"{mark}n{len(held) - 1}e"

    # what stands in code is no math: `a$b` and `c$d`
    pieces, end = [], 0
    for code in _CODE.finditer(text):
        pieces += [_MATH.sub(hold, text[end : code.start()]), code[0]]
        end = code.end()
    pieces.append(_MATH.sub(hold, text[end:]))
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    made = safe_html(parser.render("".join(pieces)))
    return re.sub(
        rf"{mark}n(\d{{1,6}})e",
        lambda place: safe_latex(held[int(place[1])]) if int(place[1]) < len(held) else "",
        made,
    )


def svg_image(text: str) -> str:
    """`text`, an SVG, as an `img`, in which a browser runs no script and loads nothing."""
    import base64

    if "xmlns" not in text[:2000]:
        text = text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f'<img src="data:image/svg+xml;base64,{data}">'


def _straightened(text: str) -> tuple[str, list[str]]:
    """`text` with every tag closed in its order, no deeper than a page needs, and its sheets.

    In time linear in the text, whatever it is: a tag without end takes the rest with it.
    """
    out: list[str] = []
    sheets: list[str] = []
    stack: list[str] = []
    open_tags: dict[str, int] = {}
    at = 0
    while (found := _NEXT.search(text, at)) is not None:
        out.append(_text(text[at : found.start()]))
        at = found.end()
        if found["comment"] is not None:
            at = _after(text, "-->", at)
            continue
        if found["name"] is None:
            at = _after(text, ">", at)
            continue
        name = found["name"].lower()
        attributes, at = _attributes(text, at)
        if found["close"]:
            if open_tags.get(name):
                while True:
                    last = stack.pop()
                    open_tags[last] -= 1
                    out.append(f"</{last}>")
                    if last == name:
                        break
        elif name in _HIDDEN:
            end = re.compile(rf"</{re.escape(name)}\s*>", re.IGNORECASE).search(text, at)
            if name == "style":
                sheets.append(text[at : end.start() if end else len(text)])
            at = end.end() if end else len(text)
        elif name in _TAGS and (name in _VOID or len(stack) < MAX_DEPTH):
            out.append(f"<{name}{attributes}>")
            if name not in _VOID:
                stack.append(name)
                open_tags[name] = open_tags.get(name, 0) + 1
    out.append(_text(text[at:]))
    out += [f"</{name}>" for name in reversed(stack)]
    return "".join(out), sheets


def _text(text: str) -> str:
    """Text between tags, written so that it is read in one way, and in short pieces.

    The parser takes quadratic time over a long text node with many character references.
    """
    text = html.unescape(text)
    pieces = (text[n : n + PIECE] for n in range(0, len(text), PIECE))
    return "<b></b>".join(html.escape(piece, quote=False) for piece in pieces)


def _after(text: str, mark: str, at: int) -> int:
    end = text.find(mark, at)
    return len(text) if end < 0 else end + len(mark)


def _attributes(text: str, at: int) -> tuple[str, int]:
    """The attributes that stand at `at`, written anew, and where their tag has ended."""
    made = []
    while (found := _ATTRIBUTE.match(text, at)) is not None:
        at = found.end()
        name = found["name"].lower()
        value = found["two"] or found["one"] or found["bare"] or ""
        made.append(f' {name}="{html.escape(html.unescape(value))}"')
    end = _TAG_END.match(text, at)
    return "".join(made), end.end() if end else len(text)
