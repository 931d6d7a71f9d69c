"""Distillation: a LoRA adapter that teaches the small model the company's reference answers.

Trained with peft, served by llama.cpp: the last step writes the adapter as GGUF.
Needs the `learn` extra.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.learning.company import Example, as_ticket
from workers.tier1.prompts import chat

TARGETS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
"""Every linear layer: its name in peft and in llama.cpp."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The defaults suit SmolLM2-135M on two cores."""

    rank: int = 16
    alpha: int = 32
    learning_rate: float = 1e-3
    batch_size: int = 8
    epochs: float = 1.6
    warmup_steps: int = 8
    seed: int = 7
    threads: int = 2


@dataclass(frozen=True, slots=True)
class Pair:
    """A training example as token ids; the loss is on the answer's tokens alone."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A ticket, the passages it goes with, and the answer to give."""

    example: Example
    passages: tuple[str, ...]
    """Texts, likeliest first."""


def train(base: Path, lessons: Sequence[Lesson], company: str, out: Path, recipe: Recipe) -> Path:
    """Train an adapter on lessons; writes a peft folder and returns it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device)
    model = get_peft_model(
        model, LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    )
    pairs = [pair(tokenizer, lesson, company) for lesson in lessons]
    batches = list(_batches(pairs, recipe))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_then_fall(recipe.warmup_steps, len(batches)))
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(batches, 1):
        ids, mask, labels = (t.to(device) for t in _padded(batch, pad=tokenizer.eos_token_id))
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == len(batches):
            print(f"step {step}/{len(batches)}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s", flush=True)
    model.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe) | {"pairs": len(pairs), "steps": len(batches)}))
    return out


def pair(tokenizer: Any, lesson: Lesson, company: str) -> Pair:
    """A lesson as token ids, in the model's own chat template."""
    messages = chat(as_ticket(lesson.example), company, lesson.passages)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    answer = tokenizer(lesson.example.reference, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return Pair(list(prompt), answer)


def _batches(pairs: list[Pair], recipe: Recipe) -> Iterator[list[Pair]]:
    """Batches of about equal lengths, so that padding wastes little; the last epoch may be a part of one."""
    rng = random.Random(recipe.seed)
    steps = int(recipe.epochs * len(pairs) / recipe.batch_size)
    while True:
        # Sorting within shuffled windows keeps batches even in length and different in every epoch.
        shuffled = rng.sample(pairs, len(pairs))
        window = recipe.batch_size * 8
        ordered = [p for i in range(0, len(shuffled), window) for p in sorted(shuffled[i : i + window], key=len)]
        epoch = [ordered[i : i + recipe.batch_size] for i in range(0, len(ordered), recipe.batch_size)]
        rng.shuffle(epoch)
        for batch in epoch:
            if steps == 0:
                return
            steps -= 1
            yield batch


def _padded(batch: list[Pair], pad: int) -> tuple[Any, Any, Any]:
    """(batch, seq_len) int64 tensors: input ids, attention mask, labels (-100 where no loss is taken)."""
    import torch

    width = max(map(len, batch))
    ids = [p.prompt + p.answer + [pad] * (width - len(p)) for p in batch]
    mask = [[1] * len(p) + [0] * (width - len(p)) for p in batch]
    labels = [[-100] * len(p.prompt) + p.answer + [-100] * (width - len(p)) for p in batch]
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)


def _warm_then_fall(warmup: int, total: int) -> Callable[[int], float]:
    return lambda step: min((step + 1) / warmup, max(0.0, (total - step) / max(1, total - warmup)))


def to_gguf(peft_folder: Path, out: Path, heads: int, kv_heads: int) -> None:
    """Write a peft LoRA folder as the GGUF adapter that llama.cpp loads (float16).

    llama.cpp keeps q and k in another rotary order than Hugging Face, so the rows
    of their lora_b are permuted as the base model's rows were.
    """
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((peft_folder / "adapter_config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, tensor in sorted(load_file(peft_folder / "adapter_model.safetensors").items()):
        # base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight
        parts = name.split(".")
        layer, target, side = parts[parts.index("layers") + 1], parts[-3], parts[-2].lower()
        if side == "lora_b" and target in ("q_proj", "k_proj"):
            tensor = rotary_order(tensor, heads if target == "q_proj" else kv_heads)
        writer.add_tensor(f"blk.{layer}.{TARGETS[target]}.weight.{side}", np.ascontiguousarray(tensor, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rotary_order(rows: Any, heads: int) -> Any:
    """Reorder (heads * head_dim, rank) rows from Hugging Face's half-split to llama.cpp's interleaved order."""
    count, rank = rows.shape
    return rows.reshape(heads, 2, count // heads // 2, rank).swapaxes(1, 2).reshape(count, rank)
