"""The page about scale says what its benchmark prints, and the arithmetic behind it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.scale import BACKFILL, RATES, SHIPPED, SIMULATED, TRIED, Plan, network, plans, tables

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text("utf-8")


@pytest.fixture(scope="module")
def planned() -> list[Plan]:
    return list(plans())


def test_the_pages_tables_are_the_benchmarks(planned: list[Plan]) -> None:
    """Word by word: whoever changes a number writes the page anew."""
    assert [title for title, table in tables(planned, SIMULATED, BACKFILL).items() if table not in PAGE] == []


def test_the_prose_quotes_the_plan(planned: list[Plan]) -> None:
    """Numbers that stand outside of the tables."""
    first, _, last = planned
    quoted = " ".join(PAGE.split())
    assert f"{last.replicas / 1000:,.0f},000 replicas want {last.brokers}" in quoted
    assert f"{first.tokens_of['tier1']} + {first.tokens_of['answer']} tokens" in quoted
    assert f"{last.spend_share * last.tier2_processes:.0f} cores in all" in quoted
    assert f"{max(last.processes)} members" in quoted
    provider = (first.usd["tier-2's provider"] + first.usd["judge (the same provider)"]) / sum(first.usd.values())
    assert f"{provider:.0%} with the judge".replace("%", " %") in quoted
    events = first.disk_gb("events") / sum(first.disk_gb(topic) for topic in first.bytes_of)
    assert events == pytest.approx(0.8, abs=0.05)


def test_ten_times_the_tickets_cost_ten_times_the_dollars(planned: list[Plan]) -> None:
    """But the ledger's readers a hundred times the work."""
    for small, large in pairwise(planned):
        assert sum(large.usd.values()) / sum(small.usd.values()) == pytest.approx(10, rel=0.01)
        work = [plan.spend_share * plan.tier2_processes for plan in (small, large)]
        assert work[1] / work[0] == pytest.approx(100, rel=0.03)


def test_every_ticket_is_answered_once(planned: list[Plan]) -> None:
    """The shares add up: what tier-1 doesn't ship, tier-2 is called for; so too in the simulated network."""
    plan = planned[0]
    assert plan.tier2_s == pytest.approx(plan.tickets_s * (1 - TRIED) + plan.tier1_s * (1 - SHIPPED / TRIED))
    simulated = network(plan, 1)
    assert simulated.tier1_share * (1 - simulated.refused_share) == pytest.approx(SHIPPED)


def test_a_plan_grows_with_its_rate(planned: list[Plan]) -> None:
    """A stage has a process even for one ticket a second, and Kafka three brokers."""
    tiny = replace(planned[0], tickets_s=1.0)
    assert tiny.processes == (1, 1, 1, 1)
    assert (tiny.partitions, tiny.brokers) == (8, 3)
    assert [plan.tickets_s for plan in planned] == list(RATES)
