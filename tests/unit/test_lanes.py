"""Which lane a topic is, and that the slow lane only ever takes what the live one leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import all_names
from streams.runtime.lanes import LATE_LOOP_S, Lane, backfill_room, lane_of, lateness

COUNTS = st.integers(0, 2000)
SECONDS = st.floats(0, 1e6)


def room(
    max_in_flight: int = 100,
    live: int = 0,
    backfill: int = 0,
    waiting: int = 0,
    oldest_s: float = 0.0,
    objective_s: float = 30.0,
    loop_late_s: float = 0.0,
) -> int:
    return backfill_room(
        max_in_flight=max_in_flight,
        live_in_flight=live,
        backfill_in_flight=backfill,
        live_waiting=waiting,
        oldest_live_s=oldest_s,
        objective_s=objective_s,
        loop_late_s=loop_late_s,
    )


@pytest.mark.parametrize(
    ("topic", "lane"),
    [("x-tickets", Lane.LIVE), ("x-tickets.backfill", Lane.BACKFILL), ("x-tickets.retry", Lane.RETRY)],
)
def test_a_lane_is_known_by_the_topics_name(topic: str, lane: Lane) -> None:
    """Whatever stands before it; a prefix with a lane's name changes nothing."""
    assert lane_of(topic) is lane
    assert lane_of(f"my.retry.backfill-{topic}") is lane


def test_only_twins_are_slow() -> None:
    """Every topic of the table without a twin's name is live."""
    twins = {name for name, topic in all_names("p-").items() if name != "p-" + topic.name}
    assert {name for name in all_names("p-") if lane_of(name) is not Lane.LIVE} == twins


@given(COUNTS, COUNTS, COUNTS, st.integers(1, 2000), SECONDS)
def test_live_records_that_wait_go_first(
    max_in_flight: int, live: int, backfill: int, waiting: int, oldest_s: float
) -> None:
    """However many slots are free, and however young they are."""
    assert room(max_in_flight, live, backfill, waiting, oldest_s) == 0


@given(COUNTS, COUNTS, COUNTS, SECONDS, SECONDS)
def test_nothing_slow_begins_while_live_records_are_late(
    max_in_flight: int, live: int, backfill: int, objective_s: float, late_s: float
) -> None:
    """Late is older than the objective; just as old is not."""
    oldest_s = objective_s + late_s
    free = room(max_in_flight, live, backfill, oldest_s=oldest_s, objective_s=objective_s)
    assert free == (0 if oldest_s > objective_s else room(max_in_flight, live, backfill))


@given(st.integers(1, 2000), st.floats(0, 10))
def test_nothing_slow_begins_while_the_loop_is_late(max_in_flight: int, late_s: float) -> None:
    """However many slots are free: then processor time is what is missing."""
    assert (room(max_in_flight, loop_late_s=late_s) == 0) == (late_s > LATE_LOOP_S)


def test_a_loop_is_late_at_once_and_on_time_again_after_a_while() -> None:
    """Else the slow lane would begin between two hold-ups, and be the next one."""
    late_s = lateness(0.001, 0.2)
    assert late_s == 0.2
    ticks = 0
    while late_s > LATE_LOOP_S:
        late_s, ticks = lateness(late_s, 0.0), ticks + 1
    assert ticks == 4


@given(st.integers(1, 2000), COUNTS, COUNTS)
def test_a_quarter_stays_free_and_no_limit_is_passed(max_in_flight: int, live: int, backfill: int) -> None:
    """Whatever begins slow leaves a quarter of the slots for a live record that comes now."""
    free = room(max_in_flight, live, backfill)
    assert free >= 0
    assert not free or live + backfill + free + max_in_flight // 4 <= max_in_flight


@given(st.integers(1, 2000))
def test_an_idle_process_gives_backfill_the_rest(max_in_flight: int) -> None:
    """Down to a single slot: a process that takes one record at a time is not too small for the slow lane."""
    assert room(max_in_flight) == max_in_flight - max_in_flight // 4
    assert room(max_in_flight) > 0
