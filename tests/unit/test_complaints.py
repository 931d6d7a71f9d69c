"""Feedback as labels: what is a complaint, and what it is about."""

from datetime import timedelta
from typing import Any

import pytest

from schemas.answers import Answer
from schemas.labels import Feedback
from schemas.tickets import TicketId
from streams.outcomes import answer
from tests.records import AT, a_decision, a_draft, a_routed, a_verdict
from workers.learning.complaints import label_of

TEXT = "It arrives in 2 business days."


def an_answer() -> Answer:
    routed = a_routed(decision=a_decision(propensity=0.2, model_version="m1"))
    return answer(a_draft(TEXT, routed), a_verdict())


def said(later_s: float = 0, **fields: Any) -> Feedback:
    return Feedback(ticket_id=TicketId("t1"), at=AT + timedelta(seconds=later_s), **fields)


@pytest.mark.parametrize(
    ("feedback", "why"),
    [
        ([said(reopened=True)], "reopened"),
        ([said(rating=2)], "rated 2"),
        ([said(rating=3)], ""),
        ([said(edited_text="It arrives tomorrow.")], "edited"),
        ([said(edited_text=" It arrives  in 2 business days.\n")], ""),
        ([said(rating=1), said(9, rating=5)], ""),
        ([said(rating=5), said(9, rating=1)], "rated 1"),
        ([said(reopened=True), said(9, rating=5)], "reopened"),
        ([said(rating=1, reopened=True, edited_text="No.")], "reopened, rated 1, edited"),
    ],
)
def test_what_is_a_complaint(feedback: list[Feedback], why: str) -> None:
    """Reopened, rated badly in the end, or not sent as it was; in whatever order it comes."""
    for order in (feedback, feedback[::-1]):
        label = label_of(an_answer(), order)
        assert label is not None
        assert (label.acceptable, label.why) == (not why, why)


def test_feedback_that_says_nothing_makes_no_label() -> None:
    """A helpdesk may report every ticket that it closes; that changes nothing of what another one says."""
    assert label_of(an_answer(), [said()]) is None
    assert label_of(an_answer(), [said(rating=5), said(9)]) == label_of(an_answer(), [said(rating=5)])


def test_a_label_names_the_answer_that_it_is_about() -> None:
    """And its source, by which it is never taken for an audit's."""
    label = label_of(an_answer(), [said(rating=1), said(60, reopened=True)])
    assert label is not None
    assert (label.source, label.judge, label.shipped) == ("feedback", "helpdesk", True)
    assert (label.category, label.tier, label.model, label.model_version) == ("orders", "tier1", "m", "m1")
    assert (label.p_ok, label.score, label.policy_version) == (0.9, 0.9, "v1")
    assert label.at == AT + timedelta(seconds=60)
