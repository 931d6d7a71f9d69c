"""What teaches, what is kept for labels, and when it comes."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.fernway import fernway
from workers.learning.company import Company, Example
from workers.learning.splits import ROUNDS, come, distillation_set, label_set, retrieval_set


@pytest.fixture(scope="module")
def company() -> Company:
    return fernway()


def ids(company: Company) -> set[str]:
    return {e.ticket_id for e in company.examples}


def test_the_rounds_bring_everything_but_the_test_split(company: Company) -> None:
    """Each more than the last, and the last all of it."""
    rounds = [ids(come(company, number)) for number in range(1, ROUNDS + 1)]
    assert all(one < other for one, other in pairwise(rounds))
    assert rounds[-1] == ids(company) - {e.ticket_id for e in company.split("test")}


def test_nothing_both_teaches_and_is_labelled(company: Company) -> None:
    """In any round, and a ticket that taught in one is not labelled in a later one; complex tickets never teach."""
    for number in range(1, ROUNDS + 1):
        taught = {e.ticket_id for e in retrieval_set(come(company, number))}
        labelled = {e.ticket_id for e in label_set(come(company, ROUNDS))}
        assert taught.isdisjoint(labelled)
    assert {e.kind for e in retrieval_set(company)} == {"routine"}
    assert {e.ticket_id for e in distillation_set(company)} < {e.ticket_id for e in retrieval_set(company)}
    assert {e.kind for e in label_set(company)} == {"routine", "complex"}


def test_the_labels_of_each_round_have_as_many_complex_tickets_as_the_test_split(company: Company) -> None:
    """Labels of easier tickets would promise too much: within two points."""
    test = company.split("test")
    for number in range(1, ROUNDS + 1):
        part = come(company, number)
        labelled = label_set(part) + part.split("validation")
        assert complex_share(labelled) == pytest.approx(complex_share(test), abs=0.02)


def complex_share(examples: Sequence[Example]) -> float:
    return sum(e.kind == "complex" for e in examples) / len(examples)


def test_each_round_brings_every_kind(company: Company) -> None:
    """New tickets to teach, to label, complex ones, and of the validation split."""
    for number in range(1, ROUNDS + 1):
        before = ids(come(company, number - 1)) if number > 1 else set()
        new = [e for e in come(company, number).examples if e.ticket_id not in before]
        assert {(e.split, e.kind) for e in new} >= {
            ("train", "routine"),
            ("train", "complex"),
            ("validation", "routine"),
        }
