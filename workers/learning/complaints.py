"""What helpdesks say of answers afterwards, as labels. They come from tickets that chose themselves: no random sample,
so no certificate, no estimate and no training counts them. They warn, and they say which answers not to learn from.
"""

from collections.abc import Sequence

from schemas.answers import Answer
from schemas.labels import Feedback, Label

WORST_GOOD_RATING = 3
"""Of five; 1 and 2 are complaints."""

JUDGE = "helpdesk"


def complaints(feedback: Sequence[Feedback], text: str) -> tuple[str, ...]:
    """Why an answer with this text wasn't acceptable, by all feedback on it; empty if nobody complained.

    Of several ratings the last counts; a ticket that was reopened once, or an answer that was edited, stays so.
    """
    ratings = [f.rating for f in sorted(feedback, key=lambda f: f.at) if f.rating is not None]
    found = []
    if any(f.reopened for f in feedback):
        found.append("reopened")
    if ratings and ratings[-1] < WORST_GOOD_RATING:
        found.append(f"rated {ratings[-1]}")
    if any(f.edited_text is not None and f.edited_text.split() != text.split() for f in feedback):
        found.append("edited")
    return tuple(found)


def says_something(feedback: Feedback) -> bool:
    """Whether it is about the answer at all: a helpdesk may report every ticket that it closes."""
    return feedback.reopened or feedback.rating is not None or feedback.edited_text is not None


def label_of(answer: Answer, feedback: Sequence[Feedback]) -> Label | None:
    """The label that all feedback on an answer makes; the same for the same feedback. None if it says nothing."""
    said = [f for f in feedback if says_something(f)]
    if not said:
        return None
    why = complaints(said, answer.text)
    decision = answer.decision
    return Label(
        ticket_id=answer.ticket_id,
        category=answer.category,
        acceptable=not why,
        source="feedback",
        # Nobody knows how likely a customer was to say something: the source tells that this is no propensity.
        propensity=1.0,
        at=max(f.at for f in said),
        p_ok=decision.p_ok,
        score=answer.verdict.score,
        policy_version=decision.policy_version,
        tenant=answer.tenant,
        tier=answer.tier,
        shipped=True,
        judge=JUDGE,
        model=answer.model,
        model_version=decision.model_version,
        why=", ".join(why),
    )
