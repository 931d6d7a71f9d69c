"""The scorer's features: what makes a draft look wrong moves the number that is meant to show it."""

from typing import Any

import numpy as np
import pytest

from schemas.drafts import Draft
from tests.fakes import FakeClassifier
from tests.records import a_decision, a_draft, a_routed, a_ticket
from workers.checker.features import NAMES, EmbeddedKnowledge, features
from workers.knowledge import Passage

PASSAGES = (
    Passage("orders.delivery", "orders", "delivery takes 2 business days"),
    Passage("billing.late_fee", "billing", "a late bill costs a fee of $8.00"),
)
CLASSIFIER = FakeClassifier({p.id: p.text for p in PASSAGES})
KNOWLEDGE = EmbeddedKnowledge.of(PASSAGES, CLASSIFIER)  # type: ignore[arg-type]


def named(draft: Draft) -> dict[str, float]:
    ticket, answer = CLASSIFIER.classify([draft.routed.ticket.body, draft.text])
    return dict(zip(NAMES, map(float, features(draft, ticket, answer, KNOWLEDGE)), strict=True))


def asked(text: str, **fields: Any) -> Draft:
    ticket = a_ticket(**{"body": "how many days does delivery take", **fields})
    return a_draft(text, a_routed(ticket, decision=a_decision(category="orders")))


def test_the_vector_has_the_named_length_and_no_hole() -> None:
    """A scorer is fitted on NAMES; a NaN would silently win every comparison."""
    draft = asked("delivery takes 2 business days")
    vector = features(draft, *CLASSIFIER.classify([draft.routed.ticket.body, draft.text]), KNOWLEDGE)
    assert vector.shape == (len(NAMES),)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()


def test_a_fluent_answer_to_another_question_stands_out() -> None:
    """Its passage is not the one that the ticket asks about."""
    right, wrong = named(asked("delivery takes 2 business days")), named(asked("a late bill costs a fee of $8"))
    assert right["answer_passage_margin"] == right["similarity_margin"] == right["similarity_rank"] == 0
    assert wrong["answer_passage_margin"] < 0 < wrong["similarity_margin"]
    assert wrong["readings_agree"] < right["readings_agree"]
    assert (right["same_category"], wrong["same_category"]) == (1, 0)


@pytest.mark.parametrize(
    ("text", "ungrounded"),
    [
        ("delivery takes 2 business days", 0),
        ("delivery takes 3 business days", 1),
        ("delivery takes 5 to 7 business days", 2),
        ("a late bill costs a fee of $8", 0),
        ("your order 1,234 delivery takes 2 days", 0),
    ],
)
def test_numbers_out_of_thin_air_are_counted(text: str, ungrounded: int) -> None:
    """Grounded are those of the ticket and of the passage that the answer comes from, however they are written."""
    assert named(asked(text, subject="order 1234"))["ungrounded_numbers"] == ungrounded


def test_the_tickets_own_facts_are_expected_in_the_answer() -> None:
    """The share of the context's numbers that the answer uses; all of none is all."""
    assert (
        named(asked("it arrives on day 12", context=("ordered day 10, arrives day 12",)))["context_numbers_used"] == 0.5
    )
    assert named(asked("it arrives soon"))["context_numbers_used"] == 1.0


def test_what_an_answer_leaves_unsaid_shows() -> None:
    """Numbers, words and phrases of its passage that are missing, and its length against it."""
    whole, half = named(asked("delivery takes 2 business days")), named(asked("delivery takes days"))
    assert whole["passage_numbers_stated"] == whole["passage_words_stated"] == whole["passage_phrases_stated"] == 1
    assert (half["passage_numbers_stated"], half["passage_words_stated"]) == (0, pytest.approx(3 / 5))
    assert half["passage_phrases_stated"] == pytest.approx(1 / 4)
    assert half["length_against_passage"] < whole["length_against_passage"] == 0


def test_words_out_of_thin_air_are_counted() -> None:
    """Grounded are those of the passage, the ticket and its facts."""
    assert named(asked("delivery takes 2 business days"))["grounded_words"] == 1
    assert named(asked("delivery takes 2 business days by pigeon"))["grounded_words"] == pytest.approx(5 / 7)


def test_a_draft_without_log_probabilities_has_features_too() -> None:
    """Some engines give none."""
    draft = a_draft(logprobs=None)
    values = named(draft)
    assert values["token_probability_mean"] == values["token_probability_min"] == 0.0
