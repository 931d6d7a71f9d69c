"""How a ticket ends: what it cost is counted once, and what was tried goes along."""

import pytest

from schemas.answers import GateReason, HandoffReason
from streams.outcomes import answer, escalation, handoff
from tests.records import a_decision, a_draft, a_routed, a_ticket, a_verdict

ASKED = a_ticket(tenant="acme", customer_id="c7", language="en", metadata={"queue": "vip"})


def test_costs_of_an_escalated_ticket_add_up() -> None:
    """Router once, the refused tier-1 draft, both checks, the tier-2 draft: all of it is on the answer."""
    routed = a_routed(ASKED, decision=a_decision(cost_usd=0.001))
    refused = a_verdict(False, reasons=(GateReason.EMPTY,), cost_usd=0.0001, score=None)
    up = escalation(a_draft(routed=routed, cost_usd=0.01), refused)
    answered = answer(a_draft(routed=up, tier="tier2", cost_usd=0.2), a_verdict(cost_usd=0.0002))
    costs = answered.costs
    parts = (costs.router_usd, costs.tier1_usd, costs.checker_usd, costs.tier2_usd)
    assert parts == pytest.approx((0.001, 0.01, 0.0003, 0.2))
    assert costs.total_usd == pytest.approx(0.2113)
    assert [(a.tier, a.reason) for a in answered.attempts] == [("tier1", "empty")]


def test_a_handoff_after_two_refusals_has_both_drafts_and_all_costs() -> None:
    """The person sees what the machines made of it."""
    refused = a_verdict(False, reasons=(GateReason.LOW_SCORE,), cost_usd=0.0001)
    up = escalation(a_draft("first", routed=a_routed(ASKED), cost_usd=0.01), refused)
    last = a_draft("second", routed=up, tier="tier2", cost_usd=0.2)
    given = handoff(up, HandoffReason.TIER2_REFUSED, "why", last, refused)
    assert [(a.tier, a.text) for a in given.attempts] == [("tier1", "first"), ("tier2", "second")]
    assert given.costs.total_usd == pytest.approx(0.001 + 0.01 + 0.0002 + 0.2)


def test_a_handoff_without_a_draft_costs_what_was_spent_before() -> None:
    """A provider that is away adds nothing."""
    given = handoff(a_routed(ASKED), HandoffReason.TIER2_UNAVAILABLE, "away")
    assert given.attempts == ()
    assert given.costs.total_usd == pytest.approx(0.001)


def test_an_answer_goes_back_with_the_helpdesks_own_keys() -> None:
    """Tenant, customer, language and metadata are as they came."""
    answered = answer(a_draft(routed=a_routed(ASKED)), a_verdict())
    assert (answered.ticket_id, answered.tenant, answered.customer_id) == ("t1", "acme", "c7")
    assert (answered.language, answered.metadata) == ("en", {"queue": "vip"})
    assert answered.attempts == ()
