"""What the code-block protocol's model is told beside its outputs; nothing may be held back."""

from __future__ import annotations

import pytest

from lis_kernel.agent.nudges import Nudges
from lis_kernel.types import Observation

NOTHING = Observation(text="[exit code 1]\n(no output)", is_error=True, exit_code=1)


def after(*outputs: str) -> Nudges:
    nudges = Nudges()
    for n, text in enumerate(outputs):
        nudges.hint(f"cell {n}", Observation(text=f"[ok]\nSTDOUT:\n{text}"))
    return nudges


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("318.5", "318.5"),
        ("paid 18,450 crowns", "18450"),
        ("217.6567", "217.66"),
        ("102956.0", "102956"),
        ("Osmund Thackeray kept it", "Osmund Thackeray."),
        ("['a', 'b']", "a, b"),
        ("x", "a report\nof two lines"),
        ("x", "a long answer " * 20),
    ],
)
def test_what_was_shown_and_what_is_long_is_accepted(output: str, answer: str) -> None:
    assert not after(output).objection(answer)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("12", "7"),
        ("the market", "Lake Tarnobel"),
        ("1", "<answer>"),
        ("1", "print(1)"),
        ("1", "The name could not be found"),
    ],
)
def test_a_doubtful_answer_comes_back_once(output: str, answer: str) -> None:
    nudges = after(output)
    assert nudges.objection(answer)
    assert not nudges.objection(answer)


def test_a_submit_before_any_run_or_after_a_failure_comes_back() -> None:
    assert "nothing has been run" in Nudges().objection("42")
    failed = after("42")
    failed.hint("boom", Observation(text="[error]\nERROR:\nx", is_error=True))
    assert "gave no result" in failed.objection("42")


def test_a_submit_without_an_answer_is_left_to_the_guest() -> None:
    assert not Nudges().objection(None)


def test_hints() -> None:
    nudges = Nudges()
    assert not nudges.hint("print(1)", Observation(text="[ok]\nSTDOUT:\n1"))
    assert "Print what" in nudges.hint("x = 1", Observation(text="[ok]\n(no output)"))
    assert '"Halloran" or "Row"' in nudges.hint('%%bash\ngrep -i "Halloran Row" a.txt', NOTHING)
    assert "another word" in nudges.hint("%%bash\ngrep -i Halloran a.txt", NOTHING)
    assert "run before" in nudges.hint("%%bash\ngrep -i Halloran a.txt", NOTHING)
    late = Observation(text="[timed out: the cell was stopped; output until then:]", is_error=True)
    assert "faster" in nudges.hint("fibonacci(90)", late)
