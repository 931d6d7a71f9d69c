"""A toy encoder's graph and tokenizer for training a router in a second, and made-up outcomes to train it on.

The graph needs onnx, from the `learn` extra.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from workers.learning.labels import LabelledOutcome

SUBJECTS = {
    "billing": ["bill", "charge", "refund", "invoice", "euro"],
    "faults": ["router", "light", "signal", "cable", "reset"],
    "roaming": ["abroad", "trip", "border", "country", "travel"],
}
PLAIN = ["please", "help", "me", "with", "the", "a", "my", "is", "it", "now"]
HARD = ["again", "third", "lawyer", "contradict", "unless"]
"""What tier-1 can't cope with."""
WORDS = ["[PAD]", "[UNK]", *(word for words in SUBJECTS.values() for word in words), *PLAIN, *HARD, *"?!7"]

_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
encoder (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask) => (float[batch, 384] pooled)
{
    vectors = Gather (table, input_ids)
    turned = MatMul (vectors, turn)
    mask = Cast <to = 1> (attention_mask)
    column = Unsqueeze (mask, last)
    kept = Mul (turned, column)
    summed = ReduceSum <keepdims = 0> (kept, second)
    pooled = LpNormalization <axis = -1, p = 2> (summed)
}
"""


def toy_encoder(out: Path) -> Path:
    """Write encoder.onnx, summed word vectors, and tokenizer.json to the folder `out`; stands for `export_encoder`."""
    import onnx

    rng = np.random.default_rng(1)
    initializers: dict[str, Any] = {
        "table": rng.normal(size=(len(WORDS), 384)).astype(np.float32),
        "turn": (rng.normal(size=(384, 384)) / 20).astype(np.float32),
        "last": np.array([2]),
        "second": np.array([1]),
    }
    model = onnx.parser.parse_model(_GRAPH)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in initializers.items())
    for node in model.graph.node:
        # As the real exporter does.
        node.doc_string = "made in /a/folder"
        node.metadata_props.add(key="stack_trace", value="/a/folder/file.py, line 1")
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out / "encoder.onnx")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    (out / "tokenizer.json").write_text(tokenizer.to_str())
    return out / "encoder.onnx"


def toy_outcomes(count: int, seed: int = 1) -> list[LabelledOutcome]:
    """Tickets of three categories in turn; tier-1 fails where a hard word stands, tier-2's outcomes are not known."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        category = list(SUBJECTS)[i % len(SUBJECTS)]
        hard = bool(rng.random() < 0.4)
        words = [*rng.choice(SUBJECTS[category], 3), *rng.choice(PLAIN, rng.integers(2, 12))]
        words += list(rng.choice(HARD, 2)) if hard else []
        text = " ".join(rng.permutation(words).tolist())
        rows.append(LabelledOutcome(text=text, tier1_ok=not hard, category=category))
    return rows
