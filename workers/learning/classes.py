"""What is a ticket about? A softmax over passages of the company's knowledge, or bare categories.

Every routine intent has one passage, so past tickets teach the head which wordings
mean which passage; the passages' own texts are rows too. Like the outcomes (success.py) it mixes two regressions, on
phrases and on embeddings. Needs the `learn` extra.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.learning.phrases import Phrases
from workers.learning.reading import Reading
from workers.router.classifier import PICKED

Floats = NDArray[np.float64]

STRENGTH = 30.0
"""Inverse regularisation of both, by cross-validation on Fernway's training split; a factor of three either way changes
little."""

SHARE = 1 / 3
"""Of the phrases' logits. On Fernway's held-out training tickets the right passage is first for 80 % by the embedding
alone, 71 % by phrases alone, 83 % by both; anything from a third to two thirds does. An encoder that knows the passages
(bi_encoder.py) wants less."""

FOLDS = 5
SEED = 7


@dataclass(frozen=True, slots=True, eq=False)
class ClassHead:
    """Weights of a softmax over `classes`."""

    classes: tuple[str, ...]
    phrases: Floats
    """(Phrases.columns, classes)"""
    embedding: Floats
    """(384, classes)"""
    bias: Floats
    """(classes,)"""

    def probabilities(self, phrases: Phrases, reading: Reading) -> Floats:
        """(n, classes)"""
        logits = phrases.rows(reading.pieces) @ self.phrases + reading.embeddings @ self.embedding + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True, eq=False)
class Subjects:
    """Texts whose class is known."""

    reading: Reading
    names: tuple[str, ...]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Subjects":
        return Subjects(self.reading.take(rows), tuple(self.names[int(row)] for row in rows))


def fit(phrases: Phrases, tickets: Subjects, knowledge: Subjects) -> ClassHead:
    """Fit on tickets, and on the passages' own texts."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    names = [*tickets.names, *knowledge.names]
    classes = tuple(sorted(set(names)))
    wording = sparse.vstack([phrases.rows(part.reading.pieces) for part in (tickets, knowledge) if part.names]).tocsr()
    meaning = np.vstack([tickets.reading.embeddings, knowledge.reading.embeddings])
    if len(classes) == 1:
        return ClassHead(classes, np.zeros((phrases.columns, 1)), np.zeros((meaning.shape[1], 1)), np.zeros(1))

    def regression(features: Any) -> tuple[Floats, Floats]:
        fitted: Any = LogisticRegression(C=STRENGTH, max_iter=5_000).fit(features, names)
        if len(classes) > 2:
            return fitted.coef_.T, fitted.intercept_
        # Of two classes scikit-learn gives the second one's logit only.
        return np.hstack([0 * fitted.coef_.T, fitted.coef_.T]), np.append(0.0, fitted.intercept_)

    (of_phrases, one), (of_embedding, two) = regression(wording), regression(meaning)
    return ClassHead(classes, SHARE * of_phrases, (1 - SHARE) * of_embedding, SHARE * one + (1 - SHARE) * two)


def out_of_fold(phrases: Phrases, tickets: Subjects, knowledge: Subjects) -> Floats:
    """Probabilities (n, classes in sorted order) of tickets by heads that have not seen them.

    What a head says of its own training tickets is surer than it will ever be of
    a new one: an adapter trained on that would learn to trust it blindly.
    """
    from sklearn.model_selection import KFold

    classes = sorted({*tickets.names, *knowledge.names})
    found = np.zeros((len(tickets.names), len(classes)))
    for fitted, held_out in KFold(FOLDS, shuffle=True, random_state=SEED).split(found):
        head = fit(phrases, tickets.take(fitted), knowledge)
        # A rare class may have no ticket among the fitted ones.
        columns = [classes.index(name) for name in head.classes]
        found[np.ix_(held_out, columns)] = head.probabilities(phrases, tickets.reading.take(held_out))
    return found


def picked(probabilities: Floats, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """The likeliest classes of each row, likeliest first."""
    best = np.argsort(-probabilities, axis=1)[:, :PICKED]
    return [tuple(classes[i] for i in row) for row in best]
