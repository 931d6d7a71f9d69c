"""Thresholds of router and checker, solved together for each category, with the certificate that they rest on.

A pair of thresholds ships a ticket's tier-1 answer if p_ok and score reach them. Of all pairs that the labels prove to
ship at most a share alpha of bad answers, with probability 1 - delta, the one with the least expected cost is taken.
Where none is proved, nothing ships: the category stays in the shadow.

The pairs that are tried, and their order, come from scores alone, never from labels: for each of a few router
thresholds a chain of checker thresholds from strict to loose, which shares delta with the other chains. That the scores
are those of the same rows is harmless as long as looser thresholds don't ship better answers.
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
from workers.learning.bounds import certified, judged, least_shipped, upper_bound

Floats = NDArray[np.float64]

TRIED_SHARES = (1.0, 0.75, 0.5)
"""The router thresholds let these shares of the tickets try tier-1. Few, since each takes its part of delta; and a try
is so cheap beside tier-2 that a finer choice would save nothing."""

STEPS = 12
"""Checker thresholds of a chain at most: coarse, so that a chain doesn't break off at one unlucky label more."""

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
    laid = chains(p_ok, scores, alpha, delta)
    proved: list[tuple[float, Pair]] = []
    for chain in laid:
        counts = [_count(pair, p_ok, scores, bad) for pair in chain]
        passed = certified(counts, alpha, delta / len(laid))
        proved += [(_cost_usd(pair, p_ok, scores, goal), pair) for pair in chain[:passed]]
    if not proved:
        return _shadow(len(alike), _missing(laid, p_ok, scores, bad, alpha, delta), goal)
    _, best = min(proved)
    wrong, shipped = _count(best, p_ok, scores, bad)
    # The bound that the chain's own part of delta gives: true of the pair taken, whichever it is.
    bound = upper_bound(wrong, shipped, delta / len(laid)) / (1 - goal.judge_miss)
    certificate = Certificate(
        method="learn_then_test",
        alpha=goal.alpha,
        delta=goal.delta,
        labels=len(alike),
        shipped=shipped,
        bad=wrong,
        upper_bound=min(goal.alpha, bound),
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


def chains(p_ok: Floats, scores: Floats, alpha: float, delta: float) -> list[list[Pair]]:
    """The pairs to test, (n,) scores in, strict to loose in each chain; none where the rows can prove nothing."""
    laid = []
    for share in TRIED_SHARES:
        limit = float(np.quantile(p_ok, 1 - share)) if share < 1 else 0.0
        tried = np.sort(scores[p_ok >= limit])[::-1]
        first = least_shipped(alpha, delta / len(TRIED_SHARES), FIRST_BAD_SHARE * alpha)
        if first is None or first > len(tried):
            continue
        places = np.unique(np.linspace(first, len(tried), STEPS).astype(int)) - 1
        strict_to_loose = sorted({float(tried[place]) for place in places if tried[place] > 0}, reverse=True)
        laid.append([Pair(limit, score) for score in strict_to_loose])
    return [chain for chain in laid if chain]


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
    laid: list[list[Pair]], p_ok: Floats, scores: Floats, bad: NDArray[np.bool_], alpha: float, delta: float
) -> int | None:
    """About how many more labels would prove a pair, if its bad share stays what it is; None if nobody can tell."""
    split = delta / len(TRIED_SHARES)
    if not laid:
        # Not even the first test can be made: what it needs at the least, with no bad answer at all.
        return max(1, (least_shipped(alpha, split, FIRST_BAD_SHARE * alpha) or 0) - len(p_ok))
    needed = []
    for pair in (pair for chain in laid for pair in chain):
        wrong, shipped = _count(pair, p_ok, scores, bad)
        if (enough := least_shipped(alpha, split, wrong / shipped)) is not None:
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
