"""streams/tally.py: what is counted, and that it is counted once."""

import random
from collections import Counter

import pytest

from schemas.tickets import TicketId
from streams.reporting.tally import Tally, latency, quantile


def test_a_record_that_comes_twice_counts_once(make):
    """Kafka may hand a reader the same record again."""
    records = [
        make.answer("t1", "tier2", attempts=[make.attempt()]),
        make.handoff("t2", [make.attempt(), make.attempt("tier2")]),
        make.event("e1", "t3", "dead_lettered"),
    ]
    once, twice = Tally(published=3), Tally(published=3)
    for record in records:
        once.add(record)
    for record in [*records, *reversed(records)]:
        twice.add(record)
    assert twice == once
    assert (twice.finished, twice.in_progress, twice.escalated) == (3, 0, 2)
    assert twice.costs == once.costs


def test_the_order_of_arrival_does_not_matter(make):
    """Partitions are read in any order, and an event may come before its answer."""
    records = [make.answer(f"t{n}", "tier1", seconds=n) for n in range(9)]
    records += [make.event(f"e{n}", f"t{n}", "answered", "checker") for n in range(9)]
    shuffled = random.Random(3).sample(records, len(records))
    one, other = Tally(), Tally()
    for record in records:
        one.add(record)
    for record in shuffled:
        other.add(record)
    assert one == other


def test_a_ticket_given_up_is_finished_but_not_answered(make):
    """Its dead letter ends it, so a run that is done has nothing in progress."""
    tally = Tally(published=2)
    tally.add(make.event("e1", "t1", "dead_lettered"))
    tally.add(make.answer("t2"))
    assert tally.dead_lettered == {"t1"}
    assert (tally.finished, tally.in_progress) == (2, 0)


def test_a_ticket_given_up_and_then_answered_counts_once(make):
    """An operator may have published its record again."""
    tally = Tally(published=1)
    tally.add(make.event("e1", "t1", "dead_lettered"))
    tally.add(make.answer("t1"))
    assert tally.finished == 1


def test_a_strangers_record_is_left_out(make):
    """A poison record must not stand in for a ticket that is missing."""
    tally = Tally(published=1, tickets=frozenset({TicketId("t1")}))
    tally.add(make.event("e1", "poison", "dead_lettered"))
    tally.add(make.answer("other"))
    tally.add(make.handoff("another"))
    assert (tally.finished, tally.in_progress) == (0, 1)


def test_a_refused_draft_makes_an_escalation_whatever_came_of_it(make):
    """Answered by tier-2 or handed off: tier-1 was tried."""
    tally = Tally()
    tally.add(make.answer("t1", "tier2", attempts=[make.attempt(reason="low_score,truncated")]))
    tally.add(make.handoff("t2", [make.attempt(), make.attempt("tier2", reason="refusal")]))
    tally.add(make.handoff("t3", [make.attempt("tier2", reason="refusal")]))
    assert tally.escalated == 2
    assert tally.reasons == Counter(low_score=2, truncated=1)


def test_costs_are_summed_by_part(make):
    """Every part that tickets carry, handoffs included."""
    tally = Tally()
    records = [make.answer("t1"), make.answer("t2", "tier2", attempts=[make.attempt()]), make.handoff("t3")]
    for record in records:
        tally.add(record)
    assert tally.costs.tier1_usd == pytest.approx(2 * 0.00002)
    assert tally.costs.tier2_usd == pytest.approx(0.004)
    assert tally.costs.total_usd == pytest.approx(sum(r.costs.total_usd for r in records))


def test_the_all_tier2_estimate_is_the_mean_call_times_the_finished_tickets(make):
    """None before the first paid call: there is no price to go by."""
    tally = Tally()
    tally.add(make.answer("t1"))
    assert tally.all_tier2_estimate_usd is None
    tally.add(make.answer("t2", "tier2"))
    tally.add(make.answer("t3"))
    assert tally.all_tier2_estimate_usd == pytest.approx(3 * 0.004)


def test_events_are_counted_by_stage_and_outcome(make):
    """One event a ticket and stage."""
    tally = Tally()
    for number in range(3):
        tally.add(make.event(f"router/{number}", f"t{number}"))
    tally.add(make.event("checker/0", "t0", "answered", "checker"))
    assert tally.outcomes() == {("router", "routed"): 3, ("checker", "answered"): 1}


def test_latency_is_of_answers_that_really_came(make):
    """Nearest rank: of 20 answers the median is the tenth, the 95th percentile the nineteenth."""
    measured = latency([make.answer(f"t{n}", seconds=n) for n in range(20, 0, -1)])
    assert measured is not None
    assert (measured.answers, measured.p50_s, measured.p95_s) == (20, 10.0, 19.0)
    assert latency([]) is None


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 1.0), (0.51, 2.0), (1.0, 2.0)])
def test_a_quantile_is_one_of_the_values(share, expected):
    """Also at the ends."""
    assert quantile([1.0, 2.0], share) == expected
