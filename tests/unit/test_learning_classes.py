"""The class head. All but the picking needs the `learn` extra."""

import numpy as np
import pytest

from workers.learning import classes, phrases
from workers.learning.classes import Subjects, fit, out_of_fold, picked
from workers.learning.phrases import Phrases
from workers.learning.reading import Reading

# A subject's words, and its direction in the embeddings.
WORDS = {"billing.refund": range(1_000, 1_020), "faults.light": range(2_000, 2_020), "roaming": range(3_000, 3_020)}
NOBODY = Subjects(Reading([], np.empty((0, 384))), ())


def subjects(names: list[str], seed: int = 1, clear: float = 1.0) -> Subjects:
    """Texts in the words of their subjects, `clear` of them, with embeddings near the subjects' directions."""
    rng = np.random.default_rng(seed)
    pieces, embeddings = [], 0.03 * rng.normal(size=(len(names), 384))
    for name, embedding in zip(names, embeddings, strict=True):
        of = [name if rng.random() < clear else rng.choice(list(WORDS)) for _ in range(10)]
        pieces.append([101, *(int(rng.choice(WORDS[word])) for word in of), 102])
        for word in of:
            embedding[list(WORDS).index(word)] += 0.1
    return Subjects(Reading(pieces, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)), tuple(names))


def words_of(*parts: Subjects) -> Phrases:
    return phrases.fit([text for part in parts for text in part.reading.pieces], np.zeros((30_522, 3)))


def test_new_texts_get_their_class() -> None:
    """Classes stand in sorted order, and the probabilities add up to 1."""
    pytest.importorskip("sklearn")
    tickets, new = subjects(list(WORDS) * 15), subjects(list(WORDS) * 10, seed=2)
    fitted = words_of(tickets)
    head = fit(fitted, tickets, NOBODY)
    found = head.probabilities(fitted, new.reading)
    assert head.classes == tuple(sorted(WORDS))
    assert found.sum(axis=1) == pytest.approx(np.ones(30))
    assert [head.classes[i] for i in found.argmax(axis=1)] == list(new.names)


@pytest.mark.parametrize("known_by", ["words", "meaning"])
def test_a_passage_that_no_ticket_named_is_a_class_by_its_own_text(known_by: str) -> None:
    """Past tickets teach two, the company's knowledge the third: by what it says, and by what it means."""
    pytest.importorskip("sklearn")
    tickets, knowledge = subjects(["billing.refund", "faults.light"] * 3), subjects(["roaming"], seed=3)
    fitted = words_of(tickets, knowledge, subjects(["roaming"], seed=4))
    head = fit(fitted, tickets, knowledge)
    about, strange = subjects(["roaming"], seed=5).reading, Reading([[9_999]], np.full((1, 384), 384**-0.5))
    said, meant = (about, strange) if known_by == "words" else (strange, about)
    found, otherwise = (
        head.probabilities(fitted, text)[0] for text in (Reading(said.pieces, meant.embeddings), strange)
    )
    roaming = head.classes.index("roaming")
    assert found.argmax() == roaming
    assert found[roaming] > otherwise[roaming] + 0.2


def test_of_two_classes_each_has_its_probability() -> None:
    """scikit-learn gives one logit for both, the graph's softmax wants two."""
    pytest.importorskip("sklearn")
    tickets = subjects(["billing.refund", "roaming"] * 15)
    fitted = words_of(tickets)
    head = fit(fitted, tickets, NOBODY)
    found = head.probabilities(fitted, subjects(["roaming", "billing.refund"], seed=2).reading)
    assert head.embedding.shape == (384, 2)
    assert found.argmax(axis=1).tolist() == [1, 0]
    assert found.sum(axis=1) == pytest.approx([1, 1])


def test_the_only_class_is_certain() -> None:
    """Of every text; so it is when no fold has another."""
    pytest.importorskip("sklearn")
    tickets = subjects(["roaming"] * 10)
    fitted = words_of(tickets)
    head = fit(fitted, tickets, NOBODY)
    assert head.classes == ("roaming",)
    assert head.probabilities(fitted, subjects(list(WORDS), seed=2).reading).tolist() == [[1.0]] * 3
    assert out_of_fold(fitted, tickets, NOBODY).tolist() == [[1.0]] * 10


def test_out_of_fold_has_not_seen_the_ticket() -> None:
    """Names drawn at random can be learned by heart, but not be told of a ticket that was held out."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(6)
    names = rng.choice(list(WORDS), 150).tolist()
    tickets = Subjects(subjects(["roaming"] * 150).reading, tuple(names))
    fitted = words_of(tickets)
    truth = [sorted(WORDS).index(name) for name in names]
    by_heart = fit(fitted, tickets, NOBODY).probabilities(fitted, tickets.reading)
    honest = out_of_fold(fitted, tickets, NOBODY)
    assert np.mean(by_heart.argmax(axis=1) == truth) > 0.8
    assert np.mean(honest.argmax(axis=1) == truth) < 0.45


def test_out_of_fold_is_sure_where_the_tickets_are_clear() -> None:
    """And in the tickets' order: each gets its own class."""
    pytest.importorskip("sklearn")
    tickets = subjects(list(WORDS) * 20, clear=0.9)
    found = out_of_fold(words_of(tickets), tickets, NOBODY)
    assert found.sum(axis=1) == pytest.approx(np.ones(60))
    assert np.mean([sorted(WORDS)[i] for i in found.argmax(axis=1)] == np.array(tickets.names)) > 0.95


def test_a_class_of_one_ticket_keeps_its_column() -> None:
    """Held out, that ticket has no chance of its class, and the other columns are not shifted."""
    pytest.importorskip("sklearn")
    tickets = subjects(["billing.refund", "roaming"] * 15 + ["faults.light"])
    found = out_of_fold(words_of(tickets), tickets, NOBODY)
    assert found.shape == (31, 3)
    assert found[-1, 1] == 0
    assert found.sum(axis=1) == pytest.approx(np.ones(31))
    assert found[:-1].argmax(axis=1).tolist() == [0, 2] * 15


def test_the_likeliest_classes_are_picked_in_order() -> None:
    """As many as tier-1 is given, or all there are."""
    found = picked(np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]), ["a", "b", "c"])
    assert found == [("b", "c")[: classes.PICKED], ("a", "c")[: classes.PICKED]]
    assert picked(np.ones((1, 1)), ["a"]) == [("a",)]
