"""The router as one graph: it says what its parts say. Needs the `learn` extra."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.toy_encoder import SUBJECTS, toy_encoder, toy_outcomes
from workers.learning.graph import assemble
from workers.learning.heads import Heads, fit_heads
from workers.learning.labels import LabelledOutcome
from workers.learning.reading import Reading, read
from workers.learning.router import kinds, known
from workers.learning.success import Views
from workers.router.classifier import OUTPUTS, Classifier
from workers.router.passes import Bucketed
from workers.router.session import build_session

pytest.importorskip("sklearn")
onnx = pytest.importorskip("onnx")

MAX_TOKENS = 256


@dataclass(frozen=True)
class Made:
    """An assembled graph, its parts, and new tickets."""

    path: Path
    heads: Heads
    texts: list[str]
    reading: Reading


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Both tiers have outcomes: tier-2 fails where a ticket holds a seven."""
    encoder = toy_encoder(tmp_path_factory.mktemp("graph"))
    rng = np.random.default_rng(5)
    rows = [
        LabelledOutcome(
            text=row.text + " 7" * sevens, tier1_ok=row.tier1_ok, tier2_ok=not sevens, category=row.category
        )
        for row, sevens in zip(toy_outcomes(240), rng.integers(0, 2, 240).tolist(), strict=True)
    ]
    heads = fit_heads(rows, read(encoder, [row.text for row in rows]), known(encoder, []), kinds(encoder))
    path = assemble(encoder, "toy", heads)
    texts = [row.text for row in toy_outcomes(90, seed=2)]
    texts += ["refund", "?", "again again 7", " ".join(texts), "zebra", "a " * 400]
    return Made(path, heads, texts, read(encoder, texts))


def test_the_graph_says_what_its_parts_say(made: Made) -> None:
    """Every output, of short texts, long ones and such as hold no known word."""
    heads, reading = made.heads, made.reading
    scores = Classifier(made.path).classify(made.texts)
    probabilities = heads.classes.probabilities(heads.phrases, reading)
    views = Views.of(heads.phrases, reading, probabilities.max(axis=1))
    assert [s.p_ok for s in scores] == pytest.approx(heads.p_ok(reading), abs=1e-4)
    assert [s.p_ok_tier2 for s in scores] == pytest.approx(heads.tier2.probabilities(views), abs=1e-4)
    assert np.array([s.passage_probs for s in scores]) == pytest.approx(probabilities, abs=1e-4)
    assert np.array([s.embedding for s in scores]) == pytest.approx(reading.embeddings, abs=1e-5)
    in_scope = heads.scope.in_scope(reading.embeddings, reading.pieces)
    assert [s.in_scope for s in scores] == pytest.approx(in_scope, abs=1e-4)


def test_each_tier_has_its_own_probability(made: Made) -> None:
    """Hard words are too much for tier-1, sevens for tier-2."""
    plain, hard, seven = Classifier(made.path).classify(
        ["refund my bill please", "refund my bill third lawyer", "refund my bill please 7"]
    )
    assert plain.p_ok > 0.8 > 0.2 > hard.p_ok
    assert plain.p_ok_tier2 > 0.8 > 0.2 > seven.p_ok_tier2


def test_neighbours_and_padding_do_not_matter(made: Made) -> None:
    """In a GPU's fixed buckets each ticket gets what it gets alone, in every output."""
    session = build_session(made.path.read_bytes(), "cpu")
    together = Bucketed(session, OUTPUTS, MAX_TOKENS, "cpu").run(made.reading.pieces, OUTPUTS)
    alone = Classifier(made.path).classify(made.texts)
    for name, found in zip(OUTPUTS, together, strict=True):
        assert found == pytest.approx(np.array([getattr(scores, name) for scores in alone]), abs=1e-5)


def test_the_file_holds_all_that_serving_needs(made: Made) -> None:
    """Classes, limit, tokenizer and the number of labels; nothing of the machine that made it."""
    model = onnx.load(made.path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert set(metadata) == {"passages", "max_tokens", "encoder", "labels", "tokenizer"}
    assert json.loads(metadata["passages"]) == list(SUBJECTS)
    assert (metadata["max_tokens"], metadata["labels"]) == (str(MAX_TOKENS), "240")
    assert json.loads(metadata["tokenizer"]) == json.loads(made.path.with_name("tokenizer.json").read_text())
    assert {output.name for output in model.graph.output} == set(OUTPUTS)
    assert not any(part.doc_string or part.metadata_props for part in (*model.graph.node, *model.graph.initializer))
