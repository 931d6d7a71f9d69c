"""Passes through the graph: the same numbers without padding and in fixed buckets, from any number of threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.toy_model import metadata, toy_graph
from workers.router.classifier import OUTPUTS
from workers.router.passes import Bucketed, Passes, Unpadded
from workers.router.pieces import padded
from workers.router.session import build_session

MAX_TOKENS = 40
SESSION = build_session(toy_graph(metadata(), []), "cpu")
RNG = np.random.default_rng(3)
TEXTS = [RNG.integers(1, 8, size=n).tolist() for n in RNG.integers(1, MAX_TOKENS + 1, size=150)]


@pytest.fixture(params=["unpadded", "bucketed"])
def passes(request: pytest.FixtureRequest) -> Iterator[Passes]:
    """Both ways; the GPU's memory is the CPU's here."""
    with ThreadPoolExecutor(2) as pool:
        yield Unpadded(SESSION, pool) if request.param == "unpadded" else Bucketed(SESSION, OUTPUTS, MAX_TOKENS, "cpu")


def alone(text: list[int], output: str) -> np.ndarray:
    found: np.ndarray = SESSION.run([output], padded([text]))[0][0]
    return found


@pytest.mark.parametrize("count", [1, 2, 9, 150])
def test_each_text_gets_what_it_gets_alone(passes: Passes, count: int) -> None:
    """In the order given, for any number of texts."""
    outputs = ["embedding", "p_ok"]
    found = passes.run(TEXTS[:count], outputs)
    for column, output in zip(found, outputs, strict=True):
        assert np.allclose(column, [alone(text, output) for text in TEXTS[:count]], atol=1e-6)


def test_a_second_batch_does_not_write_over_the_firsts_numbers(passes: Passes) -> None:
    """The memory on the device is the same one, what is handed out is not."""
    (first,) = passes.run([[2, 3]], ["embedding"])
    kept = first.copy()
    passes.run([[4, 5]], ["embedding"])
    assert np.array_equal(first, kept)


def test_calls_from_many_threads_do_not_mix(passes: Passes) -> None:
    """Two batches at a time are the rule: one is committed while the next is scored."""
    expected = [alone(text, "embedding") for text in TEXTS]
    with ThreadPoolExecutor(8) as callers:
        found = callers.map(lambda text: passes.run([text], ["embedding"])[0][0], TEXTS)
        assert np.allclose(list(found), expected, atol=1e-6)
