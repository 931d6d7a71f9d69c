"""The busy meter: an engine's busy time is shared out, all of it, once."""

import math

from hypothesis import given
from hypothesis import strategies as st

from workers.tier1.metering import BusyMeter

SPANS = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 100)), min_size=1, max_size=20)


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
