"""The whole router as one ONNX file: encoder, heads and scope in one graph, the tokenizer in its metadata.

Its inputs and outputs are those that workers/router/classifier.py reads. Needs the `learn` extra.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.learning.encoder import MAX_TOKENS
from workers.learning.heads import Heads

_HEADS = """
<ir_version: 10, opset_import: ["" : 18]>
heads (float[batch, 384] pooled, float[batch, heads] phrase_logits)
    => (float[batch] p_ok, float[batch] p_ok_tier2, float[batch, classes] passage_probs, float[batch, 384] embedding)
{
    embedding = Identity (pooled)
    meaning_logits = Gemm (pooled, head_weights, head_bias)
    logits = Add (meaning_logits, phrase_logits)
    class_logits = Slice (logits, head_first, head_classes, head_axis)
    passage_probs = Softmax <axis = -1> (class_logits)
    certainty = ReduceMax <keepdims = 1> (passage_probs, head_axis)
    by_certainty = MatMul (certainty, head_certainty)
    ok_base = Slice (logits, head_classes, head_all, head_axis)
    ok_logits = Add (ok_base, by_certainty)
    ok = Sigmoid (ok_logits)
    p_ok = Gather <axis = 1> (ok, head_tier1)
    p_ok_tier2 = Gather <axis = 1> (ok, head_tier2)
}
"""


def assemble(encoder: Path, name: str, heads: Heads) -> Path:
    """Write model.onnx beside the encoder's graph and its tokenizer.json; returns its path.

    `name` is the encoder's, for the metadata.
    """
    import onnx

    model = onnx.load(encoder)
    # An output named like one of the encoder's inner values makes a file that onnxruntime refuses.
    onnx.compose.add_prefix(model, "encoder/", rename_inputs=False, rename_outputs=False, inplace=True)
    del model.graph.output[:]
    word_for_word = np.column_stack([heads.classes.phrases, heads.tier1.phrases, heads.tier2.phrases])
    for text, initializers in (heads.phrases.graph(word_for_word), (_HEADS, _weights(heads)), heads.scope.graph()):
        added = onnx.parser.parse_model(text).graph
        model.graph.node.extend(added.node)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in initializers.items())
        model.graph.output.extend(output for output in added.output if output.name != "phrase_logits")
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        # The exporter notes where each came from, with paths of the machine that it ran on.
        del part.metadata_props[:]
        part.doc_string = ""
    tokenizer = json.loads(encoder.with_name("tokenizer.json").read_text("utf-8"))
    metadata = {
        "passages": json.dumps(heads.classes.classes),
        "max_tokens": str(MAX_TOKENS),
        "encoder": name,
        "labels": str(heads.labels),
        "tokenizer": json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    out = encoder.with_name("model.onnx")
    onnx.save(model, out)
    return out


def _weights(heads: Heads) -> dict[str, NDArray[Any]]:
    classes, tiers = heads.classes, (heads.tier1, heads.tier2)
    count = len(classes.classes)
    floats = {
        "weights": np.column_stack([classes.embedding, *(tier.embedding for tier in tiers)]),
        "bias": np.append(classes.bias, [tier.bias for tier in tiers]),
        "certainty": np.array([[tier.certainty for tier in tiers]]),
    }
    whole: dict[str, Any] = {"first": [0], "classes": [count], "all": [count + 2], "axis": [1], "tier1": 0, "tier2": 1}
    return {f"head_{k}": np.array(v, np.float32, order="C") for k, v in floats.items()} | {
        f"head_{k}": np.array(v, np.int64) for k, v in whole.items()
    }
