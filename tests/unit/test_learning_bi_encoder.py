"""The encoder that is taught which passage a ticket is about."""

from pathlib import Path

import numpy as np
import pytest

from workers.knowledge import Passage

pytest.importorskip("torch", reason="learning needs the extra `learn`: make test-learn")
pytest.importorskip("transformers", reason="learning needs the extra `learn`: make test-learn")

from workers.learning.bi_encoder import Recipe, teach
from workers.learning.encoder import encoder_source, export_encoder
from workers.learning.reading import read

PASSAGES = (
    Passage("orders.delivery", "orders", "Delivery takes 2 business days."),
    Passage("billing.late_fee", "billing", "A late bill costs a fee of $8."),
)
TEXTS = ("zorp", "quix", "flarn", "blick", "trob", "snee")
NAMES = ("orders.delivery",) * 3 + ("billing.late_fee",) * 3


def test_it_learns_words_that_it_can_not_have_known(tmp_path: Path) -> None:
    """Tickets about one passage come closer to each other than to the others; with one seed always the same."""
    recipe = Recipe(epochs=25, batch_size=6, encoder_rate=1e-3)
    folders = [teach(encoder_source(), TEXTS, NAMES, PASSAGES, tmp_path / name, recipe) for name in ("one", "two")]
    taught, again, before = (
        read(export_encoder(tmp_path / f"onnx-{i}", folder), list(TEXTS)).embeddings
        for i, folder in enumerate((*folders, None))
    )
    assert np.allclose(taught, again, atol=1e-5)
    assert margin(taught) > margin(before) + 0.1


def margin(embeddings: np.ndarray) -> float:
    """How much closer tickets are to those about the same passage, in cosines."""
    cosines = embeddings @ embeddings.T
    same = np.kron(np.eye(2), np.ones((3, 3))).astype(bool)
    return float(cosines[same & ~np.eye(6, dtype=bool)].mean() - cosines[~same].mean())


def test_a_passage_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(ValueError, match=r"no passage has the id 'orders\.gone'"):
        teach(encoder_source(), ["text"], ["orders.gone"], PASSAGES, tmp_path)
