"""Which passage of the company's knowledge is a ticket about? A linear head on the sentence encoder.

Every routine intent has one passage, so past tickets teach the head which wordings
mean which passage; the passages' own texts are rows too. Needs the `learn` extra.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.router.classifier import PICKED

Floats = NDArray[np.float64]

STRENGTH = 30.0
"""Inverse regularisation, by cross-validation on the training split; a factor of three either way changes little."""

FOLDS = 5
SEED = 7


@dataclass(frozen=True, slots=True)
class PassageHead:
    """Weights (384, passages) and bias (passages,) of a softmax over `passages`."""

    passages: tuple[str, ...]
    weights: Floats
    bias: Floats

    def probabilities(self, embeddings: Floats) -> Floats:
        """(n, passages), for embeddings (n, 384)."""
        logits = embeddings @ self.weights + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit(embeddings: Floats, subjects: Sequence[str], knowledge: Floats, passages: Sequence[str]) -> PassageHead:
    """Fit on tickets (n, 384) with known subjects, and on the passages themselves, (len(passages), 384)."""
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=STRENGTH, max_iter=5_000)
    model.fit(np.vstack([embeddings, knowledge]), [*subjects, *passages])
    return PassageHead(tuple(model.classes_.tolist()), model.coef_.T, model.intercept_)


def out_of_fold(embeddings: Floats, subjects: Sequence[str], knowledge: Floats, passages: Sequence[str]) -> Floats:
    """Probabilities (n, passages in sorted order) of tickets by heads that have not seen them.

    What a head says of its own training tickets is surer than it will ever be of
    a new one: an adapter trained on that would learn to trust it blindly.
    """
    from sklearn.model_selection import StratifiedKFold

    found = np.zeros((len(subjects), len(passages)))
    subjects_array = np.array(subjects)
    for fitted, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(embeddings, subjects_array):
        head = fit(embeddings[fitted], subjects_array[fitted].tolist(), knowledge, passages)
        found[held_out] = head.probabilities(embeddings[held_out])
    return found


def picked(probabilities: Floats, passages: Sequence[str]) -> list[tuple[str, ...]]:
    """The likeliest passages of each row, likeliest first."""
    best = np.argsort(-probabilities, axis=1)[:, :PICKED]
    return [tuple(passages[i] for i in row) for row in best]
