"""The scoreboard's sums: windows, histograms, journeys, quality, and the summary made of them."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode, encode
from schemas.events import Event
from schemas.labels import Label
from schemas.tickets import TicketId
from streams.scoreboard.journeys import MOST_EVENTS, Journey, in_order, is_repeated, with_step
from streams.scoreboard.quality import Judged, in_force, judged, qualities
from streams.scoreboard.summary import summary
from streams.scoreboard.tally import Cell, CellKey, bucket, cell_of, key_of, merge, quantile_s, upper_s
from tests.scoreboard import count

AT = datetime(2026, 11, 24, 12, 1, tzinfo=UTC)
NOW_S = AT.timestamp() + 60


def an_event(number: int = 0, **fields: Any) -> Event:
    values: dict[str, Any] = {
        "event_id": f"checker/drafts/0/{number}",
        "at": AT,
        "stage": "checker",
        "outcome": "answered",
        "ticket_id": TicketId(f"t{number}"),
        "category": "orders",
        "tier": "tier1",
    }
    return Event(**values | fields)


OUTCOMES = ("routed", "drafted", "answered", "escalated", "handed_off", "dead_lettered", "duplicate")
EVENTS = st.lists(
    st.builds(
        an_event,
        st.integers(0, 1000),
        at=st.integers(0, 1200).map(lambda s: AT + timedelta(seconds=s)),
        stage=st.sampled_from(("router", "tier1", "tier2", "checker")),
        outcome=st.sampled_from(OUTCOMES),
        category=st.sampled_from(("orders", "returns")),
        tier=st.sampled_from(("tier1", "tier2")),
        reasons=st.lists(st.sampled_from(("shadow", "low_score", "truncated")), max_size=2).map(tuple),
        cost_usd=st.floats(0, 1),
        age_s=st.floats(0, 1e6),
    ),
    max_size=30,
    unique_by=lambda e: e.event_id,
)


@given(EVENTS, st.randoms())
def test_order_and_duplicates_change_nothing(events: list[Event], rng: random.Random) -> None:
    """Every sum is the same, to the last digit, in any order and however often an event comes."""
    others = events + rng.sample(events, len(events) // 2)
    rng.shuffle(others)
    assert count(others) == count(events)


@given(EVENTS, st.integers(0, 30))
def test_merging_is_counting(events: list[Event], at: int) -> None:
    """Two parts merged are the whole counted."""
    parts = [merge(cell_of(e) for e in part) for part in (events[:at], events[at:])]
    assert merge(parts) == merge(cell_of(e) for e in events)
    assert sum(cell.events for cell in count(events).values()) == len(events)


@given(EVENTS)
def test_cells_survive_the_codec(events: list[Event]) -> None:
    """A cell that was written to its changelog is read back as it was."""
    cell = merge(cell_of(e) for e in events)
    assert decode(Cell, encode(cell)) == cell


@given(st.lists(st.floats(0.002, 1e6), min_size=1), st.sampled_from((0.5, 0.95)))
def test_quantiles_are_one_bucket_exact(ages: list[float], share: float) -> None:
    """The quantile read from buckets is never below the true one, and less than a bucket above it."""
    counted: dict[int, int] = {}
    for age in ages:
        counted[bucket(age)] = counted.get(bucket(age), 0) + 1
    read = quantile_s(counted, share)
    true = sorted(ages)[max(1, -int(-share * len(ages) // 1)) - 1]
    assert read is not None
    assert true <= read * (1 + 1e-9)
    assert read <= true * 1.123


@pytest.mark.parametrize("age_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_age_that_is_none_ends_nothing(age_s: float) -> None:
    """Any float has a bucket."""
    assert upper_s(bucket(age_s)) > 0


def test_a_backfills_age_is_not_what_customers_wait() -> None:
    """Its answers and costs count like any."""
    cell = cell_of(an_event(age_s=9e5, cost_usd=0.5, replay_id="b-1"))
    assert (cell.answered, cell.ages, bool(cell.cost_pico)) == (1, {}, True)


def test_no_ages_have_no_quantile() -> None:
    """Without answers there is no latency, and not one of 0 s."""
    assert quantile_s({}, 0.5) is None


def test_an_escalation_is_tier1s_and_the_shadows_is_none() -> None:
    """Whoever reports it; a draft made for judging only was never to be shipped."""
    unavailable = an_event(1, stage="tier1", outcome="escalated", tier="tier2", reasons=("tier1_unavailable",))
    shadow = an_event(2, outcome="escalated", reasons=("shadow",))
    assert key_of(unavailable).tier == "tier1"
    assert (cell_of(unavailable).escalated, cell_of(unavailable).reasons) == (1, {"tier1_unavailable": 1})
    assert (cell_of(shadow).escalated, cell_of(shadow).shadowed, cell_of(shadow).reasons) == (0, 1, {})


def test_a_window_begins_at_its_first_second() -> None:
    """12:04:59 and 12:05:00 are counted apart."""
    last = an_event(at=datetime(2026, 11, 24, 12, 4, 59, 999999, tzinfo=UTC))
    first = an_event(at=datetime(2026, 11, 24, 12, 5, tzinfo=UTC))
    assert key_of(first).start_s - key_of(last).start_s == 300


def test_a_repeated_event_is_told_from_a_record_read_again() -> None:
    """After a crash a record comes at the offset that it had; a duplicate comes at one of its own."""
    journey = with_step(Journey(), 5, an_event(1))
    assert not is_repeated(journey, 5, an_event(1))
    assert is_repeated(journey, 6, an_event(1))
    assert not is_repeated(journey, 6, an_event(2))
    assert with_step(journey, 5, an_event(1)) == journey


def test_a_journey_is_bounded_and_in_the_order_of_events() -> None:
    """The latest steps are kept; they are shown as they happened, not as they were written."""
    journey = Journey()
    for n in range(MOST_EVENTS + 9):
        journey = with_step(journey, n, an_event(n, at=AT - timedelta(seconds=n)))
    assert len(journey.steps) == MOST_EVENTS
    assert [e.at for e in in_order(journey)] == sorted(step.event.at for step in journey.steps)


def a_label(**fields: Any) -> Label:
    values: dict[str, Any] = {
        "ticket_id": TicketId("t"),
        "category": "orders",
        "acceptable": True,
        "source": "judge",
        "propensity": 0.5,
        "at": AT,
        "shipped": True,
    }
    return Label(**values | fields)


def a_judged(offset: int = 0, **fields: Any) -> Judged:
    found = judged(a_label(**fields), offset)
    assert found is not None
    return found


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=8), st.randoms())
def test_the_latest_label_is_in_force(seconds: list[tuple[int, bool]], rng: random.Random) -> None:
    """In whatever order labels of one ticket are read."""
    labels = [a_judged(n, at=AT + timedelta(seconds=s), acceptable=ok) for n, (s, ok) in enumerate(seconds)]
    expected = max(labels, key=lambda label: (label.at, label.offset))
    rng.shuffle(labels)
    kept = None
    for label in labels:
        kept = in_force(kept, label)
    assert kept == expected


def test_quality_counts_audits_of_what_shipped() -> None:
    """By category and by tier; feedback chose itself, and what nobody got is no answer."""
    labels = [a_judged(n, acceptable=n > 0) for n in range(10)]
    labels += [a_judged(20, shipped=False, acceptable=False), a_judged(21, category="returns")]
    found = qualities(labels)
    assert found["orders", "tier1"].value == pytest.approx(0.9)
    assert found["orders", "tier1"].low < 0.9 < found["orders", "tier1"].high
    assert found["", "tier1"].n == 11
    assert judged(a_label(source="feedback"), 0) is None


def _tickets() -> list[Event]:
    """Three tickets: tier-1 answers one, escalates one, and one goes straight to tier-2."""
    routed = [an_event(n, event_id=f"r{n}", stage="router", outcome="routed", cost_usd=0.001) for n in range(2)]
    routed.append(an_event(2, event_id="r2", stage="router", outcome="routed", tier="tier2", cost_usd=0.001))
    tier1 = [an_event(n, event_id=f"a{n}", stage="tier1", outcome="drafted", cost_usd=0.01) for n in range(2)]
    checked = [an_event(0, age_s=2.0), an_event(1, outcome="escalated", reasons=("low_score",), cost_usd=0.002)]
    tier2 = [
        an_event(n, event_id=f"b{n}", stage="tier2", outcome="drafted", tier="tier2", cost_usd=0.1) for n in (1, 2)
    ]
    ends = [an_event(n, event_id=f"e{n}", tier="tier2", age_s=8.0) for n in (1, 2)]
    return [*routed, *tier1, *checked, *tier2, *ends]


def test_a_summary_says_what_was_saved() -> None:
    """All finished tickets at tier-2's mean price, less all that was spent, every part of it."""
    total = summary(count(_tickets()).items(), [], "1h", NOW_S).total
    assert (total.volume, total.answered, total.escalated, total.reasons) == (3, 3, 1, {"low_score": 1})
    assert total.tier1_share == pytest.approx(1 / 3)
    assert total.costs_usd == pytest.approx({"router": 0.003, "tier1": 0.02, "checker": 0.002, "tier2": 0.2})
    assert total.tier2_price_usd == pytest.approx(0.1)
    assert total.saved_usd == pytest.approx(0.3 - 0.225)
    assert total.cost_per_1000_usd == pytest.approx(75.0)
    assert total.tiers[0].p50_s == pytest.approx(2.0, rel=0.13)
    assert total.tiers[1].p95_s == pytest.approx(8.0, rel=0.13)


def test_a_category_without_tier2_has_the_price_of_all() -> None:
    """What its tickets would have cost there is otherwise unknown; without any price nothing is said to be saved."""
    returns = an_event(9, category="returns", cost_usd=0.01)
    found = summary(count([*_tickets(), returns]).items(), [], "1h", NOW_S)
    assert [c.name for c in found.categories] == ["orders", "returns"]
    assert found.categories[1].saved_usd == pytest.approx(0.1 - 0.01)
    assert summary(count([returns]).items(), [], "1h", NOW_S).total.saved_usd is None


def test_a_summary_holds_its_span_only() -> None:
    """Windows that ended before it, or begin after now, are left out; partitions' cells of one key add up."""
    key = key_of(an_event())
    late = CellKey(key.start_s + 7200, "orders", "tier1")
    early = CellKey(key.start_s - 3600, "orders", "tier1")
    cells = [(k, Cell(events=1, answered=1)) for k in (key, key, late, early)]
    assert summary(cells, [], "1h", NOW_S).total.answered == 2
    day = summary(cells, [], "24h", NOW_S)
    assert day.total.answered == 3
    assert sum(b.tier1 for b in day.bars) == 3
    assert len(day.bars) == 72
    with pytest.raises(KeyError):
        summary(cells, [], "1y", NOW_S)


def test_nothing_yet_is_a_summary_too() -> None:
    """Without tickets no figure is made up."""
    total = summary([], [], "5m", NOW_S).total
    assert (total.volume, total.tier1_share, total.saved_usd, total.cost_per_1000_usd) == (0, None, None, None)
