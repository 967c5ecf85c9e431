"""Reads HTML as a browser would and refuses whatever could run, load, or lie over the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

__all__ = ["Page", "read"]

TAGS = {
    *("div", "span", "pre", "code", "details", "summary", "table", "thead", "tbody", "tr", "th"),
    *("td", "img", "a", "p", "ul", "ol", "li", "strong", "em", "blockquote", "hr", "br", "style"),
}
ATTRIBUTES = {
    "style",
    "class",
    "title",
    "open",
    "alt",
    "src",
    "href",
    "download",
    "target",
    "rel",
    "start",
}
ADDRESSES = re.compile(
    r"(?!javascript)[\w./%-]*|data:application/octet-stream;base64,[\w+/=]*|https?://\S*|mailto:\S*"
)
PICTURES = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[\w+/=]*")
CLASSES = re.compile(r"lis-[0-9a-f]{12}|mathjax_ignore tex2jax_ignore")
VOID = {"img", "br", "hr"}


class Page(HTMLParser):
    """What a page holds: its text, its tags, its pictures; and that its tags are in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.tags: list[str] = []
        self.pictures = 0
        self.links: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            assert name in ATTRIBUTES, (tag, name, value)
            if name == "style":
                lowered = (value or "").lower()
                assert not re.search(r"url\(|expression|@import|position|behavior", lowered), value
            elif name == "class":
                assert CLASSES.fullmatch(value or ""), value
            elif name == "src":
                assert tag == "img" and PICTURES.fullmatch(value or ""), value
                self.pictures += 1
            elif name == "href":
                assert ADDRESSES.fullmatch(value or ""), value
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:  # `<hr />`
            return
        assert self._open and self._open[-1] == tag, (tag, self._open[-3:])
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data!r}")


def read(html: str) -> Page:
    """The page, checked."""
    html.encode("utf-8")  # no lone surrogates
    page = Page()
    page.feed(html)
    page.close()
    assert not page._open, page._open
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page.text)
    return page
