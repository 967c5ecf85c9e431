"""Text for people's terminals: what a model is shown stays as it is, what a person sees is safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.tools.observation import observe
from lis_kernel.tools.terminal import for_people, one_line, plain_text
from lis_kernel.types import CellResult

TURNING = [chr(n) for n in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))]


@pytest.mark.parametrize("control", TURNING, ids=ascii)
def test_no_control_turns_a_persons_line_around(control: str) -> None:
    text = f"rm {control}txt.sh\n"
    assert for_people(text) == "rm txt.sh\n"
    assert one_line(text) == "rm txt.sh"


def test_an_observation_has_every_character() -> None:
    text = "".join(TURNING)
    assert plain_text(text) == text
    output = {"output_type": "stream", "name": "stdout", "text": text}
    assert text in observe(CellResult(outputs=(output,)), "python").text


@given(st.text(alphabet=["\x1b", "[", "m", "\n", "\r", "\b", "\x07", " ", "a", "\u202e", "\u2028"]))
def test_a_line_is_one_line(text: str) -> None:
    made = one_line(text, 20)
    assert len(made) <= 20 and len(made.splitlines()) <= 1
    assert not {"\x1b", "\x07", "\u202e"} & set(made)


def test_right_to_left_scripts_stay() -> None:
    assert for_people("שלום مرحبا") == "שלום مرحبا"
