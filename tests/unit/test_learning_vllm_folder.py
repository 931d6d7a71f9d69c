"""An adapter that goes to llama.cpp and back is the one that was trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.learning.adapter import TARGETS, rotary_order, to_gguf
from workers.learning.vllm_folder import half_split_order, peft_name, to_peft

HEADS, KV_HEADS, HEAD_DIM, RANK, LAYERS = 3, 1, 4, 2, 2


@given(st.integers(1, 9), st.integers(1, 8), st.integers(1, 3))
def test_the_two_row_orders_are_each_others_inverse(heads: int, half_dim: int, rank: int) -> None:
    """Whatever the number and the size of the heads."""
    rows = np.arange(heads * half_dim * 2 * rank).reshape(-1, rank)
    assert np.array_equal(half_split_order(rotary_order(rows, heads), heads), rows)


def test_the_halves_of_a_head_are_interleaved_in_llama_cpp() -> None:
    """By hand, for one head of four rows: an inverse of the wrong thing would pass the test above."""
    assert half_split_order(np.array([[0], [2], [1], [3]]), 1).ravel().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("layer", ["q_proj", "gate_proj"])
def test_a_tensor_gets_its_name_in_peft(layer: str) -> None:
    """Attention and feed-forward layers sit in different blocks."""
    block = {"q_proj": "self_attn", "gate_proj": "mlp"}[layer]
    assert peft_name(f"blk.7.{TARGETS[layer]}.weight.lora_b") == (
        f"base_model.model.model.layers.7.{block}.{layer}.lora_B.weight",
        layer,
        "b",
    )


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "output_norm.weight", "blk.0.attn_sink.weight.lora_a"])
def test_another_tensor_is_refused(name: str) -> None:
    """A file that is no adapter, or one for another kind of model, is not half converted."""
    with pytest.raises(ValueError, match="no tensor of a LoRA"):
        peft_name(name)


def trained(folder: Path) -> dict[str, Any]:
    """A small peft folder, and its tensors."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(7)
    tensors = {}
    for layer in range(LAYERS):
        for target in TARGETS:
            block = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            rows = HEAD_DIM * (KV_HEADS if target in ("k_proj", "v_proj") else HEADS)
            name = f"base_model.model.model.layers.{layer}.{block}.{target}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(size=(RANK, 12)).astype(np.float16)
            tensors[f"{name}.lora_B.weight"] = rng.normal(size=(rows, RANK)).astype(np.float16)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, "r": RANK}))
    return tensors


def test_an_adapter_comes_back_as_it_was(tmp_path: Path) -> None:
    """Every tensor under its name, bit for bit, with its rank and alpha."""
    pytest.importorskip("gguf", reason="the learn extra is not installed")
    pytest.importorskip("safetensors", reason="the learn extra is not installed")
    from safetensors.numpy import load_file

    tensors = trained(tmp_path / "peft")
    to_gguf(tmp_path / "peft", tmp_path / "adapter.gguf", HEADS, KV_HEADS)
    back = to_peft(tmp_path / "adapter.gguf", tmp_path / "back", HEADS, KV_HEADS)
    found = load_file(back / "adapter_model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    config = json.loads((back / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (RANK, 4)
