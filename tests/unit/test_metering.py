"""The busy meter: an engine's busy time is shared out, all of it, once. And what a share of it, or a token, costs."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.generations import Usage
from workers.tier1.metering import BusyMeter, Costs, Prices

SPANS = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 100)), min_size=1, max_size=20)
USAGE = Usage(prompt_tokens=2_000, completion_tokens=100, cached_tokens=1_500)
PROMPT, COMPLETION = "usd_per_million_prompt_tokens", "usd_per_million_completion_tokens"


@given(SPANS)
def test_shares_add_up_to_the_busy_time(spans: list[tuple[float, float]]) -> None:
    """However requests overlap, nobody pays for an idle engine and no second is paid twice."""
    ends = [(start, start + length) for start, length in spans]
    steps = sorted(
        [(start, 0, i) for i, (start, _) in enumerate(ends)] + [(end, 1, i) for i, (_, end) in enumerate(ends)]
    )
    meter = BusyMeter()
    marks: dict[int, float] = {}
    shares: list[float] = []
    for now, is_end, request in steps:
        if is_end:
            shares.append(meter.stop(marks[request], now))
        else:
            marks[request] = meter.start(now)
    busy_s, until = 0.0, -math.inf
    for start, end in sorted(ends):
        busy_s += max(0.0, end - max(start, until))
        until = max(until, end)
    assert all(share >= -1e-9 for share in shares)
    assert math.isclose(sum(shares), busy_s, rel_tol=1e-9, abs_tol=1e-6)


def test_requests_at_the_same_time_share_equally() -> None:
    """Two that run side by side for 10 s cost 5 s each."""
    meter = BusyMeter()
    first, second = meter.start(0.0), meter.start(0.0)
    assert meter.stop(first, 10.0) == 5.0
    assert meter.stop(second, 10.0) == 5.0


def test_an_idle_engine_costs_nobody_anything() -> None:
    """The time between two requests is not theirs."""
    meter = BusyMeter()
    meter.stop(meter.start(0.0), 1.0)
    assert meter.stop(meter.start(100.0), 102.0) == 2.0


def test_an_hour_of_the_engine_costs_its_price() -> None:
    """Busy time times dollars an hour, whatever the tokens."""
    costs = Prices(usd_per_hour=1.8).costs(2.0, USAGE)
    assert costs == Costs(cost_usd=0.001, per_hour_usd=0.001, per_token_usd=None)


def test_both_costs_are_known_and_the_setting_names_the_one_that_counts() -> None:
    """2,000 prompt tokens at $0.50 and 100 at $2 a million; cached ones cost as much."""
    for cost, counts in (("hour", 0.001), ("token", 0.0012)):
        prices = msgspec.convert({"cost": cost, "usd_per_hour": 1.8, PROMPT: 0.5, COMPLETION: 2.0}, Prices)
        assert prices.costs(2.0, USAGE) == Costs(counts, 0.001, 0.0012)


@pytest.mark.parametrize(
    ("given_usd", "missing"), [({}, PROMPT), ({PROMPT: 1.0}, COMPLETION), ({COMPLETION: 1.0}, PROMPT)]
)
def test_a_cost_by_token_needs_both_prices(given_usd: dict[str, float], missing: str) -> None:
    """At start, by the setting's name."""
    with pytest.raises(ValueError, match=rf"tier1\.{missing}"):
        Prices(cost="token", usd_per_hour=1.0, **given_usd)
