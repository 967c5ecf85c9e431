"""From a name to a model, and what importing the package may cost."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lis_kernel.config import ModelConfig
from lis_kernel.errors import ConfigError
from lis_kernel.models import (
    DEFAULT_ANTHROPIC,
    DEFAULT_LOCAL,
    default_model,
    make_model,
    split_name,
)
from lis_kernel.models.text import CallIds, as_object, parse_object, scrub


def test_names() -> None:
    assert split_name("anthropic/claude-x") == ("anthropic", "claude-x")
    assert split_name("openai/org/model") == ("openai", "org/model")
    assert split_name("scripted:a/b.json") == ("scripted", "a/b.json")
    assert split_name("my.models:Mine/x") == ("my.models:Mine", "x")
    assert split_name("my.models:Mine") == ("my.models:Mine", "")


@pytest.mark.parametrize("name", ["gpt-4o", "", "nobody/model", "/model"])
def test_a_name_without_a_known_provider(name: str) -> None:
    with pytest.raises(ConfigError, match="--model"):
        make_model(ModelConfig(name=name))


def test_default_is_what_there_is_a_key_for() -> None:
    assert default_model({}) == DEFAULT_LOCAL
    assert default_model({"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "b"}) == DEFAULT_ANTHROPIC
    assert default_model({"OPENAI_API_KEY": "b"}).startswith("openai/gpt")
    assert default_model({"OPENAI_API_KEY": "b", "OPENAI_BASE_URL": "http://x"}) == "openai/"
    assert default_model({"ANTHROPIC_API_KEY": "a"}, "http://x") == "openai/"


def test_importing_the_package_loads_no_sdk() -> None:
    code = (
        "import sys, lis_kernel.models, lis_kernel.models.scripted\n"
        "print({'anthropic', 'openai', 'httpx2', 'genai_prices'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"x": NaN}', "[" * 100_000, "1" * 9_999, "null"])
def test_what_is_no_object(text: str) -> None:
    assert parse_object(text) is None


def test_arguments_are_always_an_object() -> None:
    assert as_object('{"a": 1}') == {"a": 1}
    assert as_object("") == as_object(None) == {}
    assert as_object("{bad") == {"_malformed": "{bad"}
    assert as_object([1]) == {"_malformed": "[1]"}


@given(st.recursive(st.text(st.characters()), st.lists) | st.dictionaries(st.text(), st.text()))
def test_scrubbed_values_can_be_sent(value: object) -> None:
    clean = scrub(value)
    repr(clean).encode()
    assert scrub(clean) == clean


def test_split_surrogate_pairs_are_joined() -> None:
    assert scrub("\ud83d\ude00") == "\U0001f600"
    assert scrub({"a": ["\ud83d!"]}) == {"a": ["\ufffd!"]}


@given(st.lists(st.lists(st.text(max_size=5), max_size=4), max_size=6))
def test_ids_are_unique_and_answers_follow_them(turns: list[list[str]]) -> None:
    ids = CallIds(longest=8)
    seen: set[str] = set()
    for raw in turns:
        names = ids.calls(raw)
        assert [ids.answer(one) for one in raw] == names
        assert all(0 < len(name) <= 8 for name in names)
        assert not seen & set(names)
        assert len(set(names)) == len(names)
        seen |= set(names)
