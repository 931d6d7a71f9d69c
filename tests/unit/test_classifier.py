"""The classifier, on a toy graph of the router model's shape, written here: it needs neither onnx nor training."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from schemas.tickets import Ticket
from workers.router import classifier as module
from workers.router.classifier import Batching, Classifier, batches, padded, ticket_text

WORDS = ["[PAD]", "[UNK]", "refund", "router", "invoice", "red", "light", "please"]
MAX_TOKENS = 6
METADATA = {"passages": json.dumps(["billing.refund", "faults.light"]), "max_tokens": str(MAX_TOKENS)}

# The few protobuf messages of ONNX that the toy needs: (field number, value) pairs. Source: onnx.proto.
Field = tuple[int, "int | str | bytes | list[Field]"]
FLOAT, INT64 = 1, 7


def message(*fields: Field) -> bytes:
    """Protobuf wire format: integers as varints, all else length-delimited."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else message(*value) if isinstance(value, list) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def node(op: str, inputs: str, output: str, **attributes: int) -> Field:
    named = [(1, name) for name in inputs.split()]
    integers: list[Field] = [(5, [(1, key), (3, value), (20, 2)]) for key, value in attributes.items()]
    return (1, [*named, (2, output), (4, op), *integers])


def tensor(name: str, values: np.ndarray) -> Field:
    kind = INT64 if values.dtype == np.int64 else FLOAT
    return (5, [*((1, size) for size in values.shape), (2, kind), (8, name), (9, values.tobytes())])


def value(field: int, name: str, kind: int, *sizes: str) -> Field:
    shape: list[Field] = [(1, [(2, size)]) for size in sizes]
    return (field, [(1, name), (2, [(1, [(1, kind), (2, shape)])])])


def toy_graph(metadata: dict[str, str]) -> bytes:
    """Word vectors, summed where the mask allows and normalised; p_ok falls with the number of words."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(len(WORDS), 384)).astype(np.float32)
    kinds = np.stack([table[2] + table[4], table[3] + table[5] + table[6]], axis=1).astype(np.float32)
    graph: list[Field] = [
        node("Gather", "table input_ids", "vectors"),
        node("Cast", "attention_mask", "mask", to=FLOAT),
        node("Unsqueeze", "mask last_axis", "mask_column"),
        node("Mul", "vectors mask_column", "kept"),
        node("ReduceSum", "kept second_axis", "summed", keepdims=0),
        node("LpNormalization", "summed", "embedding", axis=-1, p=2),
        node("MatMul", "embedding kinds", "passage_logits"),
        node("Softmax", "passage_logits", "passage_probs", axis=-1),
        node("ReduceSum", "mask second_axis", "words", keepdims=0),
        node("Neg", "words", "fewer"),
        node("Sigmoid", "fewer", "p_ok"),
        (2, "toy"),
        tensor("table", table),
        tensor("kinds", kinds),
        tensor("second_axis", np.array([1])),
        tensor("last_axis", np.array([2])),
        value(11, "input_ids", INT64, "batch", "sequence"),
        value(11, "attention_mask", INT64, "batch", "sequence"),
        value(12, "p_ok", FLOAT, "batch"),
        value(12, "passage_probs", FLOAT, "batch", "passages"),
        value(12, "embedding", FLOAT, "batch", "width"),
    ]
    properties: list[Field] = [(14, [(1, key), (2, text)]) for key, text in metadata.items()]
    return message((1, 8), (7, graph), (8, [(1, ""), (2, 17)]), *properties)


def write_model(folder: Path, metadata: dict[str, str]) -> Path:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.onnx").write_bytes(toy_graph(metadata))
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("router"), METADATA)


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier(model)


TEXTS = ["refund invoice please", "red light", "router", "please refund invoice invoice", "unheard of"]


def test_scores_come_in_the_order_given(classifier: Classifier) -> None:
    """Sorting by length stays inside: each text's scores are the ones it gets alone."""
    together = classifier.classify(TEXTS)
    for text, scores in zip(TEXTS, together, strict=True):
        (alone,) = classifier.classify([text])
        assert (scores.p_ok, scores.category, scores.p_category) == (alone.p_ok, alone.category, alone.p_category)
        assert np.array_equal(scores.embedding, alone.embedding)
    assert [s.category for s in together[:4]] == ["billing", "faults", "faults", "billing"]
    assert together[2].p_ok == pytest.approx(1 / (1 + np.e))


def test_embeddings_have_unit_length_and_are_the_scores_own(classifier: Classifier) -> None:
    """(n, 384) float32, row by row what classify gives."""
    embeddings = classifier.embed(TEXTS)
    assert embeddings.shape == (len(TEXTS), 384)
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1)
    assert np.array_equal(embeddings, np.stack([s.embedding for s in classifier.classify(TEXTS)]))


def test_no_texts_give_no_scores(classifier: Classifier) -> None:
    """An empty batch keeps its shape."""
    assert classifier.classify([]) == []
    assert classifier.embed([]).shape == (0, 384)


def test_padding_changes_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's padded batches give the scores of single texts."""
    alone = Classifier(model).classify(TEXTS)
    monkeypatch.setitem(module.BATCHING, "cpu", Batching(3, 4))
    for single, batched in zip(alone, Classifier(model).classify(TEXTS), strict=True):
        assert batched.p_ok == pytest.approx(single.p_ok)
        assert np.allclose(batched.embedding, single.embedding, atol=1e-6)


def test_a_long_text_is_cut_where_the_metadata_says(classifier: Classifier) -> None:
    """What comes after the limit has no influence."""
    kept = " ".join(["please"] * MAX_TOKENS)
    assert np.array_equal(classifier.embed([kept]), classifier.embed([kept + " router red light"]))


def test_the_version_is_the_start_of_the_files_hash(classifier: Classifier, model: Path) -> None:
    """Two files with one version are the same file."""
    assert hashlib.sha256(model.read_bytes()).hexdigest().startswith(classifier.version)
    assert len(classifier.version) == 12


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    """The message holds the path that was looked for."""
    with pytest.raises(ValueError, match=r"can't read .*nowhere\.onnx"):
        Classifier(tmp_path / "nowhere.onnx")


def test_a_missing_tokenizer_is_named(model: Path, tmp_path: Path) -> None:
    """It belongs beside the model."""
    (tmp_path / "model.onnx").write_bytes(model.read_bytes())
    with pytest.raises(ValueError, match=r"can't read .*tokenizer\.json"):
        Classifier(tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"not a graph", struct.pack("<q", 1)])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, data: bytes) -> None:
    """A half-copied file, for one."""
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.onnx: not a graph"):
        Classifier(tmp_path / "model.onnx")


def test_a_tokenizer_that_is_none_is_named(model: Path, tmp_path: Path) -> None:
    """JSON of another kind does not pass for a tokenizer."""
    (tmp_path / "model.onnx").write_bytes(model.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Classifier(tmp_path / "model.onnx")


@pytest.mark.parametrize("metadata", [{}, METADATA | {"max_tokens": "many"}, METADATA | {"passages": "billing"}])
def test_a_graph_without_our_metadata_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    """Any other ONNX file, say: without the names a category is only a number."""
    with pytest.raises(ValueError, match="metadata lacks passages or max_tokens"):
        Classifier(write_model(tmp_path, metadata))


def test_a_gpu_that_is_not_there_is_an_error(model: Path) -> None:
    """A silent run on the CPU would be found out by its bill."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(RuntimeError, match="a GPU was asked for"):
        Classifier(model, device="cuda")


def test_a_session_that_fell_back_to_the_cpu_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime with CUDA, on a machine where CUDA doesn't start: it lists the provider and runs on the CPU."""
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda data, options, providers: session(data, options))
    with pytest.raises(RuntimeError, match=r"a GPU was asked for.*did not start"):
        Classifier(model, device="cuda")


@given(lengths=st.lists(st.integers(1, 50), max_size=40), size=st.integers(1, 9))
def test_batches_hold_every_text_once_and_never_too_many(lengths: list[int], size: int) -> None:
    """And no text is longer than one of a later batch."""
    found = list(batches(lengths, size))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in found)
    assert [lengths[i] for batch in found for i in batch] == sorted(lengths)


@given(pieces=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=20), min_size=1, max_size=6))
def test_padding_is_masked_and_fills_up_to_the_multiple(pieces: list[list[int]]) -> None:
    """The mask keeps exactly the text, and the width is the least multiple that holds the longest."""
    feed = padded(pieces, 8)
    ids, mask = feed["input_ids"], feed["attention_mask"]
    assert ids.shape[1] % 8 == 0
    assert 0 <= ids.shape[1] - max(map(len, pieces)) < 8
    assert [row[keep == 1].tolist() for row, keep in zip(ids, mask, strict=True)] == pieces
    assert not ids[mask == 0].any()


def test_the_encoder_reads_subject_body_and_context() -> None:
    """One a line, and no empty line for a missing subject."""
    ticket = Ticket(ticket_id="t", subject="Bill", body="Why?", context=("Plan: 39.",))  # type: ignore[arg-type]
    assert ticket_text(ticket) == "Bill\nWhy?\nPlan: 39."
    assert ticket_text(Ticket(ticket_id="t", body="Why?")) == "Why?"  # type: ignore[arg-type]
