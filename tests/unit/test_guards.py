"""The guards on a candidate: what is slower or dearer is found, and noise is not."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from workers.learning.guards import Comparison, Guards, Journey, compare, is_dearer, is_slower

START = datetime(2026, 11, 1, tzinfo=UTC)
LATER = START + timedelta(days=1)
RUNS = 250

Draw = Callable[[Generator, int], NDArray[np.float64]]


def ages(rng: Generator, n: int) -> NDArray[np.float64]:
    return rng.lognormal(0.5, 0.6, n)


def two_prices(rng: Generator, n: int) -> NDArray[np.float64]:
    """Three tickets in ten go to tier-2, fifty times as dear."""
    return np.where(rng.random(n) < 0.3, 0.001, 0.00002)


def long_tailed(rng: Generator, n: int) -> NDArray[np.float64]:
    return rng.lognormal(-7, 1.0, n)


def journeys(times: NDArray[np.float64], costs: NDArray[np.float64]) -> list[Journey]:
    """One a second."""
    rows = zip(times.tolist(), costs.tolist(), strict=True)
    return [Journey(START + timedelta(seconds=n), cost, age) for n, (age, cost) in enumerate(rows)]


def a_trial(rng: Generator, n: int = 800, slower: float = 1.0, dearer: float = 1.0, costs: Draw = two_prices) -> int:
    """Tickets until a candidate is found out, that is `slower` and `dearer` than allowed; 0 if it isn't. Looks as they
    come, on all tickets until then."""
    guards = Guards()
    tried = journeys(guards.max_latency_ratio * slower * ages(rng, n), guards.max_cost_ratio * dearer * costs(rng, n))
    beside = journeys(ages(rng, n), costs(rng, n))
    for seen in (100, 200, 400, 800):
        if compare(tried[:seen], beside[:seen], guards, LATER).breaches:
            return seen
    return 0


@pytest.mark.parametrize("costs", [two_prices, long_tailed])
def test_noise_rolls_no_candidate_back(costs: Draw) -> None:
    """Just as slow and dear as is allowed, the worst case, at all looks and by both guards: no more than delta."""
    rng = np.random.default_rng(5)
    alarms = sum(a_trial(rng, costs=costs) > 0 for _ in range(RUNS))
    delta = Guards().delta
    assert alarms <= RUNS * delta + 3 * (RUNS * delta * (1 - delta)) ** 0.5


def test_a_candidate_as_fast_and_cheap_as_the_policy_in_force_never_falls() -> None:
    """The ratios leave it room."""
    rng = np.random.default_rng(6)
    assert not any(a_trial(rng, slower=1 / 1.5, dearer=1 / 1.5) for _ in range(100))


def test_a_candidate_twice_as_slow_is_found_within_some_hundreds_of_tickets() -> None:
    """At a ratio of 1.5; and one three times as slow at the first look."""
    rng = np.random.default_rng(7)
    found = [a_trial(rng, slower=2 / 1.5) for _ in range(40)]
    assert np.mean([0 < n <= 400 for n in found]) > 0.8
    assert np.mean([a_trial(rng, slower=2.0) == 100 for _ in range(40)]) > 0.8


def test_a_candidate_twice_as_dear_is_found() -> None:
    """Whatever its latency."""
    rng = np.random.default_rng(8)
    assert np.mean([a_trial(rng, slower=0.5, dearer=2 / 1.5) > 0 for _ in range(40)]) > 0.8


def test_before_the_first_look_nothing_is_said() -> None:
    """However slow it is: so few prove nothing."""
    slow = journeys(np.full(99, 100.0), np.full(99, 1.0))
    usual = journeys(np.full(99, 1.0), np.full(99, 0.1))
    assert compare(slow, usual, Guards(), LATER) == Comparison()


def test_a_look_is_on_exactly_the_first_tickets() -> None:
    """In the order in which they came, whenever they are looked at."""
    rng = np.random.default_rng(9)
    tried, beside = (journeys(ages(rng, 399), two_prices(rng, 399)) for _ in "ab")
    first = compare(tried[:200], beside[:200], Guards(), LATER)
    assert (first.tickets, first.control, first.is_complete) == (200, 200, True)
    assert compare(tried[::-1], beside[::-1], Guards(), LATER) == first


def test_tickets_under_way_count_for_the_candidate_until_they_are_late() -> None:
    """A candidate that answers nothing at all is found out by the clock."""
    beside = journeys(np.full(200, 2.0), np.full(200, 0.1))
    stuck = [Journey(each.came_at, 0.0, None) for each in beside]
    last = beside[-1].came_at
    assert not compare(stuck, beside, Guards(), START + timedelta(seconds=2)).breaches
    late = compare(stuck, beside, Guards(), last + timedelta(seconds=60))
    assert late.breaches[0].startswith("its p95 is")
    assert not late.is_complete


def test_a_policy_in_force_that_answers_nothing_condemns_no_candidate() -> None:
    """A provider that is away is no difference between two policies."""
    stuck = [Journey(START + timedelta(seconds=n), 0.0, None) for n in range(200)]
    assert not compare(stuck, stuck, Guards(), LATER).breaches


def test_a_ratio_of_infinity_asks_nothing() -> None:
    """So either guard can be turned off."""
    assert not is_slower([100.0] * 500, [1.0] * 500, inf, 0.05)
    assert not is_dearer([100.0, 101.0] * 500, [1.0, 1.1] * 500, inf, 0.05)


def test_without_tickets_beside_it_a_candidate_is_not_compared() -> None:
    """All tickets are its own."""
    alone = compare(journeys(np.full(200, 9.0), np.full(200, 1.0)), [], Guards(), LATER)
    assert (alone.breaches, alone.latency_ratio, alone.is_complete) == ((), None, False)
