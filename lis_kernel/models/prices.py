"""What a call costs and how long a conversation a model takes, from the genai-prices library.

Only the data bundled with the library is read; nothing here opens a connection (the library does
so only if its `UpdatePrices` is started). Imported on first use: the data takes a moment to load.
"""

from __future__ import annotations

from typing import Any

from lis_kernel.types import Usage

__all__ = ["FALLBACK_WINDOWS", "context_window", "cost", "priced"]

FALLBACK_WINDOWS = {"anthropic": 200_000, "openai": 128_000}
"""Tokens for models that the library does not know: what the providers' smaller models have."""


def cost(
    usage: Usage,
    provider: str,
    model: str,
    *,
    prices: tuple[float, float] | None = None,
    base_url: str | None = None,
) -> float | None:
    """USD for `usage`, or None where the price is not known.

    Tokens read from or written to a prompt cache are priced as such. `prices` (USD per million
    input and output tokens) overrides the library, and then cached tokens cost as much as others.
    With a `base_url` the provider is found by it, so that a model of your own server which bears
    a known name is not billed.
    """
    if prices is not None:
        return (usage.input_tokens * prices[0] + usage.output_tokens * prices[1]) / 1e6
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    where: dict[str, Any] = (
        {"provider_id": provider} if base_url is None else {"provider_api_url": base_url}
    )
    # Zero is left out: a model without a cache price is refused a cache count, even of 0.
    cache = {
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
    }
    tokens = Tokens(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        **{key: count for key, count in cache.items() if count},
    )
    try:
        return float(calc_price(tokens, model, **where).total_price)
    except (LookupError, ValueError):  # ValueError: counts that contradict each other
        return None


def priced(
    usage: Usage,
    provider: str,
    model: str,
    *,
    prices: tuple[float, float] | None = None,
    base_url: str | None = None,
) -> Usage:
    """`usage` with its `cost_usd`."""
    usd = cost(usage, provider, model, prices=prices, base_url=base_url)
    return usage.model_copy(update={"cost_usd": usd})


def context_window(provider: str, model: str, base_url: str | None = None) -> int | None:
    """Tokens of prompt and answer together, or None if the library does not know the model."""
    from genai_prices.data_snapshot import get_snapshot

    provider_id = provider if base_url is None else None
    try:
        _, info = get_snapshot().find_provider_model(model, None, provider_id, base_url)
    except LookupError:
        return None
    window: int | None = info.context_window
    return window
