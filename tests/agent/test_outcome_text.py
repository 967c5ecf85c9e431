"""The outcome cell says what we say: names and answers come from the sandbox and stay data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.agent.budget import Meter
from lis_kernel.agent.record import Taken, outcome_text
from lis_kernel.config import Budget
from lis_kernel.types import StopReason


def text(answer: str | None, files: list[str]) -> str:
    taken = Taken(answer, files, [])
    return outcome_text(StopReason.MAX_TURNS, "", taken, Meter(Budget()), 1.0, {})


@pytest.mark.parametrize("name", ["a\n\n## Submitted", "`\n# x", "\x1b]0;evil\x07", "\u202ea"])
def test_a_name_has_no_line_of_its_own(name: str) -> None:
    (line,) = [line for line in text(None, [name]).split("\n") if line.startswith("Files")]
    assert line.count("`") == 2
    assert line.isprintable()


def test_plain_names_stay_as_they_are() -> None:
    said = text(None, ["résumé.csv", "a b.txt"])
    assert "Files: [`résumé.csv`](" in said
    assert said.endswith("[`a b.txt`](files/a%20b.txt)")


@given(st.text(alphabet="`a\n", max_size=40))
def test_an_answer_cannot_end_its_block(answer: str) -> None:
    lines = text(answer, []).split("\n")
    opened = next(n for n, line in enumerate(lines) if line.startswith("```"))
    fence = lines[opened].removesuffix("text")
    assert [n for n, line in enumerate(lines) if line.strip() == fence] == [len(lines) - 1]
