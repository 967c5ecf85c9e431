"""iopub messages become outputs as in a notebook, and no message can break that."""

from __future__ import annotations

import nbformat
from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.kernel.outputs import OutputCollector, Shown
from lis_kernel.trajectory.notebook import code_cell, new_notebook

KINDS = [
    "stream",
    "display_data",
    "update_display_data",
    "execute_result",
    "error",
    "clear_output",
    "comm_open",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = ["name", "text", "data", "metadata", "transient", "execution_count", "traceback", "wait"]
CONTENT = st.dictionaries(st.sampled_from(FIELDS), JSON) | st.fixed_dictionaries(
    {"name": st.sampled_from(["stdout", "stderr"]), "text": st.text()}
)


def collect(*messages: tuple[str, dict], limit: int = 1_000_000) -> list[dict]:
    collector = OutputCollector(limit)
    for kind, content in messages:
        collector.feed(kind, content)
    return collector.outputs


def stream(text: str, name: str = "stdout") -> tuple[str, dict]:
    return "stream", {"name": name, "text": text}


def display(value: str, name: str | None = None, update: bool = False) -> tuple[str, dict]:
    content = {"data": {"text/plain": value}, "metadata": {}}
    if name:
        content["transient"] = {"display_id": name}
    return "update_display_data" if update else "display_data", content


def test_adjacent_pieces_of_a_stream_are_one_output() -> None:
    got = collect(stream("a"), stream("b"), stream("c", "stderr"), stream("d"))
    assert [(o["name"], o["text"]) for o in got] == [
        ("stdout", "ab"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]


def test_a_display_is_updated_in_place() -> None:
    got = collect(display("1", "x"), display("other"), display("2", "x", update=True))
    assert [o["data"]["text/plain"] for o in got] == ["2", "other"]


def test_clear_output_now_and_at_the_next_output() -> None:
    assert collect(stream("a"), ("clear_output", {"wait": False})) == []
    waiting = collect(stream("a"), ("clear_output", {"wait": True}))
    assert [o["text"] for o in waiting] == ["a"]
    assert [
        o["text"] for o in collect(stream("a"), ("clear_output", {"wait": True}), stream("b"))
    ] == ["b"]


def test_outputs_are_bounded() -> None:
    got = collect(*[stream("x" * 1000)] * 100, limit=10_000)
    assert len(got[0]["text"]) < 10_000


@given(st.lists(st.tuples(st.sampled_from(KINDS), CONTENT), max_size=12))
def test_any_message_gives_outputs_that_a_notebook_can_hold(messages) -> None:
    outputs = collect(*messages)
    notebook = new_notebook({})
    cell = code_cell("c", "1")
    cell["outputs"] = outputs
    notebook["cells"].append(cell)
    nbformat.validate(nbformat.from_dict(notebook))
    for output in outputs:
        str(output).encode("utf-8")


def test_a_display_that_moves_for_long_takes_no_more_room() -> None:
    messages = [display("bar", "x"), stream("a")]
    for n in range(1000):
        messages.append(display(f"{n:<500}", "x", update=True))
    got = collect(*messages, limit=2000)
    assert got[0]["data"]["text/plain"].strip() == "999"
    frames = []
    for n in range(1000):
        frames += [("clear_output", {"wait": True}), display(f"{n:<500}")]
    assert collect(*frames, limit=2000)[0]["data"]["text/plain"].strip() == "999"
    grown = collect(display("", "x"), display("y" * 3000, "x", update=True), limit=2000)
    assert grown[0]["data"]["text/plain"] == ""


def test_what_was_copied_of_what_is_shown_stays() -> None:
    shown = Shown(tail=5)
    for kind, content in (display("1", "x"), stream("abc")):
        shown.feed(kind, content)
    before = list(shown.outputs)
    for kind, content in (display("2", "x", update=True), stream("def")):
        shown.feed(kind, content)
    assert [o.get("text") or o["data"]["text/plain"] for o in before] == ["1", "abc"]
    assert [o.get("text") or o["data"]["text/plain"] for o in shown.outputs] == ["2", "bcdef"]
