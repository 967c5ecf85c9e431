"""Cards show any text and do nothing else; what is shown is what was given."""

from __future__ import annotations

import base64
import json
import re
import string
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strict import read

from lis_kernel import cards
from lis_kernel.cards.outputs import read_table
from lis_kernel.trajectory import Trajectory
from lis_kernel.trajectory.card import card_of, output_file
from lis_kernel.types import Observation

BREAKERS = st.sampled_from(
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</pre></div>", "-->", "]]>",
        '" onmouseover="alert(1)', "';alert(1)//", "[x](javascript:alert(1))", "`" * 5, "<!--",
        "![x](http://evil/p.png)", "<style>*{}</style>", "\x1b[31m",
        "\x1b[38;5;999m", "\x1b]8;;http", "\r", "\b\b", "\x00", "\ud800", "\u202e", "&lt;b&gt;",
        "<svg/onload=alert(1)>", "```html\n",
        "| a | b |\n|---|---|\n| <b> | x |", "<table><tr><td><script>x</script></td></tr></table>",
        "http://a\"onclick=alert(1)", "<a href='javascript:alert(1)'>x</a>",
    ]
)  # fmt: skip
TEXT = st.lists(BREAKERS | st.text(max_size=30), max_size=6).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MIMES = st.sampled_from(
    [
        "text/plain", "text/html", "text/markdown", "image/png", "image/svg+xml", "text/latex",
        "application/json", "application/javascript", "application/vnd.plotly.v1+json",
    ]
)  # fmt: skip
OUTPUTS = st.lists(
    st.fixed_dictionaries(
        {"output_type": st.sampled_from(["stream", "error", "display_data", "execute_result"])},
        optional={
            "name": st.sampled_from(["stdout", "stderr"]) | TEXT,
            "text": TEXT | JSON,
            "ename": TEXT,
            "evalue": TEXT,
            "traceback": st.lists(TEXT, max_size=3) | JSON,
            "data": st.dictionaries(MIMES | TEXT, TEXT | JSON, max_size=3) | JSON,
        },
    ),
    max_size=4,
)
CALLS = st.builds(
    cards.Call,
    tool=TEXT,
    source=TEXT,
    outputs=OUTPUTS,
    status=TEXT,
    seconds=st.floats(0, 1e6),
    exit_code=st.none() | st.integers(-1, 300),
    note=TEXT,
    network=st.lists(st.tuples(TEXT, st.booleans(), TEXT), max_size=2),
)
STEPS = st.builds(
    cards.Step,
    kind=st.sampled_from(["turn", "human", "message"]),
    number=st.integers(0, 10_000),
    text=TEXT,
    reasoning=TEXT,
    calls=st.lists(CALLS, max_size=2),
    notes=st.lists(TEXT, max_size=2),
)
NAMES = st.sampled_from(["a.csv", "a.json", "a.png", "a.svg", "a.txt"])
FILES = st.builds(
    cards.File,
    name=st.tuples(TEXT, NAMES).map("".join),
    length=st.integers(0, 10**12),
    data=st.none()
    | st.binary(max_size=60)
    | TEXT.map(lambda text: text.encode("utf-8", "replace")),
)
RUNS = st.builds(
    cards.Run,
    task=TEXT,
    model=TEXT,
    backend=TEXT,
    state=TEXT,
    detail=TEXT,
    answer=st.none() | TEXT,
    submitted=st.booleans(),
    tokens=st.integers(0, 10**9),
    cost=st.none() | st.floats(0, 1e6),
    max_cost=st.none() | st.floats(0.01, 1e6),
    steps=st.lists(STEPS, max_size=2),
    files=st.lists(FILES, max_size=2),
    limits=st.dictionaries(TEXT, st.integers(1, 9), max_size=2),
    notes=st.lists(TEXT, max_size=2),
    path=TEXT,
)


@settings(max_examples=150, deadline=None)
@given(RUNS)
def test_a_card_of_anything_is_harmless(run: cards.Run) -> None:
    read(cards.run(run))


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_text_is_shown_as_it_is(text: str) -> None:
    shown = "".join(read(cards.text(text)).text.split()).replace("\ufffd", "")
    kept = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs"))
    assert shown == re.sub("[\u202a-\u202e\u2066-\u2069\ufffd]", "", "".join(kept.split()))
    read(cards.markdown(text))
    for language in ("python", "bash", "json", "text"):
        read(cards.code(text, language))


@settings(max_examples=200, deadline=None)
@given(TEXT, st.sampled_from([1, 3, 7]))
def test_terminal_text_is_harmless(text: str, size: int) -> None:
    read(f"<pre>{cards.ansi(text)}</pre>")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x1b[0mc", "abc"),
        ("10%\r20%\r\n", "20%\n"),
        ("\r\x1b[36mone\x1b[0m 1\r\x1b[36mtwo\x1b[0m 2", "two 2"),
        ("abc\r", "abc"),
        ("abc\b\bd", "ad"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b[2K\x1b[1Ax", "x"),
    ],
)
def test_terminal_text_is_what_a_terminal_shows(text: str, shown: str) -> None:
    assert read(f"<pre>{cards.ansi(text)}</pre>").text == shown


def test_colours_of_a_terminal() -> None:
    assert 'style="color:#e75c58"' in cards.ansi("\x1b[31mred")
    assert "font-weight:bold" in cards.ansi("\x1b[1;32mx")
    assert "rgb(1, 2, 3)" in cards.ansi("\x1b[38;2;1;2;3mx")
    assert "rgb(255, 135, 0)" in cards.ansi("\x1b[38;5;208mx")
    assert cards.ansi("\x1b[31ma\x1b[39mb").endswith("b")
    assert "#e75c58" in cards.ansi("\x1b[31mone\ntwo").split("\n")[1]


def test_a_data_frame_is_a_table_of_ours() -> None:
    html = (
        '<div><style>.dataframe{}</style><table border="1" class="dataframe"><thead>'
        '<tr style="text-align: right;"><th></th><th>city</th><th>sold</th></tr></thead><tbody>'
        "<tr><th>0</th><td>Oslo &amp; <b>co</b></td><td>3</td></tr></tbody></table>"
        "<p>1000 rows × 2 columns</p></div>"
    )
    shown = cards.outputs([{"output_type": "execute_result", "data": {"text/html": html}}])
    page = read(shown)
    assert "Oslo & co" in page.text and "1000 rows × 2 columns" in page.text
    assert "b" not in page.tags and "style" not in page.tags
    assert read_table("<p>no table</p>") is None


def test_a_picture_is_shown_if_it_is_one() -> None:
    data = base64.b64encode(b"\x89PNG....").decode()
    output = {"output_type": "display_data", "data": {"image/png": data, "text/plain": "<Figure>"}}
    assert read(cards.outputs([output])).pictures == 1
    output["data"] = {"image/png": 'x" onerror="alert(1)'}
    assert read(cards.outputs([output])).pictures == 0


def test_html_is_asked_of_the_cleaner() -> None:
    output = {"output_type": "display_data", "data": {"text/html": "<b>x</b>", "text/plain": "x"}}
    assert "<b>" not in cards.outputs([output])
    assert "<em>clean</em>" in cards.outputs([output], lambda _: "<em>clean</em>")


def test_a_card_is_bounded() -> None:
    noise = [
        {"output_type": "stream", "name": "stdout", "text": f"line {n} <&>\n" * 3000} for n in "ab"
    ]
    picture = {"output_type": "display_data", "data": {"image/png": "A" * 900_000}}
    calls = [cards.Call("execute_python", "x = 1\n" * 4000, [*noise, picture], "ok") for _ in "ab"]
    steps = [cards.Step(number=n, text="said " * 3000, calls=calls) for n in range(400)]
    run = cards.Run(task="t" * 100_000, answer="a" * 1_000_000, steps=steps)
    assert len(cards.run(run)) < 4_000_000
    read(cards.run(run))


def test_a_steps_line_says_what_is_done() -> None:
    edit = 'str_replace_editor(\n    "view",\n    path="/testbed/a b.py",\n)'
    step = cards.Step(number=1, calls=[cards.Call("str_replace_editor", edit, status="running")])
    assert "view /testbed/a b.py" in read(cards.step(step)).text
    assert step.tone == "active", "no mark of success for what runs"
    step.calls[0].status = "ok"
    assert step.tone == "good"


def test_files_are_previewed(tmp_path: Path) -> None:
    shown = cards.files(
        [
            cards.File("t.csv", 30, b"city,sold\nOslo,3\n"),
            cards.File("a.txt", 3, b"abc", "runs/a.txt"),
            cards.File("d/b.bin", 4, b"\0\1\2\3"),
            cards.File("huge.png", 9_000_000, b"\x89PNG" * 100),
        ]
    )
    page = read(shown)
    assert "Oslo" in page.text and "abc" in page.text and "no preview" in page.text
    assert page.pictures == 0, "a part of a picture is none"
    assert "runs/a.txt" in page.links
    assert any(link.startswith("data:application/octet-stream") for link in page.links)


def test_an_observation_has_a_card() -> None:
    page = read(Observation(text="<b>[exit code 3]", is_error=True, exit_code=3)._repr_html_())
    assert "exit code 3" in page.text and "<b>" in page.text


# -- trajectories ----------------------------------------------------------------------------


@pytest.mark.bwrap
def test_a_trajectory_has_a_card(story: Any) -> None:
    html = story.trajectory._repr_html_()
    page = read(html)
    assert "submitted" in page.text and "42 <script>" in page.text and "What is it?" in page.text
    assert page.pictures >= 2, "the plot, and the file of it"
    assert "Oslo" in page.text and "ZeroDivisionError" in page.text and "exit code 3" in page.text
    assert "99%" in page.text and "10%" not in page.text.replace("'\\x1b", "").split("99%")[1]
    for turn in story.trajectory.turns:
        read(turn._repr_html_())
        for call in turn.calls:
            read(call._repr_html_())


@pytest.mark.bwrap
def test_a_card_reads_no_file_beyond_its_run(story: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    folder = tmp_path / "run" / "files"
    folder.mkdir(parents=True)
    (folder / "link.txt").symlink_to(secret)
    (folder / "inner").symlink_to(tmp_path)
    (folder / "fine.txt").write_text("FINE")
    notebook = json.loads(json.dumps(story.trajectory.notebook))
    names = [
        "../../secret.txt",
        str(secret),
        "link.txt",
        "inner/secret.txt",
        "fine.txt",
        "",
        "a\0b",
    ]
    notebook["metadata"]["lis_kernel"]["files"] = [*names, 7, None]
    trajectory = Trajectory(tmp_path / "run" / "trajectory.ipynb", notebook)
    html = trajectory._repr_html_()
    assert html is not None and "SECRET" not in html and "FINE" in html
    assert output_file(folder, "../../secret.txt").data is None
    assert card_of(trajectory).files[0].data is None


@pytest.mark.bwrap
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_damaged_notebook_gives_some_card(story: Any, data: st.DataObject) -> None:
    notebook = json.loads(json.dumps(story.trajectory.notebook))
    ours = notebook["metadata"]["lis_kernel"]
    ours[data.draw(st.sampled_from(sorted(ours)))] = data.draw(JSON)
    cell = data.draw(st.sampled_from(notebook["cells"]))
    known = cell["metadata"]["lis_kernel"]
    known[data.draw(st.sampled_from(sorted(known)))] = data.draw(JSON)
    cell["source"] = data.draw(TEXT)
    if "outputs" in cell:
        cell["outputs"] = data.draw(OUTPUTS)
    read(Trajectory(story.trajectory.path, notebook)._repr_html_() or "")


def test_names_of_a_terminal_and_letters() -> None:
    assert cards.duration(0.001) == "0 s" and cards.duration(61) == "1 min 01 s"
    assert cards.duration(600) == "10 min" and cards.duration(7200) == "2 h"
    assert cards.amount(9_876) == "9,876" and cards.amount(1_234_567) == "1.23M"
    assert all(letter in cards.escape(string.printable) for letter in string.ascii_letters)
