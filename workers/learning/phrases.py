"""A text word for word: its word pieces and pairs of neighbours, weighed by TF-IDF, and its shape.

What decides whether a small model copes is often a turn of phrase that a sentence embedding smooths away: beside
it, phrases are the stronger half on public routing sets (benchmarks/router_quality.py has the figures). All is computed
from the encoder's own word pieces, so it fits into the same ONNX graph: pairs are hashed, there is no dictionary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BUCKETS = 2**18
"""Of the hash. Above the vocabulary of 30,522; with 2**16 a thousandth of APGR is lost on 9,000 prompts."""

_LEFT, _RIGHT = 31_337, 15_839
"""Primes; the largest word piece times either is far from the limits of int64."""

LEAST_TEXTS = 2
"""A phrase of a single past text says nothing about others."""

SHAPE_WEIGHT = 0.1
"""Of the shape beside the phrases, whose squares add up to 1, under one common regularisation. Three times as much cost
0.005 APGR on 1,500 prompts of MMLU, none at all 0.006 on 9,000."""

SHAPE = ("log_tokens", "distinct_share", "continued_share", "digit_share", "punctuation_share")

_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
phrases (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, heads] phrase_logits)
{
    phrase_mask = Cast <to = 1> (attention_mask)
    phrase_left = Slice (input_ids, phrase_0, phrase_minus_1, phrase_1)
    phrase_right = Slice (input_ids, phrase_1, phrase_end, phrase_1)
    phrase_left_part = Mul (phrase_left, phrase_left_factor)
    phrase_right_part = Mul (phrase_right, phrase_right_factor)
    phrase_sum = Add (phrase_left_part, phrase_right_part)
    phrase_pairs = Mod (phrase_sum, phrase_buckets)
    phrase_pair_mask = Slice (phrase_mask, phrase_1, phrase_end, phrase_1)
    phrase_grams = Concat <axis = 1> (input_ids, phrase_pairs)
    phrase_keep = Concat <axis = 1> (phrase_mask, phrase_pair_mask)

    phrase_column = Unsqueeze (phrase_grams, phrase_2)
    phrase_row = Unsqueeze (phrase_grams, phrase_1)
    phrase_equal = Equal (phrase_column, phrase_row)
    phrase_same = Cast <to = 1> (phrase_equal)
    phrase_keep_column = Unsqueeze (phrase_keep, phrase_2)
    phrase_counted = MatMul (phrase_same, phrase_keep_column)
    phrase_count = Max (phrase_counted, phrase_one)

    phrase_log = Log (phrase_count)
    phrase_tf = Add (phrase_log, phrase_one)
    phrase_tf_each = Div (phrase_tf, phrase_count)
    phrase_kept_tf = Mul (phrase_tf_each, phrase_keep_column)
    phrase_slots = Gather (phrase_slot, phrase_grams)
    phrase_idfs = Gather (phrase_idf, phrase_slots)
    phrase_weighed = Gather (phrase_weights, phrase_slots)
    phrase_terms = Mul (phrase_weighed, phrase_kept_tf)
    phrase_total = ReduceSum <keepdims = 0> (phrase_terms, phrase_1)
    phrase_value = Mul (phrase_idfs, phrase_kept_tf)
    phrase_square = Mul (phrase_value, phrase_value)
    phrase_square_once = Mul (phrase_square, phrase_count)
    phrase_norm_2 = ReduceSum <keepdims = 0> (phrase_square_once, phrase_1)
    phrase_norm = Sqrt (phrase_norm_2)
    phrase_some_norm = Max (phrase_norm, phrase_least)
    phrase_text_logits = Div (phrase_total, phrase_some_norm)

    phrase_once = Div (phrase_keep_column, phrase_count)
    phrase_distinct = ReduceSum <keepdims = 0> (phrase_once, phrase_1)
    phrase_all = ReduceSum <keepdims = 1> (phrase_keep, phrase_1)
    phrase_distinct_share = Div (phrase_distinct, phrase_all)
    phrase_tokens = ReduceSum <keepdims = 1> (phrase_mask, phrase_1)
    phrase_log_tokens = Log (phrase_tokens)
    phrase_kinds_each = Gather (phrase_kinds, input_ids)
    phrase_mask_column = Unsqueeze (phrase_mask, phrase_2)
    phrase_kinds_kept = Mul (phrase_kinds_each, phrase_mask_column)
    phrase_kinds_sum = ReduceSum <keepdims = 0> (phrase_kinds_kept, phrase_1)
    phrase_kinds_share = Div (phrase_kinds_sum, phrase_tokens)
    phrase_shape = Concat <axis = 1> (phrase_log_tokens, phrase_distinct_share, phrase_kinds_share)
    phrase_shape_logits = Gemm (phrase_shape, phrase_shape_weights, phrase_shape_bias)
    phrase_logits = Add (phrase_text_logits, phrase_shape_logits)
}
"""


@dataclass(frozen=True, slots=True, eq=False)
class Phrases:
    """Which phrases past texts share, and how common each is."""

    slots: NDArray[np.int32]
    """(BUCKETS,): a phrase's place in `idf`; 0 for those that past texts don't share."""
    idf: Floats
    """(seen + 1,); the first is 0."""
    kinds: Floats
    """(vocabulary, 3): whether a word piece continues a word, is a number, is punctuation."""
    mean: Floats
    """(5,), of the past texts' SHAPE."""
    deviation: Floats
    """(5,)"""

    @property
    def columns(self) -> int:
        """Of the rows."""
        return len(self.idf) + len(SHAPE)

    def rows(self, texts: Sequence[Sequence[int]]) -> Any:
        """A scipy CSR matrix, (n, columns): TF-IDF of unit length, then the shape."""
        from scipy import sparse

        counts = _counts(texts, self.slots, len(self.idf))
        counts.data = (1 + np.log(counts.data)) * self.idf[counts.indices]
        norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
        scaled = sparse.diags(1 / np.where(norms > 0, norms, 1)) @ counts
        return sparse.hstack([scaled, sparse.csr_matrix(self.shape(texts))]).tocsr()

    def shape(self, texts: Sequence[Sequence[int]]) -> Floats:
        """(n, 5): SHAPE in deviations from the past texts' mean, times SHAPE_WEIGHT."""
        return np.asarray(SHAPE_WEIGHT * (_shape(texts, self.kinds) - self.mean) / self.deviation)

    def graph(self, weights: Floats) -> tuple[str, dict[str, NDArray[Any]]]:
        """`rows @ weights`, (batch, heads), as a piece of ONNX graph and its initializers; weights (columns, heads).

        Reads `input_ids` and `attention_mask` of the encoder's graph, gives `phrase_logits`. A phrase is counted by
        comparing each with each: cheaper than a histogram over all buckets, and without one there is no limit on a
        batch. A ticket of 256 word pieces takes 0.26 million comparisons.
        """
        seen = len(self.idf)
        of_shape = SHAPE_WEIGHT * weights[seen:] / self.deviation[:, None]
        floats: dict[str, Any] = {
            "idf": self.idf[:, None],
            "weights": self.idf[:, None] * weights[:seen],
            "kinds": self.kinds,
            "shape_weights": of_shape,
            "shape_bias": -self.mean @ of_shape,
            "one": 1.0,
            "least": 1e-9,
        }
        whole: dict[str, Any] = {
            "0": [0],
            "1": [1],
            "2": [2],
            "minus_1": [-1],
            "end": [2**62],
            "left_factor": _LEFT,
            "right_factor": _RIGHT,
            "buckets": BUCKETS,
        }
        found: dict[str, NDArray[Any]] = {f"phrase_{k}": np.array(v, np.float32, order="C") for k, v in floats.items()}
        found |= {f"phrase_{k}": np.array(v, np.int64) for k, v in whole.items()}
        return _GRAPH, found | {"phrase_slot": self.slots}


def fit(texts: Sequence[Sequence[int]], kinds: Floats) -> Phrases:
    """Learn from past texts' word pieces; `kinds` as `kinds_of` gives them."""
    seen_in = np.bincount(np.concatenate([np.unique(grams(text)) for text in texts]), minlength=BUCKETS)
    shared = np.flatnonzero(seen_in >= LEAST_TEXTS)
    slots = np.zeros(BUCKETS, np.int32)
    slots[shared] = np.arange(1, len(shared) + 1)
    idf = np.append(0.0, np.log((1 + len(texts)) / (1 + seen_in[shared])) + 1)
    shape = _shape(texts, kinds)
    deviation = shape.std(axis=0)
    return Phrases(slots, idf, kinds, shape.mean(axis=0), np.where(deviation > 1e-9, deviation, 1.0))


def grams(text: Sequence[int]) -> NDArray[np.int64]:
    """Buckets of a text's word pieces, then of its pairs of neighbours."""
    ids = np.asarray(text, np.int64)
    return np.concatenate([ids, (ids[:-1] * _LEFT + ids[1:] * _RIGHT) % BUCKETS])


def kinds_of(vocabulary: dict[str, int]) -> Floats:
    """(len(vocabulary), 3): whether each word piece continues a word, is a number, is punctuation."""
    kinds = np.zeros((len(vocabulary), 3))
    for piece, number in vocabulary.items():
        text = piece.removeprefix("##")
        kinds[number] = piece.startswith("##"), text.isdigit(), not any(map(str.isalnum, text))
    return kinds


def _counts(texts: Sequence[Sequence[int]], slots: NDArray[np.int32], columns: int) -> Any:
    from scipy import sparse

    found = [slots[grams(text)] for text in texts]
    ends = np.cumsum([0, *map(len, found)])
    counts = sparse.csr_matrix((np.ones(ends[-1]), np.concatenate(found), ends), shape=(len(texts), columns))
    counts.sum_duplicates()
    return counts


def _shape(texts: Sequence[Sequence[int]], kinds: Floats) -> Floats:
    rows = []
    for text in texts:
        all_grams = grams(text)
        distinct = len(np.unique(all_grams)) / len(all_grams)
        rows.append([np.log(len(text)), distinct, *kinds[list(text)].mean(axis=0)])
    return np.array(rows)
