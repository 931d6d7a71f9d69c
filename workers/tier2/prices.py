"""What a call costs, in whole micro-dollars, from the dated table in prices.toml.

A price in dollars per million tokens is the same number in micro-dollars per token.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Literal, Self

import msgspec
from msgspec import Struct

from schemas.generations import Usage

TABLE = Path(__file__).with_name("prices.toml")

_NAMES = ("input", "output", "cached", "cache_write")
_Rates = tuple[Decimal, Decimal, Decimal, Decimal]
"""By _NAMES."""


class LongContext(Struct, frozen=True, forbid_unknown_fields=True):
    """The prices of a whole call whose prompt is longer than `above_tokens`; micro-dollars per token."""

    above_tokens: int
    input: Decimal
    output: Decimal
    cached: Decimal
    cache_write: Decimal

    def __post_init__(self) -> None:
        """Raises: ValueError for a price that is none."""
        _check(above_tokens=Decimal(self.above_tokens), **dict(zip(_NAMES, self.rates, strict=True)))

    @property
    def rates(self) -> _Rates:
        return self.input, self.output, self.cached, self.cache_write


class Price(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row: a model's prices from a day on, micro-dollars per token."""

    model: str
    provider: Literal["anthropic", "openai"]
    since: date = msgspec.field(name="from")
    input: Decimal
    output: Decimal
    cached: Decimal
    cache_write: Decimal
    batch_factor: Decimal = Decimal(1)
    """What the batch interface charges of each price."""
    long: LongContext | None = None
    source: str

    def __post_init__(self) -> None:
        """Raises: ValueError for a price that is none."""
        _check(batch_factor=self.batch_factor, **dict(zip(_NAMES, self.rates, strict=True)))

    @property
    def rates(self) -> _Rates:
        return self.input, self.output, self.cached, self.cache_write

    def cost_micro_usd(self, usage: Usage, batch: bool = False) -> int:
        """What a call cost, rounded up."""
        input_, output, cached, cache_write = self._rates_for(usage.prompt_tokens)
        plain_tokens = max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens)
        cost = (
            plain_tokens * input_
            + usage.cached_tokens * cached
            + usage.cache_write_tokens * cache_write
            + usage.completion_tokens * output
        )
        return math.ceil(cost * self.batch_factor if batch else cost)

    def worst_case_micro_usd(self, prompt_tokens: int, max_tokens: int, batch: bool = False) -> int:
        """What a call can cost at most whose prompt has no more than `prompt_tokens`: the dearest kind of input, the
        longest answer, long-context prices if they could apply."""
        possible = {self.rates, self._rates_for(prompt_tokens)}
        # In a table of one's own any of the three kinds of input could be the dearest.
        worst = max(
            prompt_tokens * max(input_, cached, cache_write) + max_tokens * output
            for input_, output, cached, cache_write in possible
        )
        return math.ceil(worst * self.batch_factor if batch else worst)

    def _rates_for(self, prompt_tokens: int) -> _Rates:
        """Both providers charge all of a long prompt, cached tokens included, and its answer at the long prices."""
        return self.long.rates if self.long and prompt_tokens > self.long.above_tokens else self.rates


@dataclass(frozen=True, slots=True)
class Prices:
    """The table."""

    rows: Mapping[tuple[str, date], Price]
    places: str
    """Where to add a row, for the operator."""

    @classmethod
    def load(cls, override: Path | None = None) -> Self:
        """The built-in table; a row of `override` replaces the one of the same model and day, or is added.

        Raises: ValueError naming file and row for anything that is no price; OSError if `override` can't be read.
        """
        rows = _rows(TABLE)
        if override is None:
            return cls(rows, "a table of your own, which the setting tier2.prices names")
        return cls(rows | _rows(override), f"{override}, which the setting tier2.prices names")

    def of(self, model: str, on: date) -> Price:
        """The model's price on that day: its newest row that has begun.

        Raises: ValueError if there is none.
        """
        begun = [day for name, day in self.rows if name == model and day <= on]
        if not begun:
            raise ValueError(
                f"no price for model {model!r} on {on}: add a row to {self.places}, in the form of {TABLE}"
            )
        return self.rows[model, max(begun)]


def _check(**numbers: Decimal) -> None:
    for name, number in numbers.items():
        if not number.is_finite() or number < 0:
            raise ValueError(f"{name} is {number}, which is no price")


class _Table(Struct, forbid_unknown_fields=True):
    price: list[dict[str, object]]


def _rows(path: Path) -> dict[tuple[str, date], Price]:
    try:
        # Decimals keep sums exact, so that rounding up never adds a micro-dollar for a binary fraction.
        table = msgspec.convert(tomllib.loads(path.read_text("utf-8"), parse_float=Decimal), _Table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as exc:
        raise ValueError(f"{path} is not a price table: {exc}") from exc
    return _keyed(path, enumerate(table.price, 1))


def _keyed(path: Path, rows: Iterable[tuple[int, dict[str, object]]]) -> dict[tuple[str, date], Price]:
    keyed: dict[tuple[str, date], Price] = {}
    for number, row in rows:
        place = f"{path}: price {number} ({row.get('model', 'no model')})"
        try:
            price = msgspec.convert(row, Price)
        except msgspec.ValidationError as exc:
            raise ValueError(f"{place}: {exc}") from exc
        if (price.model, price.since) in keyed:
            raise ValueError(f"{place}: there is a row of this model and day already")
        keyed[price.model, price.since] = price
    return keyed
