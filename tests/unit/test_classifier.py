"""The classifier, on a toy graph of the router model's shape."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from schemas.tickets import Ticket
from tests.toy_model import MAX_TOKENS, metadata, write_model
from workers.router import classifier as module
from workers.router.classifier import OUTPUTS, Classifier, Scores, ticket_text
from workers.router.passes import Bucketed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("router") / "model.onnx")


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier(model, threads=2)


TEXTS = ["refund invoice please", "red light", "router", "please refund invoice invoice", "unheard of", " "]


def same(one: Scores, other: Scores) -> bool:
    """Whether two scores are equal to the last bit."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Scores.__slots__)


def test_scores_come_in_the_order_given(classifier: Classifier) -> None:
    """Sorting by length and running side by side stay inside: each text's scores are the ones it gets alone."""
    together = classifier.classify(TEXTS)
    for text, scores in zip(TEXTS, together, strict=True):
        (alone,) = classifier.classify([text])
        assert same(scores, alone)
    assert [s.category for s in together[:4]] == ["billing", "faults", "faults", "billing"]
    assert together[2].p_ok == pytest.approx(1 / (1 + np.e))
    assert together[2].p_ok_tier2 == pytest.approx(1 / (1 + 1 / np.e))
    assert together[2].in_scope == together[2].p_ok


def test_embeddings_have_unit_length_and_are_the_scores_own(classifier: Classifier) -> None:
    """(n, 384) float32, row by row what classify gives."""
    texts = TEXTS[:-1]
    embeddings = classifier.embed(texts)
    assert embeddings.shape == (len(texts), 384)
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1)
    assert np.array_equal(embeddings, np.stack([s.embedding for s in classifier.classify(texts)]))


def test_no_texts_give_no_scores(classifier: Classifier) -> None:
    """An empty batch keeps its shape."""
    assert classifier.classify([]) == []
    assert classifier.embed([]).shape == (0, 384)


def test_a_gpus_padded_batches_give_the_scores_of_single_texts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU's provider here, through the same bound memory."""
    alone = Classifier(model).classify(TEXTS)
    monkeypatch.setattr(module, "Unpadded", lambda session, pool: Bucketed(session, OUTPUTS, MAX_TOKENS, "cpu"))
    for single, batched in zip(alone, Classifier(model).classify(TEXTS), strict=True):
        assert batched.p_ok == pytest.approx(single.p_ok)
        assert batched.passages == single.passages
        assert np.allclose(batched.embedding, single.embedding, atol=1e-6)


def test_a_long_text_keeps_its_ends_and_says_what_was_cut(classifier: Classifier) -> None:
    """The middle has no influence; the characters that weren't read are counted, spaces included."""
    kept, cut = classifier.classify(
        ["refund please light router red light", "refund please light of all router red light"]
    )
    assert np.array_equal(kept.embedding, cut.embedding)
    assert (kept.cut_chars, cut.cut_chars) == (0, len(" of all "))


def test_only_passages_are_given_as_passages(tmp_path: Path) -> None:
    """A class without a dot is a category of tickets that name no passage: tier-1 has nothing to read there."""
    bare = Classifier(write_model(tmp_path / "a.onnx", metadata(passages=json.dumps(["billing", "faults.light"]))))
    (scores,) = bare.classify(["refund invoice"])
    assert (scores.category, scores.passages) == ("billing", ("faults.light",))
    none = Classifier(write_model(tmp_path / "b.onnx", metadata(passages=json.dumps(["billing", "faults"]))))
    assert none.classify(["refund invoice"])[0].passages == ()


@pytest.mark.parametrize(("labels", "labelled"), [("0", False), ("1", True)])
def test_a_cold_start_says_that_it_has_no_labels(tmp_path: Path, labels: str, labelled: bool) -> None:
    """Its p_ok means nothing, and every score says so."""
    loaded = Classifier(write_model(tmp_path / "model.onnx", metadata(labels=labels)))
    assert loaded.labelled is labelled
    assert loaded.classify(["refund"])[0].labelled is labelled


def test_the_version_is_the_start_of_the_files_hash(classifier: Classifier, model: Path) -> None:
    """Two files with one version are the same file."""
    assert hashlib.sha256(model.read_bytes()).hexdigest().startswith(classifier.version)
    assert len(classifier.version) == 12


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    """The message holds the path that was looked for."""
    with pytest.raises(ValueError, match=r"can't read .*nowhere\.onnx"):
        Classifier(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("data", [b"", b"not a graph", struct.pack("<q", 1)])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, data: bytes) -> None:
    """A half-copied file, for one."""
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.onnx: not a graph"):
        Classifier(tmp_path / "model.onnx")


def test_a_tokenizer_that_is_none_is_named(tmp_path: Path) -> None:
    """JSON of another kind does not pass for a tokenizer."""
    with pytest.raises(ValueError, match=r"model\.onnx: not a tokenizer"):
        Classifier(write_model(tmp_path / "model.onnx", metadata(tokenizer="{}")))


@pytest.mark.parametrize("lacking", ["passages", "max_tokens", "tokenizer", "labels"])
def test_a_graph_without_our_metadata_is_refused(tmp_path: Path, lacking: str) -> None:
    """Any other ONNX file, say: without the names a category is only a number."""
    properties = {key: text for key, text in metadata().items() if key != lacking}
    with pytest.raises(ValueError, match=f"metadata lack passages, .*{lacking}"):
        Classifier(write_model(tmp_path / "model.onnx", properties))


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": "many"}, {"max_tokens": "3"}, {"passages": "billing"}, {"passages": "[]"}, {"labels": ""}]
)
def test_metadata_that_say_nothing_usable_are_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    """At load, not at the first ticket."""
    with pytest.raises(ValueError, match=r"model\.onnx: its metadata"):
        Classifier(write_model(tmp_path / "model.onnx", metadata(**wrong)))


def test_a_graph_of_an_older_version_is_refused(tmp_path: Path) -> None:
    """The message says which outputs it lacks, and what to do."""
    old = write_model(tmp_path / "model.onnx", outputs="p_ok passage_probs embedding")
    with pytest.raises(ValueError, match="lacks the outputs in_scope, p_ok_tier2: learn it anew"):
        Classifier(old)


def test_a_graph_whose_outputs_do_not_fit_its_names_is_refused(tmp_path: Path) -> None:
    """Three names for two classes: found by the first run, at load."""
    names = json.dumps(["billing.refund", "faults.light", "plans.upgrade"])
    with pytest.raises(ValueError, match=r"have the shapes .*\(2, 2\).*not .*\(2, 3\)"):
        Classifier(write_model(tmp_path / "model.onnx", metadata(passages=names)))


def test_a_gpu_that_is_not_there_is_an_error(model: Path) -> None:
    """A silent run on the CPU would be found out by its bill."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(RuntimeError, match="a GPU was asked for"):
        Classifier(model, device="cuda")


def test_the_encoder_reads_subject_body_and_context() -> None:
    """One a line, and no empty line for a missing subject."""
    ticket = Ticket(ticket_id="t", subject="Bill", body="Why?", context=("Plan: 39.",))  # type: ignore[arg-type]
    assert ticket_text(ticket) == "Bill\nWhy?\nPlan: 39."
    assert ticket_text(Ticket(ticket_id="t", body="Why?")) == "Why?"  # type: ignore[arg-type]
