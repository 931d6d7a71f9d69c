"""Hedging: late, rarely, and never as a storm."""

from hypothesis import given
from hypothesis import strategies as st

from workers.tier2.hedging import CALLS_PER_HEDGE, ENOUGH, MOST_SAVED, Hedge


def hedge(calls: int, latencies: int) -> Hedge:
    """After so many calls and, of them, answers: the n-th took n seconds."""
    made = Hedge()
    for _ in range(calls):
        made.called()
    for n in range(1, latencies + 1):
        made.took(float(n))
    return made


def test_the_wait_is_the_95th_percentile_of_the_latest_answers() -> None:
    """Of a hundred the 95th; older ones than two hundred are forgotten."""
    assert hedge(100, 100).after_s() == 95.0
    assert hedge(400, 400).after_s() == 390.0


def test_few_latencies_say_nothing() -> None:
    """One short of enough: no hedge."""
    assert hedge(100, ENOUGH - 1).after_s() is None
    assert hedge(100, ENOUGH).after_s() is not None


def test_a_calm_time_saves_only_a_few_hedges() -> None:
    """After thousands of calls a slow provider gets the saved hedges at once, and no more."""
    made = hedge(10_000, ENOUGH)
    assert [made.hedged() for _ in range(MOST_SAVED + 1)] == [True] * MOST_SAVED + [False]
    assert made.after_s() is None


@given(st.lists(st.booleans(), max_size=400))
def test_hedges_are_5_percent_of_the_calls_at_most(wanted: list[bool]) -> None:
    """However the wishes fall, the budget holds at every moment, the hedges' own calls included."""
    made, calls, hedges = Hedge(), 0, 0
    for wish in wanted:
        made.called()
        calls += 1
        if wish and made.hedged():
            made.called()
            calls, hedges = calls + 1, hedges + 1
        assert hedges * CALLS_PER_HEDGE <= calls
