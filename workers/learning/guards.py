"""Is a candidate policy slower or dearer than the one in force? Pure: the tickets of both in, what is wrong out.

Chance decides which of the two a ticket is under, so whatever else slows tickets down or makes them dear meets both
alike. Whoever compared after every ticket would see a breach some day by luck: as in `review`, there are looks at
100, 200, 400, ... tickets of the candidate, on exactly the first so many, and they share delta.
"""

from collections.abc import Sequence
from datetime import datetime
from math import ceil, inf, isinf, sqrt
from statistics import NormalDist, fmean

import numpy as np
from msgspec import Struct

from workers.learning.review import looks, share_of

QUANTILE = 0.95
"""Of the ages: what a helpdesk promises is about its slow tickets."""

MOST_LOOKS = 8
"""At 100 tickets first, the last look is at 12,800: a candidate that has come so far is no longer on trial, and the
tickets of both need not be remembered any longer."""

FINISHED = 0.95
"""Costs are compared once so many of the tickets have all of theirs: the dear ones are also the late ones."""


class Guards(Struct, frozen=True, kw_only=True):
    """What is asked of a candidate. A ratio of infinity asks nothing."""

    max_latency_ratio: float = 1.5
    max_cost_ratio: float = 1.5
    delta: float = 0.05
    """Chance that a candidate within both ratios is ever called slower or dearer."""
    first_look: int = 100
    """Tickets of the candidate at the first look."""

    @property
    def most_tickets(self) -> int:
        """Later tickets of the candidate are not looked at."""
        return int(self.first_look * 2 ** (MOST_LOOKS - 1))


class Journey(Struct, frozen=True):
    """One ticket's way through the stages."""

    came_at: datetime
    cost_usd: float
    """By all stages so far."""
    age_s: float | None
    """When it was answered or handed off; None if it was neither yet."""


class Comparison(Struct, frozen=True, kw_only=True):
    """A look: what the tickets of both say."""

    tickets: int = 0
    """Of the candidate, on which the look is; 0 before the first."""
    control: int = 0
    """Of the policy in force, that came in the same time."""
    latency_ratio: float | None = None
    """Of the two 95 % quantiles, as they are seen: an estimate, not a bound."""
    cost_ratio: float | None = None
    """Of the two means. None, as above, before there is anything to tell."""
    breaches: tuple[str, ...] = ()
    """For people; empty if nothing is proved against the candidate."""
    is_complete: bool = False
    """Whether nearly all of these tickets are finished, so that both guards were asked."""


def compare(candidate: Sequence[Journey], control: Sequence[Journey], guards: Guards, now: datetime) -> Comparison:
    """The latest look at a candidate's tickets beside those of the policy in force.

    To ask again while the last tickets of a look are under way is no look more: until they are finished, they count in
    the candidate's favour.
    """
    look = min(looks(len(candidate), guards.first_look), MOST_LOOKS)
    if not look:
        return Comparison()
    tried = sorted(candidate, key=_came_at)[: guards.first_look * 2 ** (look - 1)]
    beside = [each for each in control if tried[0].came_at <= each.came_at <= tried[-1].came_at]
    delta = guards.delta * share_of(look) / 2
    ages = [_age_so_far(each, now) for each in tried]
    # An unfinished ticket of the policy in force may become as old as it likes.
    usual_ages = [inf if each.age_s is None else each.age_s for each in beside]
    costs, usual_costs = _costs(tried), _costs(beside)
    is_complete = bool(beside) and len(costs) >= FINISHED * len(tried) and len(usual_costs) >= FINISHED * len(beside)
    latency, cost = ratio(_quantile(ages), _quantile(usual_ages)), ratio(_mean(costs), _mean(usual_costs))
    breaches = []
    if latency is not None and is_slower(ages, usual_ages, guards.max_latency_ratio, delta):
        breaches.append(f"its p95 is {latency:.2f} times the usual one; {guards.max_latency_ratio:g} is allowed")
    if is_complete and cost is not None and is_dearer(costs, usual_costs, guards.max_cost_ratio, delta):
        breaches.append(f"a ticket costs {cost:.2f} times the usual; {guards.max_cost_ratio:g} is allowed")
    return Comparison(
        tickets=len(tried),
        control=len(beside),
        latency_ratio=latency,
        cost_ratio=cost if is_complete else None,
        breaches=tuple(breaches),
        is_complete=is_complete,
    )


def is_slower(ages: Sequence[float], usual: Sequence[float], ratio: float, delta: float) -> bool:
    """Whether more ages lie above `ratio` times the usual ones' 95 % quantile than chance explains.

    A precedence test: if ages are distributed as `ratio` times the usual ones, or lie below, then how many of them
    exceed the k-th of those is beta-binomial, whatever the distribution. So the chance of a yes is delta at most.

    Source: Nelson, "Tables for a precedence life test", 1963.
    """
    # A second of processor time, and every command imports this module.
    from scipy.stats import betabinom

    if not ages or not usual:
        return False
    k = ceil(QUANTILE * len(usual))
    limit = ratio * sorted(usual)[k - 1]
    above = sum(age > limit for age in ages)
    return float(betabinom.sf(above - 1, len(ages), len(usual) - k + 1, k)) <= delta


def is_dearer(costs: Sequence[float], usual: Sequence[float], ratio: float, delta: float) -> bool:
    """Whether the mean cost is above `ratio` times the usual one, by Welch's test for large samples.

    Approximate: with some hundreds of tickets the simulation in tests/unit/test_guards.py finds no more false alarms
    than delta, for costs that are nearly nothing or a frontier model's, and for long-tailed ones.
    """
    if min(len(costs), len(usual)) < 2 or isinf(ratio):
        return False
    error = sqrt(np.var(costs, ddof=1) / len(costs) + ratio**2 * np.var(usual, ddof=1) / len(usual))
    return fmean(costs) - ratio * fmean(usual) > NormalDist().inv_cdf(1 - delta) * error


def ratio(one: float | None, other: float | None) -> float | None:
    """None where there is none."""
    return one / other if one is not None and other and not isinf(other) else None


def _came_at(journey: Journey) -> datetime:
    return journey.came_at


def _age_so_far(journey: Journey, now: datetime) -> float:
    return (now - journey.came_at).total_seconds() if journey.age_s is None else journey.age_s


def _costs(journeys: Sequence[Journey]) -> list[float]:
    return [each.cost_usd for each in journeys if each.age_s is not None]


def _quantile(values: Sequence[float]) -> float | None:
    return sorted(values)[ceil(QUANTILE * len(values)) - 1] if values else None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
