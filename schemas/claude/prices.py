"""What tokens cost, where the CLI gives no figure: of a child that is killed before its result.

The CLI's own figure counts wherever there is one. These are the list prices of the model families
(https://www.anthropic.com/pricing), in US dollars for a million tokens.
"""

from __future__ import annotations

from ..turn import Usage

PRICES = {"haiku": (1.0, 5.0), "sonnet": (3.0, 15.0), "opus": (5.0, 25.0)}
"""Read and written, by a part of the model's name. A model of none of these names costs as the
dearest: a budget shall not be passed because a name is new."""

CACHED, CACHE_WRITE = 0.1, 1.25
"""What reading from the prompt cache and writing to it costs, of the price of reading."""


def price_of(model: str, usage: Usage) -> float:
    """An estimate in US dollars."""
    found = (price for name, price in PRICES.items() if name in model)
    read, written = next(found, PRICES["opus"])
    fresh = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    paid = max(0, fresh) + CACHED * usage.cached_tokens + CACHE_WRITE * usage.cache_write_tokens
    return (read * paid + written * usage.completion_tokens) / 1e6
