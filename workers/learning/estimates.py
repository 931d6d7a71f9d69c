"""The share of good answers among all, from those that happened to be judged, each with its own chance of that.

For the scoreboard and for replays: one figure with its interval, no promise. Promises are in `bounds`.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

from msgspec import Struct


class Estimate(Struct, frozen=True, kw_only=True):
    """A share with its interval."""

    value: float
    low: float
    high: float
    n: int
    """Answers judged."""
    effective_n: float
    """How many answers, judged with one propensity, would say as much."""


def share(outcomes: Sequence[bool], propensities: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The share of true outcomes among all answers, each weighted by the inverse of its chance to be judged (Hajek).

    The interval is Wilson's for `effective_n` answers: with equal propensities just Wilson's, and it keeps its width
    where all outcomes are good, which a normal one does not. The effective number is the lesser of two: Kish's, by
    the weights alone, and the one that has the estimate's own variance; so where bad answers are judged more often
    than good ones it is wider than it need be. It is approximate: where rare bad answers are also rarely judged, it is
    wrong more often than it says.

    Source: Wilson, 1927; Kish, "Survey Sampling", 1965; for the effective number, Korn and Graubard, 1998.

    Raises: ValueError if there are no outcomes, not as many propensities, or one outside (0, 1].
    """
    if not outcomes or len(outcomes) != len(propensities):
        raise ValueError(f"{len(outcomes)} outcomes with {len(propensities)} propensities have no share")
    if not all(0 < p <= 1 for p in propensities):
        raise ValueError("a propensity outside (0, 1]: what can't be judged has no weight")
    return weighted_share(outcomes, [1 / p for p in propensities], confidence)


def weighted_share(outcomes: Sequence[bool], weights: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The same by weights above 0, as many as outcomes: of dollars, say, where a ticket weighs what it cost."""
    total = sum(weights)
    # Rounding may put a share of ones just past 1.
    value = min(1.0, sum(w for w, o in zip(weights, outcomes, strict=True) if o) / total)
    effective_n = total**2 / sum(w * w for w in weights)
    variance = sum((w * (o - value)) ** 2 for w, o in zip(weights, outcomes, strict=True)) / total**2
    if 0 < value < 1:
        effective_n = min(effective_n, value * (1 - value) / variance)
    low, high = wilson(value, effective_n, confidence)
    return Estimate(value=value, low=low, high=high, n=len(outcomes), effective_n=effective_n)


def wilson(value: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval for a share among n."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    # At 0 and 1 exactly these, which rounding misses.
    return 0.0 if value == 0 else max(0.0, middle - half), 1.0 if value == 1 else min(1.0, middle + half)
