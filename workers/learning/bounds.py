"""What labels prove about the answers that would be shipped: exact bounds on the share of bad ones.

Three promises, from strict to mild; `alpha` is the share of bad answers that is tolerated:

- Learn-then-Test: with probability 1 - delta over the labels, at most a share alpha of the answers shipped is bad.
- Conformal risk control: on average over labels, at most a share alpha of all tickets gets a bad answer shipped.
- A plug-in threshold, the loosest at which the labels themselves show no more than alpha, promises nothing: it picks
  the luckiest of many, and about every second one is over alpha (tests/unit/test_bounds.py).

All rest on labels that are a random sample of the tickets they speak for.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

# scipy.stats is imported where it is used: it takes a second of processor time, and every command imports this module.


def p_value(bad: int, shipped: int, alpha: float) -> float:
    """How likely so few bad answers among those shipped would be, if a share alpha of them or more were bad.

    Exact: each label of a shipped answer is a draw with one probability. 1 where nothing was shipped.
    """
    from scipy.stats import binom

    return float(binom.cdf(bad, shipped, alpha))


def upper_bound(bad: int, shipped: int, delta: float) -> float:
    """With probability 1 - delta, the share of bad answers is not above this. Source: Clopper and Pearson, 1934."""
    from scipy.stats import beta

    return 1.0 if bad >= shipped else float(beta.ppf(1 - delta, bad + 1, shipped - bad))


def lower_bound(bad: int, shipped: int, delta: float) -> float:
    """With probability 1 - delta, the share of bad answers is not below this. Source: Clopper and Pearson, 1934."""
    from scipy.stats import beta

    return 0.0 if bad == 0 else float(beta.ppf(delta, bad, shipped - bad + 1))


def least_shipped(alpha: float, delta: float, bad_share: float = 0.0) -> int | None:
    """About how many labels of shipped answers prove alpha at confidence 1 - delta, if a share `bad_share` is bad.

    Exact for a share of 0; else a few less or more may do, since bad answers come whole. None if no number does, or
    none below a million.
    """
    if bad_share >= alpha:
        return None
    low, high = 1, 1
    while p_value(ceil(bad_share * high), high, alpha) > delta:
        low, high = high, 2 * high
        if high > 1_000_000:
            return None
    while low < high:
        middle = (low + high) // 2
        if p_value(ceil(bad_share * middle), middle, alpha) > delta:
            low = middle + 1
        else:
            high = middle
    return high


def certified(counts: Sequence[tuple[int, int]], alpha: float, delta: float) -> int:
    """How many thresholds of a sequence, from its start, are proved: the tests stop at the first that fails.

    `counts` are (bad, shipped) at each threshold. The sequence must not have been chosen by the labels. The chance
    that any of those returned ships more than a share alpha of bad answers is at most delta: for that, the first such
    threshold in the sequence must pass its own test, and it passes with probability delta at most.

    Source: Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test", 2021 (fixed sequence testing).
    """
    for index, (bad, shipped) in enumerate(counts):
        if p_value(bad, shipped, alpha) > delta:
            return index
    return len(counts)


def conformal_risk(scores: NDArray[np.float64], bad: NDArray[np.bool_], alpha: float) -> float:
    """The least threshold on scores, both (n,), that keeps the share of tickets with a bad answer shipped to alpha.

    That holds on average over the labels and the next ticket, not among the answers shipped: the loss must fall as the
    threshold rises, and "bad among shipped" need not. Infinity where the labels are too few: nothing ships.

    Source: Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control", 2022.
    """
    allowed = alpha * (len(scores) + 1) - 1
    if allowed < 0:
        return float("inf")
    falling = np.sort(scores[bad])[::-1]
    if len(falling) <= allowed:
        return float("-inf")
    # The first bad answer that may not be shipped any more: the threshold lies just above it.
    return float(np.nextafter(falling[int(allowed)], np.inf))


def judged(alpha: float, delta: float, miss: float, delta_miss: float) -> tuple[float, float]:
    """The (alpha, delta) to test a judge's labels at, so that the promise holds for the truth.

    `miss` is an upper bound, at confidence 1 - delta_miss, on the share of bad answers that the judge accepts. If a
    share r of the shipped answers is bad, the judge calls at least r (1 - miss) of them bad; so whoever proves that
    the judged share is at most alpha (1 - miss) has proved r <= alpha. Both statements fail with probability delta at
    most, by the union bound. Good answers that the judge refuses only make the bound stricter.

    Raises: ValueError if delta_miss leaves nothing of delta, or the judge accepts every bad answer.
    """
    if not 0 <= delta_miss < delta:
        raise ValueError(f"the judge's own error is known at {delta_miss:g}, which leaves nothing of delta {delta:g}")
    if not 0 <= miss < 1:
        raise ValueError(f"a judge who accepts a share {miss:g} of the bad answers proves nothing")
    return alpha * (1 - miss), delta - delta_miss
