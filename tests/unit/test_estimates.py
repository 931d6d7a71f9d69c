"""The share of good answers from those judged: unbiased by who was judged, with an interval that covers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.learning.estimates import share, wilson

JUDGED = st.lists(st.tuples(st.booleans(), st.floats(0.01, 1.0)), min_size=1, max_size=60)


def test_equal_propensities_give_wilsons_interval() -> None:
    """Whatever the propensity: 90 of 100 is 0.826 to 0.945, as in the textbooks."""
    found = share([True] * 90 + [False] * 10, [0.05] * 100)
    assert (found.value, found.n) == (pytest.approx(0.9), 100)
    assert found.effective_n == pytest.approx(100)
    assert (found.low, found.high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


def test_who_is_seldom_judged_weighs_more() -> None:
    """One answer judged at 0.1 stands for ten, one judged at 1 for itself."""
    assert share([True, False], [0.1, 1.0]).value == pytest.approx(10 / 11)


def test_unequal_propensities_cost_effective_answers() -> None:
    """And so widen the interval."""
    outcomes = [True, True, True, False] * 50
    equal, unequal = share(outcomes, [0.5] * 200), share(outcomes, [0.9, 0.1] * 100)
    assert unequal.effective_n < 0.8 * equal.effective_n
    assert unequal.high - unequal.low > equal.high - equal.low


def test_all_good_still_has_a_width() -> None:
    """Thirty good answers don't prove that all are."""
    found = share([True] * 30, [0.2] * 30)
    assert found.high == 1.0
    assert 0.85 < found.low < 0.9


@given(JUDGED)
def test_the_interval_holds_the_value(judged: list[tuple[bool, float]]) -> None:
    """And both lie between 0 and 1, with no more effective answers than answers."""
    found = share([o for o, _ in judged], [p for _, p in judged])
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1
    assert 0 < found.effective_n <= found.n * (1 + 1e-9)


@given(JUDGED, st.floats(0.05, 0.95))
def test_more_confidence_is_wider(judged: list[tuple[bool, float]], confidence: float) -> None:
    """At every confidence."""
    outcomes, propensities = [o for o, _ in judged], [p for _, p in judged]
    narrow, wide = share(outcomes, propensities, confidence), share(outcomes, propensities, confidence + 0.04)
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@pytest.mark.parametrize("good_share", [0.8, 0.95])
@pytest.mark.parametrize("unequal", [False, True])
def test_the_interval_covers_the_truth_as_often_as_it_says(good_share: float, unequal: bool) -> None:
    """Also where bad answers are judged more often, and the naive share is far off; it may be too wide, not useless."""
    rng = np.random.default_rng(7)
    covered, naive = 0, []
    for _ in range(1_000):
        good = rng.random(3_000) < good_share
        propensity = (
            np.where(rng.random(3_000) < np.where(good, 0.3, 0.7), 0.3, 0.06) if unequal else np.full(3_000, 0.1)
        )
        judged = rng.random(3_000) < propensity
        found = share(good[judged].tolist(), propensity[judged].tolist())
        covered += found.low <= good_share <= found.high
        naive.append(good[judged].mean())
    assert 0.93 <= covered / 1_000 <= 0.995
    if unequal:
        assert np.mean(naive) < good_share - 0.015


@pytest.mark.parametrize(
    ("outcomes", "propensities"), [([], []), ([True], [0.5, 0.5]), ([True], [0.0]), ([True], [1.5])]
)
def test_what_has_no_share_is_refused(outcomes: list[bool], propensities: list[float]) -> None:
    """No outcomes, a missing propensity, or an impossible one."""
    with pytest.raises(ValueError, match=r"propensit"):
        share(outcomes, propensities)


def test_wilson_narrows_with_n() -> None:
    """By about ten for a hundred times the answers."""
    few, many = wilson(0.5, 100, 0.95), wilson(0.5, 10_000, 0.95)
    assert 9 < (few[1] - few[0]) / (many[1] - many[0]) < 11
