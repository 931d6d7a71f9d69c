"""Audits: a drawn ticket's tier-1 draft goes to the judge when the ticket ends, whatever became of it."""

import pytest

from schemas.answers import GateReason
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Decision
from streams.outcomes import audit, escalation
from tests.records import a_decision, a_draft, a_routed, a_verdict
from workers.checker.checker import judge

SHIPPING = Policy(scope="*", version="v7", default=CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.6))
UNCERTIFIED = Policy(
    scope="*", version="v8", default=CategoryPolicy(p_ok_threshold=0.0, score_threshold=0.0, state="shadow")
)
DRAWN = a_decision(audited=True, propensity=0.2)
IN_SHADOW = a_decision("tier2", audited=True, propensity=0.2)
REFUSED = a_verdict(False, reasons=(GateReason.LOW_SCORE,), score=0.1)


def test_a_shipped_draft_is_audited_alone() -> None:
    """Tier-2 was not asked, and the judge is not told what the checker thought."""
    made = audit(a_draft("It is $5.", routed=a_routed(decision=DRAWN), model="small"), a_verdict(score=0.9))
    assert made is not None
    assert (made.draft.text, made.draft.model, made.draft.score, made.other) == ("It is $5.", "small", 0.9, None)
    assert made.shipped
    assert made.decision.propensity == 0.2


@pytest.mark.parametrize("decision", [DRAWN, IN_SHADOW])
def test_a_draft_that_was_not_shipped_is_audited_beside_tier2s_answer(decision: Decision) -> None:
    """Once tier-2 has answered; it keeps what a scorer learns from."""
    draft = a_draft("It is $5.", routed=a_routed(decision=decision))
    up = escalation(draft, REFUSED)
    made = audit(a_draft("It is $6.", routed=up, tier="tier2", logprobs=None), a_verdict())
    assert made is not None
    assert made.other is not None
    assert (made.draft.text, made.other.text, made.shipped) == ("It is $5.", "It is $6.", False)
    assert (made.draft.logprobs, made.draft.finish_reason) == (draft.logprobs, "stop")


def test_a_ticket_that_was_not_drawn_is_not_audited() -> None:
    """However it ends."""
    assert audit(a_draft(), a_verdict()) is None


def test_without_a_tier1_draft_there_is_nothing_to_judge() -> None:
    """Tier-1 was away, and tier-2 answered instead."""
    assert audit(a_draft(routed=a_routed(decision=IN_SHADOW), tier="tier2"), a_verdict()) is None


@pytest.mark.parametrize("gates", [(), (GateReason.EMPTY,)])
def test_a_draft_in_the_shadow_ships_never(gates: tuple[GateReason, ...]) -> None:
    """Good or bad, the reason is the shadow: it isn't the draft's fault that the ticket goes up."""
    verdict = judge(a_draft(routed=a_routed(decision=IN_SHADOW)), gates, None if gates else 0.99, SHIPPING, 0.0)
    assert (verdict.accepted, verdict.reasons) == (False, (GateReason.SHADOW,))


def test_nothing_of_an_uncertified_category_ships() -> None:
    """Not even where the helpdesk forced tier-1, or an earlier policy let it answer."""
    verdict = judge(a_draft(), (), 0.99, UNCERTIFIED, 0.0)
    assert (verdict.accepted, verdict.reasons) == (False, (GateReason.SHADOW,))
    assert judge(a_draft(tier="tier2"), (), None, UNCERTIFIED, 0.0).accepted


def test_an_audited_draft_that_tier1_may_answer_is_judged_like_any_other() -> None:
    """The draw changes nothing for it."""
    drawn, other = (a_draft(routed=a_routed(decision=d)) for d in (DRAWN, a_decision()))
    assert judge(drawn, (), 0.7, SHIPPING, 0.0) == judge(other, (), 0.7, SHIPPING, 0.0)
