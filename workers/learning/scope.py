"""Is this ticket like those that we learned from? What the router sends to tier-2 because nobody taught it otherwise.

Fitted on past tickets alone, without an example of what is foreign. Two kinds of
strangeness are added: how far the embedding is from its nearest past tickets, measured
by how far those are from theirs; and how rarely past tickets use its word pieces. The sum
is told as a conformal p-value, so that a threshold means a share of ordinary tickets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_TICKETS = 50
"""Fewer leave a p-value of 0.05 to the two or three strangest."""
MOST_TICKETS = 4_000
"""Of more, a random part is kept: its embeddings are 6 MB of the graph."""

NEIGHBOURS = 30
"""On Fernway 20 to 50 keep and catch alike (within 0.03); more blur small subjects. Of few tickets, one in ten."""
LEAST_DISTANCE = 0.01
"""Cosine distance of copies of one text. Were it 0, a template with a new number would be infinitely strange."""

VOCABULARY = 30_522
_UNSPOKEN = [0, 101, 102]
"""Padding, start and end: in every text of this tokenizer."""
_PRIOR_PIECES = 1_000.0
"""Weight of the background, in word pieces, in a piece's rate: 300 and 3,000 do as well."""
_COMMON_FROM = 998
"""The tokenizer numbers its words by falling frequency from here; before them are marks and unused numbers."""

FOLDS = 5
SEED = 7

_LEVELS = np.concatenate([np.arange(0, 0.9, 0.05), np.linspace(0.9, 1, 21)])
"""Quantiles of the held-out strangeness between which the p-value is linear: close where decisions are made."""

_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
scope (float[batch, 384] pooled, int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch] in_scope)
{
    scope_likeness = MatMul (pooled, scope_past)
    scope_nearest, scope_which = TopK <axis = -1> (scope_likeness, scope_neighbours)
    scope_mean_likeness = ReduceMean <keepdims = 1> (scope_nearest, scope_second_axis)
    scope_raw_distance = Sub (scope_one, scope_mean_likeness)
    scope_distance = Max (scope_raw_distance, scope_least_distance)
    scope_their_radii = Gather (scope_radii, scope_which)
    scope_radius = ReduceMean <keepdims = 1> (scope_their_radii, scope_second_axis)
    scope_ratio = Div (scope_distance, scope_radius)
    scope_remoteness = Log (scope_ratio)
    scope_each_rarity = Gather (scope_rarity, input_ids)
    scope_mask = Cast <to = 1> (attention_mask)
    scope_masked = Mul (scope_each_rarity, scope_mask)
    scope_sum = ReduceSum <keepdims = 1> (scope_masked, scope_second_axis)
    scope_length = ReduceSum <keepdims = 1> (scope_mask, scope_second_axis)
    scope_root = Sqrt (scope_length)
    scope_wording = Div (scope_sum, scope_root)
    scope_parts = Concat <axis = 1> (scope_remoteness, scope_wording)
    scope_strangeness = Gemm (scope_parts, scope_weights, scope_bias)
    scope_above = Sub (scope_strangeness, scope_knots)
    scope_climbed = Div (scope_above, scope_widths)
    scope_share = Clip (scope_climbed, scope_zero, scope_one)
    scope_lost = MatMul (scope_share, scope_steps)
    in_scope = Sub (scope_one, scope_lost)
}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What past tickets are like."""

    past: Floats
    """(n, 384), unit length."""
    radii: Floats
    """(n,): mean cosine distance of each past ticket to its nearest others."""
    neighbours: int
    rarity: Floats
    """(VOCABULARY,): log of a word piece's rate in any text over its rate in past tickets."""
    weights: Floats
    """(2,): of remoteness and wording in the strangeness, one over their deviations among held-out past tickets."""
    bias: float
    knots: Floats
    """(m + 1,), rising: strangeness at which the p-value bends."""
    steps: Floats
    """(m,): how far the p-value falls between two knots."""

    def in_scope(self, embeddings: Floats, pieces: Sequence[Sequence[int]]) -> Floats:
        """p-values (n,), for embeddings (n, 384) and word pieces with the start and the end."""
        remote = remoteness(embeddings, self.past, self.radii, self.neighbours)
        parts = np.column_stack([remote, wording(pieces, self.rarity)])
        above = (parts @ self.weights + self.bias)[:, None] - self.knots[:-1]
        return np.asarray(1 - np.clip(above / np.diff(self.knots), 0, 1) @ self.steps)

    def graph(self) -> tuple[str, dict[str, NDArray[Any]]]:
        """The same as a piece of ONNX graph, for `onnx.parser.parse_model`, and its initializers.

        Reads `pooled`, `input_ids` and `attention_mask` of the encoder's graph, gives `in_scope`, (batch,).
        """
        floats: dict[str, Any] = {
            "past": self.past.T,
            "radii": self.radii,
            "rarity": self.rarity,
            "weights": self.weights[:, None],
            "bias": [self.bias],
            "knots": self.knots[:-1],
            "widths": np.diff(self.knots),
            "steps": self.steps,
            "least_distance": LEAST_DISTANCE,
            "zero": 0.0,
            "one": 1.0,
        }
        initializers: dict[str, NDArray[Any]] = {
            f"scope_{name}": np.array(value, np.float32, order="C") for name, value in floats.items()
        }
        initializers["scope_neighbours"] = np.array([self.neighbours], np.int64)
        initializers["scope_second_axis"] = np.array([1], np.int64)
        return _GRAPH, initializers


def fit(embeddings: Floats, pieces: Sequence[Sequence[int]]) -> Scope:
    """Learn from past tickets: embeddings (n, 384) of unit length, and the word pieces of each.

    Raises: ValueError if there are fewer than LEAST_TICKETS.
    """
    if len(embeddings) < LEAST_TICKETS:
        raise ValueError(
            f"{len(embeddings)} past tickets are too few to say what is out of scope: {LEAST_TICKETS} are the least"
        )
    kept = np.random.default_rng(SEED).permutation(len(embeddings))[:MOST_TICKETS]
    past, texts = embeddings[kept], [pieces[int(i)] for i in kept]
    neighbours = min(NEIGHBOURS, len(past) // 10)
    parts = _held_out(past, texts, neighbours)
    weights = 1 / np.maximum(parts.std(axis=0), 1e-6)
    bias = -float(parts.mean(axis=0) @ weights)
    strangeness = parts @ weights + bias
    # Equal neighbours would make a step without a width.
    knots = np.maximum.accumulate(np.quantile(strangeness, _LEVELS) + 1e-6 * np.arange(len(_LEVELS)))
    # A ticket stranger than all n is one of n + 1: its p-value is not 0.
    steps = np.diff(_LEVELS) * len(past) / (len(past) + 1)
    return Scope(past, _radii(past, neighbours), neighbours, _rarity(texts), weights, bias, knots, steps)


def _held_out(past: Floats, texts: Sequence[Sequence[int]], neighbours: int) -> Floats:
    """Remoteness and wording of each past ticket, (n, 2), by what was learned without it: `past` is in random order."""
    parts = np.zeros((len(past), 2))
    for fold in range(FOLDS):
        held_out = np.arange(len(past)) % FOLDS == fold
        others = past[~held_out]
        rarity = _rarity([texts[int(i)] for i in np.flatnonzero(~held_out)])
        parts[held_out, 0] = remoteness(past[held_out], others, _radii(others, neighbours), neighbours)
        parts[held_out, 1] = wording([texts[int(i)] for i in np.flatnonzero(held_out)], rarity)
    return parts


def remoteness(embeddings: Floats, past: Floats, radii: Floats, neighbours: int) -> Floats:
    """(n,): log of the mean distance to the nearest past tickets over the mean of their radii.

    The plain distance calls the rare subject strange and the foreign ticket beside a crowded one ordinary.
    """
    likeness = embeddings @ past.T
    nearest = np.argpartition(-likeness, neighbours - 1, axis=1)[:, :neighbours]
    distance = 1 - np.take_along_axis(likeness, nearest, axis=1).mean(axis=1)
    return np.asarray(np.log(np.maximum(distance, LEAST_DISTANCE) / radii[nearest].mean(axis=1)))


def _radii(past: Floats, neighbours: int) -> Floats:
    likeness = past @ past.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = -np.partition(-likeness, neighbours - 1, axis=1)[:, :neighbours]
    return np.asarray(np.maximum(1 - nearest.mean(axis=1), LEAST_DISTANCE))


def wording(pieces: Sequence[Sequence[int]], rarity: Floats) -> Floats:
    """(n,): the summed rarity of a text's word pieces over the root of their number.

    The mean forgets that a long familiar text is better evidence than a short one: on Fernway it catches 0.03 less of
    clinc150's and 0.16 less of banking77's foreign texts, which are short; and a long foreign text passes more easily.
    """
    return np.array([rarity[list(text)].sum() / np.sqrt(len(text)) for text in pieces])


def _rarity(texts: Sequence[Sequence[int]]) -> Floats:
    """Background by Zipf's law: the tokenizer's numbers are ranks, which spares a corpus of ordinary language."""
    counts = np.bincount(np.concatenate([np.asarray(text) for text in texts]), minlength=VOCABULARY).astype(np.float64)
    counts[_UNSPOKEN] = 0
    background = 1 / (np.maximum(np.arange(VOCABULARY) - _COMMON_FROM, 0) + 3.0)
    background /= background.sum()
    rate = (counts + _PRIOR_PIECES * background) / (counts.sum() + _PRIOR_PIECES)
    rarity = np.log(background / rate)
    rarity[_UNSPOKEN] = 0
    return np.asarray(rarity)
