"""A toy graph with the router model's inputs, outputs and metadata, written byte by byte: no onnx, no training."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = ["[PAD]", "[UNK]", "refund", "router", "invoice", "red", "light", "please"]
MAX_TOKENS = 6

# The few protobuf messages of ONNX that the toy needs: (field number, value) pairs. Source: onnx.proto.
Field = tuple[int, "int | str | bytes | list[Field]"]
FLOAT, INT64 = 1, 7


def toy_tokenizer() -> Tokenizer:
    """A word is a word piece; nothing is put around them."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def metadata(**changes: str) -> dict[str, str]:
    """What a usable model's file says of itself, with changes."""
    usual = {
        "passages": json.dumps(["billing.refund", "faults.light"]),
        "max_tokens": str(MAX_TOKENS),
        "tokenizer": toy_tokenizer().to_str(),
        "labels": "100",
    }
    return usual | changes


def write_model(path: Path, properties: dict[str, str] | None = None, outputs: str = "") -> Path:
    """Write a model; `outputs` names the ones it has instead of all. The path may be one that is being served."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(toy_graph(properties or metadata(), outputs.split()))
    return beside.replace(path)


def toy_graph(properties: dict[str, str], outputs: list[str]) -> bytes:
    """Word vectors, summed where the mask allows and normalised; p_ok falls with the number of words, and tier-2's is
    what is left; in_scope is p_ok."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(len(WORDS), 384)).astype(np.float32)
    kinds = np.stack([table[2] + table[4], table[3] + table[5] + table[6]], axis=1).astype(np.float32)
    found = {
        "p_ok": value(12, "p_ok", FLOAT, "batch"),
        "p_ok_tier2": value(12, "p_ok_tier2", FLOAT, "batch"),
        "in_scope": value(12, "in_scope", FLOAT, "batch"),
        "passage_probs": value(12, "passage_probs", FLOAT, "batch", "passages"),
        "embedding": value(12, "embedding", FLOAT, "batch", "width"),
    }
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
        node("Sigmoid", "words", "p_ok_tier2"),
        node("Identity", "p_ok", "in_scope"),
        (2, "toy"),
        tensor("table", table),
        tensor("kinds", kinds),
        tensor("second_axis", np.array([1])),
        tensor("last_axis", np.array([2])),
        value(11, "input_ids", INT64, "batch", "sequence"),
        value(11, "attention_mask", INT64, "batch", "sequence"),
        *(found[name] for name in outputs or found),
    ]
    named: list[Field] = [(14, [(1, key), (2, text)]) for key, text in properties.items()]
    return message((1, 8), (7, graph), (8, [(1, ""), (2, 17)]), *named)


def message(*fields: Field) -> bytes:
    """Protobuf wire format: integers as varints, all else length-delimited."""
    out = b""
    for number, content in fields:
        if isinstance(content, int):
            out += varint(number << 3) + varint(content)
        else:
            data = content.encode() if isinstance(content, str) else content
            data = message(*data) if isinstance(data, list) else data
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def node(op: str, inputs: str, output: str, **attributes: int) -> Field:
    named: list[Field] = [(1, name) for name in inputs.split()]
    integers: list[Field] = [(5, [(1, key), (3, number), (20, 2)]) for key, number in attributes.items()]
    return (1, [*named, (2, output), (4, op), *integers])


def tensor(name: str, values: np.ndarray) -> Field:
    kind = INT64 if values.dtype == np.int64 else FLOAT
    sizes: list[Field] = [(1, size) for size in values.shape]
    return (5, [*sizes, (2, kind), (8, name), (9, values.tobytes())])


def value(field: int, name: str, kind: int, *sizes: str) -> Field:
    shape: list[Field] = [(1, [(2, size)]) for size in sizes]
    return (field, [(1, name), (2, [(1, [(1, kind), (2, shape)])])])
