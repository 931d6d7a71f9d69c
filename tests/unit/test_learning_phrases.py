"""Phrases and shapes of texts. What needs scipy or onnx is skipped without the `learn` extra."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.learning.phrases import BUCKETS, SHAPE, SHAPE_WEIGHT, Floats, Phrases, fit, grams, kinds_of
from workers.router.pieces import padded

VOCABULARY = 30_522
HEADS = 3
Run = Callable[[list[list[int]]], NDArray[np.float32]]


def some_texts(rng: np.random.Generator, count: int) -> list[list[int]]:
    """Word pieces between a start and an end: most of 200 common ones, so that pieces and pairs come again."""
    return [
        [101, *rng.integers(1_000, rng.choice([1_200, VOCABULARY], p=[0.9, 0.1]), rng.integers(0, 60)).tolist(), 102]
        for _ in range(count)
    ]


def some_kinds() -> Floats:
    return np.random.default_rng(2).integers(0, 2, (VOCABULARY, 3)).astype(float)


@pytest.fixture(scope="module")
def past() -> list[list[int]]:
    return some_texts(np.random.default_rng(1), 300)


@pytest.fixture(scope="module")
def phrases(past: list[list[int]]) -> Phrases:
    return fit(past, some_kinds())


def test_phrases_are_the_pieces_and_their_pairs_in_order() -> None:
    """The same two pieces the other way round are another pair; every one has a bucket, the last piece's pair too."""
    one, other = grams([5, 6, 7]), grams([6, 5, 7])
    assert (len(one), one[:3].tolist()) == (5, [5, 6, 7])
    assert not set(one[3:]) & set(other[3:])
    assert grams([VOCABULARY - 1] * 2).max() < BUCKETS
    assert grams([9]).tolist() == [9]


def test_kinds_say_what_continues_a_word_is_a_number_or_punctuation() -> None:
    """A continued number is both; a letter of any script is no punctuation."""
    vocabulary = {"red": 0, "##ly": 1, "42": 2, "##7": 3, "!": 4, "##?": 5, "é": 6}
    assert kinds_of(vocabulary).tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [1, 1, 0],
        [0, 0, 1],
        [1, 0, 1],
        [0, 0, 0],
    ]


def test_the_rarer_of_the_shared_phrases_weighs_more() -> None:
    """A phrase of one past text weighs nothing, however often that text says it."""
    fitted = fit([[1, 2], [1, 3], [1, 3], [4, 4, 4]], np.zeros((10, 3)))
    weight = fitted.idf[fitted.slots[:5]]
    assert weight[[2, 4]].tolist() == [0, 0]
    assert weight[3] > weight[1] > 0


def test_a_shape_is_told_in_deviations_of_past_texts(past: list[list[int]], phrases: Phrases) -> None:
    """Over the past texts each part has mean 0 and the one deviation that the regularisation counts with."""
    shape = phrases.shape(past)
    assert shape.mean(axis=0) == pytest.approx(np.zeros(len(SHAPE)), abs=1e-9)
    assert shape.std(axis=0) == pytest.approx(np.full(len(SHAPE), SHAPE_WEIGHT))


def test_a_shape_tells_length_repetition_and_kinds() -> None:
    """Each part of it answers to what it is named after, and past texts that are all alike divide by nothing."""
    kinds = np.zeros((10, 3))
    kinds[[7, 8, 9], [0, 1, 2]] = 1
    fitted = fit([[1, 2, 3, 4]] * 3, kinds)
    plain, longer, repeated, *kind = fitted.shape(
        [[1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 1, 1, 1], [7] * 4, [8] * 4, [9] * 4]
    )
    assert plain == pytest.approx(np.zeros(len(SHAPE)))
    assert longer[0] == pytest.approx(SHAPE_WEIGHT * np.log(5 / 4))
    # One piece and one pair of 4 + 3.
    assert repeated[1] == pytest.approx(SHAPE_WEIGHT * (2 / 7 - 1))
    assert np.diag(np.array(kind)[:, 2:]) == pytest.approx(np.full(3, SHAPE_WEIGHT))


def test_rows_have_unit_length_beside_their_shape(past: list[list[int]], phrases: Phrases) -> None:
    """However long the text; one that shares nothing with past texts has none."""
    pytest.importorskip("scipy")
    rows = phrases.rows([*past, [29_000, 29_001]]).toarray()
    assert rows.shape == (len(past) + 1, phrases.columns)
    assert np.linalg.norm(rows[:-1, : -len(SHAPE)], axis=1) == pytest.approx(np.ones(len(past)))
    assert not rows[-1, : -len(SHAPE)].any()
    assert rows[:, -len(SHAPE) :] == pytest.approx(phrases.shape([*past, [29_000, 29_001]]))


def test_unseen_phrases_weigh_nothing(past: list[list[int]], phrases: Phrases) -> None:
    """They change the shape alone, not what the familiar phrases beside them count for."""
    pytest.importorskip("scipy")
    unseen = np.flatnonzero(phrases.slots == 0)
    strangers = [int(piece) for piece in unseen[unseen < VOCABULARY][:3]]
    familiar, mixed = phrases.rows([past[0], [*past[0], *strangers]])[:, : -len(SHAPE)]
    assert mixed.toarray() == pytest.approx(familiar.toarray())


@pytest.fixture(scope="module")
def weights(phrases: Phrases) -> Floats:
    return np.random.default_rng(3).normal(size=(phrases.columns, HEADS))


@pytest.fixture(scope="module")
def run(phrases: Phrases, weights: Floats) -> Run:
    """The graph alone, of a padded batch."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("scipy")
    text, initializers = phrases.graph(weights)
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in initializers.items())
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda texts: np.asarray(session.run(["phrase_logits"], dict(padded(texts)))[0])


def test_the_graph_says_what_numpy_says(phrases: Phrases, weights: Floats, run: Run) -> None:
    """Of past texts and new ones, in batches as wide as their longest text."""
    texts = some_texts(np.random.default_rng(4), 120)
    expected = phrases.rows(texts) @ weights
    for start in range(0, len(texts), 30):
        part = slice(start, start + 30)
        assert run(texts[part]) == pytest.approx(expected[part], abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        [101, 102],
        [1_050],
        [101, *[1_050] * 30, 102],
        [101, *[1_050, 1_051] * 20, 102],
        [101, *range(1_000, 1_254), 102],
        [101, *[1_000 + i * i % 190 for i in range(254)], 102],
        [101, *range(29_000, 29_100), 102],
    ],
    ids=["no-words", "one-piece", "one-word-again-and-again", "one-pair-again-and-again", "longest", "long", "unseen"],
)
def test_the_graph_says_what_numpy_says_of_odd_texts(
    phrases: Phrases, weights: Floats, run: Run, text: list[int]
) -> None:
    """Alone, as serving on a CPU runs them, and padded."""
    expected = (phrases.rows([text]) @ weights)[0]
    assert run([text])[0] == pytest.approx(expected, abs=1e-4)
    assert run([text, [101, *range(1_000, 1_300), 102]])[0] == pytest.approx(expected, abs=1e-4)


def test_a_texts_phrases_do_not_depend_on_its_neighbours(run: Run) -> None:
    """Padding is no piece, not even of the pair with the text's last one."""
    texts = some_texts(np.random.default_rng(5), 20)
    alone = np.vstack([run([text]) for text in texts])
    assert run(texts) == pytest.approx(alone, abs=1e-5)
    assert run(texts[::-1])[::-1] == pytest.approx(alone, abs=1e-5)
