"""Ways to score prompts for the strong model: Headgate's, and those that it was chosen over.

Each learns from some rows of a set and gives a score for others; a larger one
means that the strong model is worth more there. `weak` and `strong` are
grades within [0, 1]. Only `headgate` is the product's code.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing_sets import Indices, RoutingSet
from workers.learning import phrases, success
from workers.learning.success import Views
from workers.router.pieces import load_tokenizer

Floats = NDArray[np.float64]
Method = Callable[[RoutingSet, Indices, Indices], Floats]

RIGHT = 0.5
"""The grade from which an answer counts as right; nearly all are 0 or 1."""

NEIGHBOURS = 100
RADIAL_WIDTH, RADIAL_RIDGE = 2.0, 10.0
"""Of the kernel regression; the best of a few tried on other splits than those reported."""


class Methods:
    """All methods by name, sharing the tokenizer's kinds of word pieces."""

    def __init__(self, tokenizer: str) -> None:
        self._kinds = phrases.kinds_of(load_tokenizer(tokenizer).get_vocab())
        self.baselines: dict[str, Method] = {"TF-IDF of words, logistic, gain label (the floor)": self.floor}
        self.tried: dict[str, Method] = {
            "prompt length": self.length,
            "nearest neighbours of the embedding": self.neighbours,
            "embedding, logistic, two models": self.embedding_alone,
            "embedding, radial kernel regression, two models": self.radial,
            "phrases, logistic, gain label": self.phrases_gain,
            "phrases, logistic, two models": self.phrases_alone,
            "phrases and embedding in one regression, two models": self.concatenated,
            "Headgate and radial kernel regression": self.with_radial,
        }

    def named(self, name: str) -> Method:
        """A method by its name in a table."""
        return {"Headgate": self.headgate, **self.baselines, **self.tried}[name]

    def views(self, rows: RoutingSet, train: Indices, test: Indices) -> tuple[Views, Views]:
        """The product's views of both parts; what it learns of phrases is from the first."""
        learned = rows.reading.take(train)
        fitted = phrases.fit(learned.pieces, self._kinds)
        return Views.of(fitted, learned), Views.of(fitted, rows.reading.take(test))

    def headgate(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        """P(strong right) - P(weak right), each mixed from phrases and embedding and calibrated."""
        one, two = self.probabilities(rows, train, test)
        return two - one

    def probabilities(self, rows: RoutingSet, train: Indices, test: Indices) -> tuple[Floats, Floats]:
        """P(weak right) and P(strong right)."""
        seen, unseen = self.views(rows, train, test)
        weight = np.ones(len(train))
        fitted = [success.fit(seen, grade[train] >= RIGHT, weight) for grade in (rows.weak, rows.strong)]
        return fitted[0].probabilities(unseen), fitted[1].probabilities(unseen)

    def floor(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        """What anyone would try first."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        seen = words.fit_transform([rows.prompts[i] for i in train])
        gains = rows.strong[train] > rows.weak[train]
        fitted = LogisticRegression(max_iter=1_000).fit(seen, gains)
        found: Floats = fitted.decision_function(words.transform([rows.prompts[i] for i in test]))
        return found

    def length(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        return np.array([float(len(rows.prompts[i])) for i in test])

    def neighbours(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        likeness = rows.reading.embeddings[test] @ rows.reading.embeddings[train].T
        nearest = np.argpartition(-likeness, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        gain: Floats = (rows.strong - rows.weak)[train][nearest].mean(axis=1)
        return gain

    def embedding_alone(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        seen, unseen = self.views(rows, train, test)
        return _two(seen.meaning(), unseen.meaning(), rows, train, success.EMBEDDING_C)

    def phrases_alone(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        seen, unseen = self.views(rows, train, test)
        return _two(seen.phrases, unseen.phrases, rows, train, success.PHRASES_C)

    def phrases_gain(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        seen, unseen = self.views(rows, train, test)
        return _probability(seen.phrases, unseen.phrases, rows.strong[train] > rows.weak[train], success.PHRASES_C)

    def concatenated(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        from scipy import sparse

        parts = [
            sparse.hstack([views.phrases, sparse.csr_matrix(views.embeddings)]).tocsr()
            for views in self.views(rows, train, test)
        ]
        return _two(parts[0], parts[1], rows, train, success.PHRASES_C)

    def radial(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        def kernel(a: Floats, b: Floats) -> Floats:
            found: Floats = np.exp(-RADIAL_WIDTH * (2 - 2 * (a @ b.T)))
            return found

        seen, unseen = rows.reading.embeddings[train], rows.reading.embeddings[test]
        gain = (rows.strong - rows.weak)[train]
        inner = kernel(seen, seen)
        inner[np.diag_indices_from(inner)] += RADIAL_RIDGE
        return np.asarray(kernel(unseen, seen) @ np.linalg.solve(inner, gain - gain.mean()))

    def with_radial(self, rows: RoutingSet, train: Indices, test: Indices) -> Floats:
        return self.headgate(rows, train, test) + self.radial(rows, train, test)


def _two(seen: object, unseen: object, rows: RoutingSet, train: Indices, strength: float) -> Floats:
    weak, strong = (_probability(seen, unseen, grade[train] >= RIGHT, strength) for grade in (rows.weak, rows.strong))
    return strong - weak


def _probability(seen: object, unseen: object, right: NDArray[np.bool_], strength: float) -> Floats:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=1_000).fit(seen, right)
    found: Floats = fitted.predict_proba(unseen)[:, 1]
    return found
