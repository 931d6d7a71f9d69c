"""Will a tier's answer be acceptable? Two logistic regressions, on what a ticket says and on what it means, mixed.

One reads the phrases (phrases.py), one the sentence embedding. How much each counts is fitted on predictions for rows
that they have not seen, and the same fit calibrates the mix: it is Platt's scaling with two inputs. Needs the `learn`
extra.

Source: Platt, "Probabilistic outputs for support vector machines", 1999; Wolpert, "Stacked generalization", 1992.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.learning.phrases import SHAPE, Phrases
from workers.learning.reading import Indices, Reading

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

FOLDS = 5
SEED = 7

PHRASES_C, EMBEDDING_C = 1.0, 0.3
"""Inverse strengths of the regularisation, one pair for all sets, tried on other splits than those reported. Few labels
want more of it (MMLU with 1,500: APGR 0.656 by 1 and 1, 0.662 by these, 0.667 by 0.5 and 0.1), LLMRouter's set less
(0.855, 0.850, 0.837); MMLU with 9,000 doesn't care."""

CERTAIN = 20.0
"""A logit whose probability is 1 in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """n tickets as the two regressions see them."""

    phrases: Any
    """CSR, (n, Phrases.columns)."""
    embeddings: Floats
    """(n, 384)"""
    shape: Floats
    """(n, 5): stands in `phrases`, too."""
    certainty: Floats
    """(n,): probability of the likeliest class, by a head that has not seen the ticket; 0 where there are no classes.
    A ticket that is about nothing known is one that tier-1 will make something up for."""

    @classmethod
    def of(cls, phrases: Phrases, reading: Reading, certainty: Floats | None = None) -> "Views":
        """The views of a reading."""
        none = np.zeros(len(reading))
        shape = phrases.shape(reading.pieces)
        return cls(phrases.rows(reading.pieces), reading.embeddings, shape, none if certainty is None else certainty)

    def take(self, rows: Indices) -> "Views":
        """Some of the tickets."""
        return Views(self.phrases[rows], self.embeddings[rows], self.shape[rows], self.certainty[rows])

    def wording(self) -> Any:
        """What the first regression sees, CSR."""
        from scipy import sparse

        return sparse.hstack([self.phrases, sparse.csr_matrix(self.certainty[:, None])]).tocsr()

    def meaning(self) -> Floats:
        """What the second regression sees."""
        return np.column_stack([self.embeddings, self.shape, self.certainty])


@dataclass(frozen=True, slots=True, eq=False)
class Success:
    """A calibrated logit: linear in the views."""

    phrases: Floats
    """(Phrases.columns,)"""
    embedding: Floats
    """(384,)"""
    certainty: float
    bias: float

    def logits(self, views: Views) -> Floats:
        """(n,)"""
        found = views.phrases @ self.phrases + views.embeddings @ self.embedding
        return np.asarray(found + self.certainty * views.certainty + self.bias)

    def probabilities(self, views: Views) -> Floats:
        """(n,) within [0, 1]."""
        return np.asarray(1 / (1 + np.exp(-self.logits(views))))


def fit(views: Views, ok: Booleans, weight: Floats) -> Success:
    """Fit on n tickets with known outcomes, `ok` (n,), each counting for its `weight` (n,).

    Raises: ValueError if there are fewer than FOLDS good or bad ones.
    """
    for kind, count in (("acceptable", int(ok.sum())), ("unacceptable", int((~ok).sum()))):
        if count < FOLDS:
            raise ValueError(f"too few outcomes to learn from: {count} {kind} ones, {FOLDS} are the least")
    held_out = np.zeros((len(ok), 2))
    for fitted, others in folds(ok):
        one, two = _pair(views.take(fitted), ok[fitted], weight[fitted])
        left = views.take(others)
        held_out[others] = np.column_stack(
            [one.decision_function(left.wording()), two.decision_function(left.meaning())]
        )
    (share_one, share_two), shift = mix(held_out, ok, weight)
    one, two = _pair(views, ok, weight)
    wording, meaning = one.coef_[0], two.coef_[0]
    size, width = views.embeddings.shape[1], len(SHAPE)
    phrases = share_one * wording[:-1]
    phrases[-width:] += share_two * meaning[size : size + width]
    return Success(
        phrases=phrases,
        embedding=share_two * meaning[:size],
        certainty=float(share_one * wording[-1] + share_two * meaning[-1]),
        bias=float(share_one * one.intercept_[0] + share_two * two.intercept_[0] + shift),
    )


def constant(views: Views, probability: float) -> Success:
    """The same for every ticket: for a tier of whose failures nothing is known."""
    logit = np.log(probability / (1 - probability)) if 0 < probability < 1 else CERTAIN * (2 * probability - 1)
    return Success(np.zeros(views.phrases.shape[1]), np.zeros(views.embeddings.shape[1]), 0.0, float(logit))


def folds(ok: Booleans) -> Iterator[tuple[Indices, Indices]]:
    """Indices to fit on and to hold out, with about as many good ones in each fold."""
    from sklearn.model_selection import StratifiedKFold

    yield from StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(ok, ok)


def mix(held_out: Floats, ok: Booleans, weight: Floats) -> tuple[Floats, float]:
    """Shares (2,) and a shift that make held-out logits (n, 2) into one calibrated logit.

    A share below 0 is what cross-validation makes of noise: that view is left out, and where both say nothing,
    every ticket gets the base rate.
    """
    from sklearn.linear_model import LogisticRegression

    shares, used = np.zeros(2), [0, 1]
    while used:
        fitted = LogisticRegression().fit(held_out[:, used], ok, weight)
        if (fitted.coef_[0] > 0).all():
            shares[used] = fitted.coef_[0]
            return shares, float(fitted.intercept_[0])
        used.pop(int(fitted.coef_[0].argmin()))
    rate = np.average(ok, weights=weight)
    return shares, float(np.log(rate / (1 - rate)))


def _pair(views: Views, ok: Booleans, weight: Floats) -> tuple[Any, Any]:
    from sklearn.linear_model import LogisticRegression

    return tuple(
        LogisticRegression(C=strength, max_iter=1_000).fit(features, ok, weight)
        for strength, features in ((PHRASES_C, views.wording()), (EMBEDDING_C, views.meaning()))
    )
