"""The first day: past tickets, and no outcome of any. Their categories are clusters of their embeddings, each named by
the words that tell it from the others.

What this makes is categories to collect labels by, not a router: nothing is known of p_ok, so every ticket goes to
tier-2 until labels come in. Needs the `learn` extra.
"""

import random
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from workers.learning.labels import LabelledOutcome

Floats = NDArray[np.float64]
T = TypeVar("T")

MOST_TICKETS = 5_000
"""Of more, a fair sample is taken: their embeddings take a minute or two on two cores, and more move no cluster."""

CLUSTERS = (4, 6, 8, 12, 16, 24, 32, 48)
"""Numbers of clusters that are tried. More categories than these would each wait long for enough labels, though the
silhouette may go on rising (banking77's 77 intents: purity 0.50, NMI 0.75 at 48; 0.68 and 0.79 at 96; Fernway's 61
intents: 0.55 and 0.64 at 48, which is its best)."""

LEAST_TICKETS = 10
"""A cluster of fewer goes to its nearest neighbours: a head can't be fitted, nor a threshold, on a handful."""

SILHOUETTE_SAMPLE = 2_000
"""Tickets that a number of clusters is judged on: the judgement takes the square of it."""

NAMING_TICKETS = 5
"""A word names a cluster only if as many of its tickets hold it: a rarer one may be a customer's name."""

_WORD = re.compile(r"[^\W\d_]{3,}")


class Reservoir(Generic[T]):
    """A fair sample of a stream of unknown length. Source: Vitter, "Random sampling with a reservoir", 1985."""

    def __init__(self, size: int, seed: int) -> None:
        self.kept: list[T] = []
        self.seen = 0
        self._size = size
        self._rng = random.Random(seed)

    def add(self, item: T) -> None:
        self.seen += 1
        if len(self.kept) < self._size:
            self.kept.append(item)
        elif (place := self._rng.randrange(self.seen)) < self._size:
            self.kept[place] = item


def categorised(rows: Sequence[LabelledOutcome], seed: int) -> list[LabelledOutcome]:
    """The rows with their clusters' names for categories, and without outcomes if they had any.

    Raises: ValueError as `cluster`.
    """
    from workers.learning.encoder import export_encoder, quantise
    from workers.learning.reading import read

    texts = [row.text for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        encoder = quantise(export_encoder(Path(folder) / "float32"), Path(folder) / "int8" / "encoder.onnx")
        names = cluster(read(encoder, texts).embeddings, texts, seed)
    return [LabelledOutcome(text=text, category=name) for text, name in zip(texts, names, strict=True)]


def cluster(embeddings: Floats, texts: Sequence[str], seed: int) -> list[str]:
    """A category for each ticket; embeddings (n, 384) are of unit length. The same input and seed give the same.

    k-means, with the number of clusters of the best silhouette.

    Raises: ValueError if there are too few tickets for two clusters.
    """
    if len(texts) < 2 * LEAST_TICKETS:
        raise ValueError(f"{len(texts)} tickets: at least {2 * LEAST_TICKETS} are needed to find categories in them")
    cluster_of = _large_ones(embeddings, _best(embeddings, seed))
    names = names_of(texts, cluster_of)
    return [names[number] for number in cluster_of]


def _best(embeddings: Floats, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    judged = np.random.default_rng(seed).permutation(len(embeddings))[:SILHOUETTE_SAMPLE]
    # k-means warns, and gives empty clusters, where there are fewer different points than clusters.
    distinct = len(np.unique(embeddings.round(5), axis=0))
    if distinct < 2:
        raise ValueError(f"{len(embeddings)} tickets say the same: there are no categories to find in them")
    found: tuple[float, Any] = (-np.inf, None)
    for k in [k for k in CLUSTERS if k <= distinct and k * LEAST_TICKETS <= len(embeddings)] or [2]:
        cluster_of = KMeans(k, n_init=4, random_state=seed).fit_predict(embeddings)
        if 1 < len(set(cluster_of[judged])) < len(judged):
            found = max(found, (silhouette_score(embeddings[judged], cluster_of[judged]), cluster_of), key=_first)
    if found[1] is None:
        raise ValueError(f"{len(embeddings)} tickets are too much alike: there are no categories to find in them")
    return np.asarray(found[1], dtype=np.int64)


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]


def _large_ones(embeddings: Floats, cluster_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """The clusters (n,), numbered from the largest on, with those of too few tickets dissolved into the nearest."""
    sizes = Counter(cluster_of.tolist())
    kept = [number for number, size in sizes.most_common() if size >= LEAST_TICKETS] or [sizes.most_common(1)[0][0]]
    centres = np.stack([embeddings[cluster_of == number].mean(axis=0) for number in kept])
    nearest = ((centres**2).sum(axis=1) - 2 * embeddings @ centres.T).argmin(axis=1)
    own = {number: place for place, number in enumerate(kept)}
    return np.array([own.get(number, int(nearest[i])) for i, number in enumerate(cluster_of.tolist())])


def names_of(texts: Sequence[str], cluster_of: Sequence[int] | NDArray[np.int64]) -> dict[int, str]:
    """A name for each cluster, such as `refund-charge`: its two most telling words, or `topic-3` where it has none.

    A word tells as much as its part of the divergence between the cluster's words and all words: common ones that
    are common everywhere tell nothing, in whatever language. Names are unique and hold no dots.
    """
    tickets, overall = Counter(int(number) for number in cluster_of), Counter[str]()
    within: dict[int, Counter[str]] = {number: Counter() for number in tickets}
    for text, number in zip(texts, cluster_of, strict=True):
        words = set(_WORD.findall(text.casefold()))
        overall.update(words)
        within[int(number)].update(words)
    names: dict[int, str] = {}
    for number in sorted(tickets):
        shares = {w: n / tickets[number] for w, n in within[number].items() if n >= NAMING_TICKETS}
        telling = {w: share * np.log(share * len(texts) / overall[w]) for w, share in shares.items()}
        ranked = [w for w in sorted(telling, key=lambda w: (-telling[w], w)) if telling[w] > 0]
        names[number] = _name(ranked, set(names.values())) or f"topic-{number + 1}"
    return names


def _name(words: Sequence[str], taken: set[str]) -> str:
    """The first word and the next one that isn't another form of it and makes a new name; empty if there is none."""
    for first in words[:1]:
        for second in words[1:]:
            if first[:4] != second[:4] and (name := f"{first}-{second}") not in taken:
                return name
        if first not in taken:
            return first
    return ""
