"""The drift test: seldom wrong over a whole stream, quick after a shift, however late."""

from collections.abc import Iterable
from functools import reduce

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.learning.drift import (
    ODDS,
    DriftTest,
    EarlyWarning,
    audit_share,
    growth,
    observe,
    observe_check,
    unspent,
)

ALPHAS = st.floats(0.001, 0.999)


def watched(outcomes: Iterable[bool], alpha: float = 0.05, delta: float = 0.05) -> DriftTest:
    return reduce(observe, outcomes, DriftTest.start(alpha, delta))


def drawn(rate: float, tickets: int, seed: int) -> list[bool]:
    return (np.random.default_rng(seed).random(tickets) < rate).tolist()


def test_it_begins_with_a_fortune_of_one() -> None:
    """All of it unspent."""
    assert DriftTest.start(0.05).wealth == 1.0


@given(ALPHAS, st.sampled_from(ODDS))
def test_a_bet_is_fair_at_alpha(alpha: float, odds: float) -> None:
    """On average it multiplies money by 1 there, by less at a lower rate, and it never owes."""
    good, bad = growth(odds, alpha, False), growth(odds, alpha, True)
    assert alpha * bad + (1 - alpha) * good == pytest.approx(1)
    assert 0 < good < 1 < bad


@given(ALPHAS, st.lists(st.booleans(), max_size=60))
def test_the_fortune_is_a_martingale_at_alpha(alpha: float, past: list[bool]) -> None:
    """Whatever has happened, the next ticket leaves it where it is on average: all that Ville's inequality needs."""
    test = DriftTest.start(alpha, delta=1e-12)
    for bad in past:
        test = observe(test, bad)
    if not test.is_alarm:
        mean = alpha * observe(test, True).wealth + (1 - alpha) * observe(test, False).wealth
        assert mean == pytest.approx(test.wealth)


@given(st.integers(0, 10**9))
def test_what_is_unspent_falls_and_stays_positive(tickets: int) -> None:
    """So each ticket gets a share, and together no more than there is."""
    assert 0 < unspent(tickets + 1) < unspent(tickets) <= 1


def test_false_alarms_are_rarer_than_delta() -> None:
    """At a rate of alpha, over 1,000 tickets (benchmarks/drift.py: 10,000), with room for 3 sigma in 300 runs."""
    alarms = sum(watched(drawn(0.05, 1_000, seed)).is_alarm for seed in range(300))
    assert alarms / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


@pytest.mark.parametrize(("before", "rate", "within"), [(0, 0.3, 40), (500, 0.15, 300), (5_000, 0.3, 100)])
def test_a_shift_is_found(before: int, rate: float, within: int) -> None:
    """In 9 of 10 runs within so many tickets, however long the rate was half of alpha before."""
    found = 0
    for seed in range(30):
        calm = watched(drawn(0.025, before, seed))
        assert not calm.is_alarm
        found += reduce(observe, drawn(rate, within, 1_000 + seed), calm).is_alarm
    assert found >= 27


def test_an_alarm_stays() -> None:
    """Good answers afterwards don't take it back, and it keeps the ticket it was raised at."""
    alarmed = watched([True] * 10)
    assert alarmed.alarmed_at is not None
    assert reduce(observe, [False] * 500, alarmed) == alarmed


@given(st.lists(st.booleans(), max_size=40))
def test_a_test_survives_a_restart(outcomes: list[bool]) -> None:
    """Written as JSON and read again, it goes on as if nothing had been."""
    half = watched(outcomes[:20])
    read = msgspec.json.decode(msgspec.json.encode(half), type=DriftTest)
    assert reduce(observe, outcomes[20:], read) == watched(outcomes)


@pytest.mark.parametrize(("alpha", "delta"), [(0.0, 0.05), (1.0, 0.05), (0.05, 0.0), (0.05, 1.0)])
def test_a_test_of_nothing_is_refused(alpha: float, delta: float) -> None:
    """An alpha or a delta of 0 or 1 can't be tested."""
    with pytest.raises(ValueError, match="no test was started"):
        DriftTest.start(alpha, delta)


def test_refusals_as_usual_are_no_warning() -> None:
    """Over 2,000 drafts, in at least 57 of 60 runs, the calibration drawn anew each time."""
    false = 0
    for seed in range(60):
        warning = EarlyWarning.start(sum(drawn(0.3, 300, seed)), 300)
        false += reduce(observe_check, drawn(0.3, 2_000, 1_000 + seed), warning).is_warning
    assert false <= 3


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_more_or_fewer_refusals_are_a_warning(rate: float) -> None:
    """Within 300 drafts, where 300 of 1,000 were refused before."""
    warning = reduce(observe_check, drawn(0.3, 500, 1), EarlyWarning.start(300, 1_000))
    assert not warning.is_warning
    assert reduce(observe_check, drawn(rate, 300, 2), warning).is_warning


@pytest.mark.parametrize("refused", [0, 20])
def test_a_checker_that_refused_none_or_all_can_be_watched(refused: int) -> None:
    """Then only one side can change; the usual is still no warning."""
    warning = EarlyWarning.start(refused, 20)
    assert not reduce(observe_check, [refused == 20] * 200, warning).is_warning
    assert reduce(observe_check, [refused == 0] * 200, warning).is_warning


def test_no_drafts_can_not_be_compared_with() -> None:
    """A share of none is none."""
    with pytest.raises(ValueError, match="no warning was started"):
        EarlyWarning.start(0, 0)


def test_a_warning_raises_the_audits() -> None:
    """Five times as many, never more than all."""
    calm = EarlyWarning.start(30, 100)
    warned = reduce(observe_check, [True] * 200, calm)
    assert warned.is_warning
    assert audit_share(0.05, calm) == 0.05
    assert audit_share(0.05, warned) == pytest.approx(0.25)
    assert audit_share(0.5, warned) == 1.0
