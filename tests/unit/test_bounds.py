"""The bounds hold: exact values, then simulation over many sets of labels with a known truth."""

from math import inf, isinf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from workers.learning.bounds import (
    certified,
    conformal_risk,
    judged,
    least_shipped,
    lower_bound,
    p_value,
    upper_bound,
)

ALPHA, DELTA, BAD_SHARE = 0.05, 0.1, 0.3
DRAWS = 2_000


def test_45_good_answers_prove_5_percent_at_90_percent() -> None:
    """0.95 to the 45th is the first below a tenth."""
    assert least_shipped(0.05, 0.1) == 45
    assert p_value(0, 45, 0.05) == pytest.approx(0.95**45)


def test_nothing_shipped_proves_nothing() -> None:
    """Without labels the p-value is 1 and the bound is 1."""
    assert p_value(0, 0, 0.05) == 1.0
    assert upper_bound(0, 0, 0.1) == 1.0
    assert lower_bound(0, 0, 0.1) == 0.0


def test_no_number_of_labels_proves_what_is_not_so() -> None:
    """As many bad answers as alpha allows are never proved."""
    assert least_shipped(0.05, 0.1, bad_share=0.05) is None


@given(st.integers(0, 50), st.integers(1, 200), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_test_passes_exactly_when_the_upper_bound_is_below_alpha(bad: int, good: int, delta: float) -> None:
    """Two views of one calculation."""
    n = bad + good
    bound = upper_bound(bad, n, delta)
    assert p_value(bad, n, min(1.0, bound + 1e-6)) <= delta
    assert p_value(bad, n, max(0.0, bound - 1e-6)) >= delta
    assert lower_bound(bad, n, delta) <= bad / n <= bound


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=8))
def test_the_tests_stop_at_the_first_that_fails(counts: list[tuple[int, int]]) -> None:
    """What comes after it is not looked at, however good."""
    proved = certified(counts, ALPHA, DELTA)
    assert all(p_value(*c, ALPHA) <= DELTA for c in counts[:proved])
    assert proved == len(counts) or p_value(*counts[proved], ALPHA) > DELTA


def test_too_few_labels_for_conformal_risk_ship_nothing() -> None:
    """18 labels can't speak of 5 %, whatever they say; 19 can."""
    none_bad = np.zeros(19, dtype=bool)
    assert conformal_risk(np.linspace(0, 1, 18), none_bad[:18], 0.05) == inf
    assert conformal_risk(np.linspace(0, 1, 19), none_bad, 0.05) == -inf


def test_a_judge_without_error_changes_nothing() -> None:
    """Nor costs it any of delta."""
    assert judged(0.05, 0.1, 0.0, 0.0) == (0.05, 0.1)


@pytest.mark.parametrize(("miss", "delta_miss"), [(1.0, 0.01), (0.1, 0.1), (-0.1, 0.0)])
def test_a_judge_who_proves_nothing_is_refused(miss: float, delta_miss: float) -> None:
    """Accepting every bad answer, or known too vaguely."""
    with pytest.raises(ValueError, match="judge"):
        judged(0.05, 0.1, miss, delta_miss)


class World:
    """Tickets whose scores tell good answers from bad ones with a known AUROC: two normal distributions."""

    def __init__(self, auroc: float, seed: int) -> None:
        self.shift = sqrt(2) * norm.ppf(auroc)
        self.rng = np.random.default_rng(seed)

    def labels(self, n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores and whether the answer is bad, (DRAWS, n)."""
        bad = self.rng.random((DRAWS, n)) < BAD_SHARE
        return self.rng.normal(size=bad.shape) + np.where(bad, 0.0, self.shift), bad

    def shipped(self, threshold: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of all tickets: the shares with a bad and with a good answer shipped."""
        return BAD_SHARE * norm.sf(threshold), (1 - BAD_SHARE) * norm.sf(threshold - self.shift)

    def risk(self, threshold: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of bad answers among those shipped; 0 where none is."""
        bad, good = self.shipped(threshold)
        return np.divide(bad, bad + good, out=np.zeros_like(bad), where=bad + good > 1e-12)


def learn_then_test(scores: NDArray[np.float64], bad: NDArray[np.bool_], grid: NDArray[np.float64]) -> float:
    """The loosest threshold that one set of labels proves; infinity if none."""
    counts = [(int((bad & (scores >= t)).sum()), int((scores >= t).sum())) for t in grid]
    start = next((i for i, (_, n) in enumerate(counts) if n >= 45), len(grid))
    proved = certified(counts[start:], ALPHA, DELTA)
    return float(grid[start + proved - 1]) if proved else inf


def plug_in(scores: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    """The loosest threshold at which these labels show no more than alpha."""
    order = np.argsort(-scores)
    allowed = np.flatnonzero(np.cumsum(bad[order]) <= ALPHA * np.arange(1, len(order) + 1))
    return float(scores[order][allowed[-1]]) if len(allowed) else inf


@pytest.mark.parametrize(("n", "auroc"), [(200, 0.95), (500, 0.8), (500, 0.95), (1_000, 0.7), (1_000, 0.9)])
def test_a_certificate_is_wrong_no_more_often_than_delta(n: int, auroc: float) -> None:
    """2,000 sets of labels, each with its own certificate, against the truth."""
    world = World(auroc, seed=n)
    grid = np.linspace(world.shift + 2.5, world.shift - 2.5, 21)
    thresholds = np.array([learn_then_test(s, b, grid) for s, b in zip(*world.labels(n), strict=True)])
    violations = float((world.risk(thresholds) > ALPHA).mean())
    assert violations <= DELTA + 3 * sqrt(DELTA * (1 - DELTA) / DRAWS)


def test_a_plug_in_threshold_is_wrong_in_about_half_of_the_runs() -> None:
    """Which is why there are certificates."""
    world = World(0.9, seed=1)
    thresholds = np.array([plug_in(s, b) for s, b in zip(*world.labels(500), strict=True)])
    assert (world.risk(thresholds) > ALPHA).mean() > 0.4


def test_with_enough_labels_most_runs_are_certified() -> None:
    """A test that never certifies would be safe and useless."""
    world = World(0.95, seed=2)
    grid = np.linspace(world.shift + 2.5, world.shift - 2.5, 21)
    thresholds = np.array([learn_then_test(s, b, grid) for s, b in zip(*world.labels(1_000), strict=True)])
    assert (~np.isinf(thresholds)).mean() > 0.95


@pytest.mark.parametrize("n", [50, 200, 1_000])
def test_conformal_risk_holds_on_average(n: int) -> None:
    """The share of all tickets with a bad answer shipped, over 2,000 sets of labels."""
    world = World(0.85, seed=n)
    thresholds = np.array([conformal_risk(s, b, ALPHA) for s, b in zip(*world.labels(n), strict=True)])
    risks = world.shipped(thresholds)[0]
    assert risks.mean() <= ALPHA + 3 * risks.std() / sqrt(DRAWS)
    assert not any(map(isinf, thresholds[:10]))


def test_a_judge_who_misses_bad_answers_is_allowed_for() -> None:
    """A judge who accepts a fifth of the bad answers breaks a bound that trusts it, and not one that knows."""
    world, miss, n = World(0.9, seed=3), 0.2, 1_000
    scores, bad = world.labels(n)
    called_bad = bad & (world.rng.random(bad.shape) >= miss)
    grid = np.linspace(world.shift + 2.5, world.shift - 2.5, 101)
    alpha, delta = judged(ALPHA, DELTA, miss, 0.0)

    def violations(alpha: float, delta: float) -> float:
        found = []
        for s, b in zip(scores, called_bad, strict=True):
            counts = [(int((b & (s >= t)).sum()), int((s >= t).sum())) for t in grid]
            start = next((i for i, (_, n) in enumerate(counts) if n >= 60), len(grid))
            proved = certified(counts[start:], alpha, delta)
            found.append(float(grid[start + proved - 1]) if proved else inf)
        return float((world.risk(np.array(found)) > ALPHA).mean())

    limit = DELTA + 3 * sqrt(DELTA * (1 - DELTA) / DRAWS)
    assert violations(alpha, delta) <= limit < violations(ALPHA, DELTA)
