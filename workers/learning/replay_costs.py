"""What a ticket of a log cost, and would cost under another policy: its own figures, or its category's mean.

Costs are dollars by the fields of `Parts`, (5,).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.learning.replay_fates import Replayed
from workers.learning.replay_log import Logged

Floats = NDArray[np.float64]


class Prices(NamedTuple):
    """Mean dollars by category; "" is the mean of all. For tickets that have no figure of their own."""

    tier1: Mapping[str, float]
    tier1_check: Mapping[str, float]
    tier2: Mapping[str, float]
    tier2_check: Mapping[str, float]
    judge: Mapping[str, float]


def prices_of(tickets: Sequence[Logged]) -> Prices:
    """From the tickets that had the part."""
    drafted = [t for t in tickets if t.draft]
    up = [t for t in tickets if not t.shipped]
    judged = [t for t in tickets if t.acceptable is not None or t.spent.judge_usd]
    return Prices(
        _means((t.category, t.spent.tier1_usd) for t in drafted),
        _means((t.category, t.spent.tier1_check_usd) for t in drafted),
        _means((t.category, t.spent.tier2_usd) for t in up),
        _means((t.category, t.spent.tier2_check_usd) for t in up),
        _means((t.category, t.spent.judge_usd) for t in judged),
    )


def _means(paid: Iterable[tuple[str, float]]) -> dict[str, float]:
    by_category = defaultdict[str, list[float]](list)
    for category, usd in paid:
        by_category[category].append(usd)
        by_category[""].append(usd)
    return {name: fmean(amounts) for name, amounts in sorted(by_category.items())}


def _price(means: Mapping[str, float], category: str) -> float:
    return means.get(category, means.get("", 0.0))


def least_and_most(row: Replayed, prices: Prices) -> tuple[Floats, Floats]:
    """What a ticket costs at the least and at the most: the same, where its fate is certain."""
    ticket = row.ticket
    name, own = ticket.category, ticket.spent
    draft, check = (
        (own.tier1_usd, own.tier1_check_usd)
        if ticket.draft or ticket.tier == "tier1"
        else (_price(prices.tier1, name), _price(prices.tier1_check, name))
    )
    judge = row.audit_share * _price(prices.judge, name)
    shadow = row.audit_share * (_price(prices.tier1, name) + _price(prices.tier1_check, name))
    tried = np.array([own.router_usd, draft, check, 0.0, judge])
    up = going_up(row, prices)
    straight = np.array([own.router_usd, 0.0, 0.0, 0.0, judge + shadow]) + up
    if row.in_sample or row.fate == "unknown":
        return tried, tried + up
    match row.fate:
        case "straight":
            return straight, straight
        case "shipped":
            return tried, tried
        case "escalated":
            return tried + up, tried + up
        case _:
            return min(tried, straight, key=lambda usd: float(usd.sum())), tried + up


def going_up(row: Replayed, prices: Prices) -> Floats:
    """What tier-2 and its check cost: the ticket's own figures, if it got there."""
    ticket = row.ticket
    if ticket.shipped:
        check, answer = _price(prices.tier2_check, ticket.category), _price(prices.tier2, ticket.category)
        return np.array([0.0, 0.0, check, answer, 0.0])
    return np.array([0.0, 0.0, ticket.spent.tier2_check_usd, ticket.spent.tier2_usd, 0.0])


def spent(row: Replayed) -> Floats:
    """What a ticket really cost, with the fate that it had."""
    own = row.ticket.spent
    draft, check, shadow = own.tier1_usd, own.tier1_check_usd, 0.0
    if row.fate == "straight":
        draft, check, shadow = 0.0, 0.0, draft + check
    return np.array([own.router_usd, draft, check + own.tier2_check_usd, own.tier2_usd, own.judge_usd + shadow])
