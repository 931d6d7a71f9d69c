"""What a call costs, in whole micro-dollars, from the dated table in prices.toml.

A price in dollars per million tokens is the same number in micro-dollars per token.
"""

import math
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

from schemas.drafts import Usage

TABLE = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True, slots=True)
class Price:
    """One model's prices, micro-dollars per token."""

    provider: str
    input: Decimal
    output: Decimal
    cached: Decimal
    cache_write: Decimal


def price_of(model: str) -> Price:
    """The model's prices.

    Raises: ValueError if the table has none.
    """
    try:
        return _table()[model]
    except KeyError:
        raise ValueError(f"no price for model {model!r} in {TABLE}: add it there, or name one of its models") from None


def cost_micro_usd(model: str, usage: Usage) -> int:
    """What a call cost, rounded up. Raises: ValueError for a model without a price."""
    price = price_of(model)
    plain_tokens = max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens)
    return math.ceil(
        plain_tokens * price.input
        + usage.cached_tokens * price.cached
        + usage.cache_write_tokens * price.cache_write
        + usage.completion_tokens * price.output
    )


def worst_case_micro_usd(model: str, prompt_tokens_estimate: int, max_tokens: int) -> int:
    """What a call can cost at most: nothing cached, all written to the cache, the longest answer."""
    price = price_of(model)
    return math.ceil(prompt_tokens_estimate * max(price.input, price.cache_write) + max_tokens * price.output)


@cache
def _table() -> dict[str, Price]:
    # Decimals keep sums exact, so that rounding up never adds a micro-dollar for a binary fraction.
    rows = tomllib.loads(TABLE.read_text("utf-8"), parse_float=Decimal)
    return {model: Price(**row) for model, row in rows.items()}
