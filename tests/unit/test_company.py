"""The example company: its data is sound, is as large as promised, and its splits share no wording."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from tests.fernway import fernway
from workers.learning.company import SPLITS, Company, Example, as_ticket, faults, load_company
from workers.learning.splits import LAST_WORDING


@pytest.fixture(scope="module")
def company() -> Company:
    return fernway()


def test_the_data_has_no_faults(company: Company) -> None:
    """Every reference passes its rubric, every wrong answer fails it, every slot is filled."""
    assert faults(company) == []


def test_the_company_is_as_large_as_promised(company: Company) -> None:
    """At least 40 routine intents of at least 12 wordings in 10 to 12 categories, and 120 complex tickets."""
    wordings = Counter((e.category, e.intent) for e in company.examples if e.kind == "routine")
    assert len(wordings) >= 40
    assert min(wordings.values()) >= 12
    assert 10 <= len({category for category, _ in wordings}) <= 12
    assert sum(e.kind == "complex" for e in company.examples) >= 120


def test_each_intent_has_the_wordings_of_all_rounds(company: Company) -> None:
    """Numbered in the order in which they come."""
    for intent in {(e.category, e.intent) for e in company.examples if e.kind == "routine"}:
        found = [e.number for e in company.split("train") if (e.category, e.intent) == intent]
        assert found == list(range(1, LAST_WORDING[-1] + 1))


def test_every_intent_and_every_split_can_be_measured(company: Company) -> None:
    """No intent stands in one split only, and complex tickets stand in all."""
    for intent in {(e.category, e.intent, e.kind) for e in company.examples if e.kind == "routine"}:
        assert {e.split for e in company.examples if (e.category, e.intent, e.kind) == intent} == set(SPLITS)
    assert {e.split for e in company.examples if e.kind == "complex"} == set(SPLITS)


def test_ids_are_unique(company: Company) -> None:
    """A ticket_id is a record's key."""
    ids = Counter(e.ticket_id for e in company.examples)
    assert [ticket_id for ticket_id, count in ids.items() if count > 1] == []


def words(example: Example) -> frozenset[str]:
    folded = re.sub(r"\d+", "0", f"{example.subject} {example.body}".lower())
    return frozenset(re.findall(r"[a-z0-9']+", folded))


def test_no_ticket_has_a_near_twin_in_another_split(company: Company) -> None:
    """Splits are by wording: tickets that differ in numbers or a word or two would leak what was learned."""
    splits = {split: company.split(split) for split in SPLITS}
    twins = [
        (splits[one][i].ticket_id, splits[other][j].ticket_id)
        for one, other in combinations(SPLITS, 2)
        for i, j in np.argwhere(likeness(splits[one], splits[other]) >= 0.8)
    ]
    assert twins == []


def likeness(some: Sequence[Example], others: Sequence[Example]) -> np.ndarray:
    """The share of words that each two have in common (Jaccard), of shape (some, others): as a product of matrices,
    since a million pairs of sets take 10 s."""
    column = {word: n for n, word in enumerate(set().union(*map(words, [*some, *others])))}

    def has(examples: Sequence[Example]) -> csr_array:
        columns = [[column[word] for word in words(example)] for example in examples]
        ends = np.cumsum([0, *map(len, columns)])
        return csr_array((np.ones(ends[-1]), np.concatenate(columns), ends), shape=(len(examples), len(column)))

    one, other = has(some), has(others)
    common = (one @ other.T).toarray()
    return common / (one.sum(axis=1)[:, None] + other.sum(axis=1) - common)


def test_likeness_is_of_words_and_not_of_numbers(company: Company) -> None:
    """As the sets of words have it; else the test above would prove nothing."""
    some, others = company.split("train")[::100], company.split("test")[::10]
    some = [*some, replace(others[0], body=others[0].body + " 17")]
    found = likeness(some, others)
    assert found == pytest.approx(
        np.array([[len(words(a) & words(b)) / len(words(a) | words(b)) for b in others] for a in some])
    )
    assert found[-1][0] >= 0.8


def test_a_published_example_tells_nothing_of_its_answer(company: Company) -> None:
    """Neither reference, rubric, intent nor split goes along with the ticket."""
    for example in company.examples:
        ticket = as_ticket(example)
        assert example.reference not in (ticket.subject, ticket.body, *ticket.context)
        assert ticket.metadata == {}


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """Whoever edits the data learns where the fault is."""
    (tmp_path / "routine").mkdir()
    (tmp_path / "knowledge.toml").write_text('[[passage]]\nid = "a.b"\ntext = "x"\n')
    (tmp_path / "routine" / "a.toml").write_text('category = "a"\n[[intent]]\nid = "b"\n')
    with pytest.raises(ValueError, match=r"a\.toml"):
        load_company(tmp_path)
