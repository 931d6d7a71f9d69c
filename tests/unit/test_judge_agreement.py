"""How often a judge errs, with exact bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from workers.judge.agreement import Checked, agreement, share

DELTAS = st.floats(0.001, 0.4)


def _checked(accepted_good: int, refused_good: int, accepted_bad: int, refused_bad: int) -> list[Checked]:
    return [
        *[Checked(accepted=True, acceptable=True)] * accepted_good,
        *[Checked(accepted=False, acceptable=True)] * refused_good,
        *[Checked(accepted=True, acceptable=False)] * accepted_bad,
        *[Checked(accepted=False, acceptable=False)] * refused_bad,
    ]


def test_the_two_errors_are_counted_apart() -> None:
    """Each among the answers that it can happen to; kappa as in Cohen's formula: (0.85 - 0.62) / (1 - 0.62)."""
    found = agreement(_checked(70, 10, 5, 15), delta=0.05)
    assert (found.miss.count, found.miss.of, found.miss.rate) == (5, 20, 0.25)
    assert (found.false_alarm.count, found.false_alarm.of, found.false_alarm.rate) == (10, 80, 0.125)
    assert found.kappa == pytest.approx((0.85 - (0.8 * 0.75 + 0.2 * 0.25)) / (1 - (0.8 * 0.75 + 0.2 * 0.25)))


def test_without_bad_answers_a_judge_is_not_trusted() -> None:
    """A judge that was only shown good answers may accept everything."""
    found = agreement(_checked(100, 0, 0, 0), delta=0.05)
    assert (found.miss.rate, found.miss.low, found.miss.high, found.kappa) == (None, 0.0, 1.0, None)
    assert agreement([], delta=0.05).false_alarm.high == 1.0


def test_a_judge_without_errors_still_has_a_bound() -> None:
    """None missed of 59 is at most 5 % at 95 %: the rule of three, exactly."""
    assert agreement(_checked(1, 0, 0, 59), delta=0.05).miss.high == pytest.approx(1 - 0.05 ** (1 / 59))


@pytest.mark.parametrize(("counts", "kappa"), [((40, 0, 0, 10), 1.0), ((0, 25, 25, 0), -1.0), ((25, 25, 25, 25), 0.0)])
def test_kappa_is_one_for_the_same_word_and_nothing_for_chance(counts: tuple[int, int, int, int], kappa: float) -> None:
    """And below nothing for the contrary."""
    assert agreement(_checked(*counts), delta=0.05).kappa == kappa


@given(st.integers(0, 200), st.integers(0, 200), DELTAS)
def test_a_bound_is_where_the_tail_is_delta(count: int, more: int, delta: float) -> None:
    """At `high` so few would be seen with probability delta, at `low` so many: the definition."""
    found = share(count, count + more, delta)
    assert 0 <= found.low <= found.high <= 1
    if more:
        assert binom.cdf(count, found.of, found.high) == pytest.approx(delta, rel=1e-6)
    if count:
        assert binom.sf(count - 1, found.of, found.low) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("of", [1, 10, 100])
def test_a_bound_fails_no_more_often_than_delta(of: int) -> None:
    """Summed over all that can be seen, for any true share: no simulation."""
    delta, seen = 0.1, np.arange(of + 1)
    shares = [share(int(count), of, delta) for count in seen]
    low, high = np.array([s.low for s in shares]), np.array([s.high for s in shares])
    for true in np.linspace(0.005, 0.995, 100):
        chance = binom.pmf(seen, of, true)
        assert chance[high < true].sum() <= delta + 1e-9
        assert chance[low > true].sum() <= delta + 1e-9


@pytest.mark.parametrize(("count", "of", "delta"), [(2, 1, 0.1), (-1, 1, 0.1), (0, 1, 0.0), (0, 1, 0.5)])
def test_no_share_is_made_of_nonsense(count: int, of: int, delta: float) -> None:
    """The error names the values."""
    with pytest.raises(ValueError, match=f"{count} of {of} at delta {delta}"):
        share(count, of, delta)
