"""Prices and windows out of the library's bundled data, with the network out of reach."""

from __future__ import annotations

import socket

import pytest

from lis_kernel.models import DEFAULT_ANTHROPIC, DEFAULT_OPENAI
from lis_kernel.models.prices import context_window, cost
from lis_kernel.types import Usage

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("prices must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_known_model() -> None:
    assert cost(MILLION, "anthropic", "claude-sonnet-4-6") == pytest.approx(18.0)


def test_cached_tokens_have_their_own_price() -> None:
    usage = Usage(input_tokens=1_000_000, cache_read_tokens=900_000, cache_write_tokens=100_000)
    usd = cost(usage, "anthropic", "claude-sonnet-4-6")
    assert usd == pytest.approx(0.9 * 0.3 + 0.1 * 3.75)


def test_settings_override_the_library() -> None:
    assert cost(MILLION, "anthropic", "claude-sonnet-4-6", prices=(1.0, 2.0)) == 3.0


def test_unknown_is_none_not_zero() -> None:
    assert cost(MILLION, "openai", "no-such-model") is None
    assert cost(MILLION, "nobody", "no-such-model") is None
    own = "http://127.0.0.1:8000/v1"
    assert cost(MILLION, "openai", "gpt-4o", base_url=own) is None
    assert cost(Usage(input_tokens=1, cache_read_tokens=9), "openai", "gpt-4o") is None
    assert context_window("openai", "gpt-4o", own) is None


@pytest.mark.parametrize("name", [DEFAULT_ANTHROPIC, DEFAULT_OPENAI])
def test_default_models_have_a_price_and_a_window(name: str) -> None:
    provider, _, model = name.partition("/")
    assert cost(MILLION, provider, model)
    assert (context_window(provider, model) or 0) >= 200_000
