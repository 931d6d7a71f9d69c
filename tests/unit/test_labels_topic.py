"""Labels joined with their tickets, as they come from Kafka."""

from datetime import timedelta
from typing import Any

from schemas.labels import Label
from schemas.tickets import TicketId
from streams.labels import Join
from tests.records import AT, a_ticket
from workers.learning.labels import LabelledOutcome


def a_label(ticket_id: str = "t1", acceptable: bool = True, later_s: float = 0, **fields: Any) -> Label:
    values: dict[str, Any] = {"category": "orders", "source": "person", "propensity": 1.0}
    at = AT + timedelta(seconds=later_s)
    return Label(**values | {"ticket_id": TicketId(ticket_id), "acceptable": acceptable, "at": at} | fields)


def joined(labels: list[Label], *tickets: Any) -> Join:
    join = Join()
    for label in labels:
        join.add_label(label)
    for ticket in tickets:
        join.add_ticket(ticket)
    return join


def test_a_ticket_gets_the_labels_of_both_tiers() -> None:
    """Its propensity is that of tier-1's label, its group the customer."""
    labels = [a_label(acceptable=False, propensity=0.2), a_label(tier="tier2", propensity=0.7)]
    join = joined(labels, a_ticket(subject="Router", customer_id="c1"))
    assert list(join.outcomes.values()) == [
        LabelledOutcome(
            text="Router\nWhere is my router?",
            tier1_ok=False,
            tier2_ok=True,
            category="orders",
            propensity=0.2,
            group="default/c1",
        )
    ]


def test_the_latest_label_of_a_tier_is_in_force() -> None:
    """Whichever order they come in; of two of one moment the one that came last. The others are counted."""
    for labels in (
        [a_label(acceptable=True, later_s=9), a_label(acceptable=False)],
        [a_label(acceptable=False), a_label(acceptable=True, later_s=9)],
        [a_label(acceptable=False), a_label(acceptable=True)],
    ):
        join = joined(labels, a_ticket())
        assert [o.tier1_ok for o in join.outcomes.values()] == [True]
        assert join.replaced == 1


def test_tickets_of_two_tenants_are_two_tickets() -> None:
    """Of one ticket_id: only tenant and id together name a ticket."""
    join = joined([a_label(tenant="b", acceptable=False)], a_ticket(), a_ticket("Mine", tenant="b"))
    assert [(o.text, o.tier1_ok) for o in join.outcomes.values()] == [("Mine", False)]


def test_of_a_ticket_that_was_published_twice_the_first_counts() -> None:
    """The router answered that one."""
    join = joined([a_label()], a_ticket("first"), a_ticket("second"))
    assert [o.text for o in join.outcomes.values()] == ["first"]


def test_a_label_whose_ticket_is_gone_is_counted_and_said() -> None:
    """The tickets topic is kept for a shorter time than the labels are."""
    join = joined([a_label("t1"), a_label("t2"), a_label("t2", tier="tier2")], a_ticket())
    assert (len(join.outcomes), join.without_ticket) == (1, 1)
    assert "1 labelled tickets; left out: 1 whose ticket is no longer" in join.said()


def test_a_tier2_label_alone_has_its_own_propensity() -> None:
    """Tier-1 was not tried, or not judged."""
    join = joined([a_label(tier="tier2", propensity=0.3)], a_ticket())
    assert [(o.tier1_ok, o.tier2_ok, o.propensity) for o in join.outcomes.values()] == [(None, True, 0.3)]


def test_feedback_replaces_no_audits_label() -> None:
    """Whoever complains chose himself: to learn from that would be to learn who complains."""
    later = a_label(acceptable=False, later_s=9, source="feedback")
    join = joined([a_label(acceptable=True), later], a_ticket())
    assert [o.tier1_ok for o in join.outcomes.values()] == [True]
    assert (join.complaints, join.replaced) == (1, 0)
    assert "1 of feedback" in join.said()
