"""Thresholds of router and checker, solved together for each category, with the certificate that they rest on.

A pair of thresholds ships a ticket's tier-1 answer if p_ok and score reach them. Of all pairs that the labels prove to
ship at most a share alpha of bad answers, with probability 1 - delta, the one with the least expected cost is taken.
Where none is proved, nothing ships: the category stays in the shadow.

The pairs that are tried, and their order, come from scores alone, never from labels: checker thresholds from strict to
loose, each with the router threshold that costs least beside it. What a pair costs is known without labels, so there is
one chain of pairs, which has all of delta. That the scores are those of the same rows is harmless as long as looser
thresholds don't ship better answers.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.policy import CategoryPolicy, Certificate
from workers.learning.bounds import certified, judged, least_shipped

Floats = NDArray[np.float64]

STEPS = 12
"""Pairs of a chain at most: coarse, so that it doesn't break off at one unlucky label more."""

ROUTER_STEPS = 20
"""Router thresholds that are weighed beside a checker threshold."""

FIRST_BAD_SHARE = 0.25
"""Of alpha. A chain begins where so small a share of bad answers is proved by the labels there will be; stricter
thresholds ship too few to prove anything."""


class Row(NamedTuple):
    """A judged tier-1 draft: what router and checker made of it, and whether it was acceptable."""

    category: str
    p_ok: float
    score: float
    """0 where a gate refused the draft: it ships under no threshold."""
    acceptable: bool
    propensity: float = 1.0
    """Probability that the ticket's draft was judged."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked of the thresholds."""

    alpha: float = 0.05
    """Share of bad answers among those shipped that is tolerated."""
    delta: float = 0.1
    """Probability that a certificate is wrong."""
    tier1_usd: float = 0.00002
    """What a draft costs. Only its proportion to tier-2's price matters."""
    tier2_usd: float = 0.0011
    own_from: int = 300
    """Categories with fewer labels share a certificate (a guess: about what proves alpha at common bad shares)."""
    judge_miss: float = 0.0
    """Upper bound on the share of bad answers that the judge accepts, at confidence 1 - judge_delta."""
    judge_delta: float = 0.0
    audit_share: float = 0.05
    """Share of the tickets whose draft is judged, in categories that ship."""
    shadow_audit_share: float = 0.2
    """The same in the shadow, where labels are what is missing."""
    valid_for: timedelta | None = None


class Pair(NamedTuple):
    """Thresholds on p_ok and on the checker's score."""

    p_ok: float
    score: float


@dataclass(frozen=True, slots=True)
class Solved:
    """The thresholds of every category that has labels; whatever else comes has none, so it stays in the shadow."""

    categories: Mapping[str, CategoryPolicy]
    unseen: CategoryPolicy


def solve(rows: Sequence[Row], goal: Goal, now: datetime, seed: int = 0) -> Solved:
    """Solve each category that has labels enough by itself, and the others together.

    Rows must be a random sample of the tickets that tier-1 may answer, each with its own propensity. Where these
    differ, rows are dropped at random until all are equal: exact tails need labels that count alike.

    Raises: ValueError as `judged`.
    """
    labels = Counter(row.category for row in rows)
    own = [category for category, count in labels.items() if count >= goal.own_from]
    pool = tuple(sorted(category for category in labels if category not in own))
    found = {category: _solved([r for r in rows if r.category == category], goal, (), now, seed) for category in own}
    if pool:
        together = _solved([r for r in rows if r.category in pool], goal, pool, now, seed)
        found |= dict.fromkeys(pool, together)
    return Solved(dict(sorted(found.items())), _shadow(0, None, goal))


def _solved(rows: Sequence[Row], goal: Goal, pooled: tuple[str, ...], now: datetime, seed: int) -> CategoryPolicy:
    alike = thinned(rows, random.Random(seed))
    p_ok, scores = np.array([r.p_ok for r in alike]), np.array([r.score for r in alike])
    bad = np.array([not r.acceptable for r in alike])
    alpha, delta = judged(goal.alpha, goal.delta, goal.judge_miss, goal.judge_delta)
    pairs = chain(p_ok, scores, goal)
    passed = certified([_count(pair, p_ok, scores, bad) for pair in pairs], alpha, delta)
    if not passed:
        return _shadow(len(alike), _missing(pairs, p_ok, scores, bad, alpha, delta), goal)
    best = min(pairs[:passed], key=lambda pair: _cost_usd(pair, p_ok, scores, goal))
    wrong, shipped = _count(best, p_ok, scores, bad)
    certificate = Certificate(
        method="learn_then_test",
        alpha=goal.alpha,
        delta=goal.delta,
        labels=len(alike),
        shipped=shipped,
        bad=wrong,
        # Not the exact tail of this pair: labels chose it among those proved, and alpha is what was proved of it.
        upper_bound=goal.alpha,
        judge_miss=goal.judge_miss,
        pooled=pooled,
        solved_at=now,
        valid_until=now + goal.valid_for if goal.valid_for else None,
    )
    return CategoryPolicy(
        p_ok_threshold=best.p_ok,
        score_threshold=best.score,
        labels=len(alike),
        bad_among_shipped=wrong,
        shipped=shipped,
        certificate=certificate,
        audit_share=goal.audit_share,
    )


def thinned(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    """Rows of one propensity, the least there is: each is kept with probability least / its own."""
    least = min(row.propensity for row in rows)
    return [row for row in rows if row.propensity == least or rng.random() < least / row.propensity]


def chain(p_ok: Floats, scores: Floats, goal: Goal) -> list[Pair]:
    """The pairs to test on scores (n,), strict to loose; none where so many rows can prove nothing."""
    alpha, delta = judged(goal.alpha, goal.delta, goal.judge_miss, goal.judge_delta)
    first = least_shipped(alpha, delta, FIRST_BAD_SHARE * alpha)
    falling = np.sort(scores[scores > 0])[::-1]
    if first is None or first > len(falling):
        return []
    places = np.unique(np.linspace(first, len(falling), STEPS).astype(int)) - 1
    limits = np.unique(np.append(np.quantile(p_ok, np.linspace(0, 1, ROUTER_STEPS, endpoint=False)), 0.0))
    pairs = []
    for score in sorted({float(falling[place]) for place in places}, reverse=True):
        beside = [Pair(float(limit), score) for limit in limits]
        cheapest = min(beside, key=lambda pair: _cost_usd(pair, p_ok, scores, goal))
        # Where a try is dear, a strict checker is best left without tickets: so few prove nothing.
        if ((p_ok >= cheapest.p_ok) & (scores >= score)).sum() >= first:
            pairs.append(cheapest)
    return pairs


def _count(pair: Pair, p_ok: Floats, scores: Floats, bad: NDArray[np.bool_]) -> tuple[int, int]:
    """Bad answers among those shipped, and those shipped."""
    ships = (p_ok >= pair.p_ok) & (scores >= pair.score)
    return int((ships & bad).sum()), int(ships.sum())


def _cost_usd(pair: Pair, p_ok: Floats, scores: Floats, goal: Goal) -> float:
    """Of a ticket, on average. Router and checker cost the same whatever they decide."""
    tried = p_ok >= pair.p_ok
    ships = tried & (scores >= pair.score)
    return float(tried.mean() * goal.tier1_usd + (1 - ships.mean()) * goal.tier2_usd)


def _missing(
    pairs: Sequence[Pair], p_ok: Floats, scores: Floats, bad: NDArray[np.bool_], alpha: float, delta: float
) -> int | None:
    """About how many more labels would prove a pair, if its bad share stays what it is; None if nobody can tell."""
    if not pairs:
        # Not even the first test can be made: what it needs at the least.
        return max(1, (least_shipped(alpha, delta, FIRST_BAD_SHARE * alpha) or 0) - int((scores > 0).sum()))
    needed = []
    for pair in pairs:
        wrong, shipped = _count(pair, p_ok, scores, bad)
        if (enough := least_shipped(alpha, delta, wrong / shipped)) is not None:
            needed.append(round(enough / shipped * len(p_ok)))
    return max(1, min(needed) - len(p_ok)) if needed else None


def _shadow(labels: int, missing: int | None, goal: Goal) -> CategoryPolicy:
    return CategoryPolicy(
        p_ok_threshold=1.0,
        score_threshold=1.0,
        state="shadow",
        labels=labels,
        labels_missing=missing,
        audit_share=goal.shadow_audit_share,
    )
