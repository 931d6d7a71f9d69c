"""Distillation: a LoRA adapter that teaches the small model answers to a company's tickets.

Trained with peft, served by llama.cpp: the last step writes the adapter as GGUF.
Needs the `learn` extra.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Self

from workers.learning.batches import batches
from workers.learning.company import Example, as_ticket
from workers.tier1.prompts import ChatMessage, chat

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


FURTHER = Recipe(epochs=0.5, learning_rate=5e-4)
"""For an adapter that has learned most of it already: half of what is new, gently (guesses)."""


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


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt, and the answer to give."""

    prompt: tuple[ChatMessage, ...]
    answer: str

    @classmethod
    def of(cls, lesson: Lesson, company: str) -> Self:
        """A lesson as tier-1 would be asked."""
        return cls(tuple(chat(as_ticket(lesson.example), company, lesson.passages)), lesson.example.reference)


def train(
    base: Path, lessons: Sequence[Lesson], company: str, out: Path, recipe: Recipe, start: Path | None = None
) -> Path:
    """Train an adapter on lessons; writes a peft folder and returns it."""
    return train_chats(base, [Chat.of(lesson, company) for lesson in lessons], out, recipe, start=start)


def train_chats(
    base: Path,
    chats: Sequence[Chat],
    out: Path,
    recipe: Recipe,
    held_out: Sequence[Chat] = (),
    start: Path | None = None,
) -> Path:
    """Train an adapter on chats, a new one or that of the peft folder `start`; writes a peft folder and returns it.
    With `held_out` chats, recipe.json says how well base model and adapter foresee their answers.

    Raises: ValueError if the chats are too few for one step.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device)
    lora = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    model = PeftModel.from_pretrained(model, start, is_trainable=True) if start else get_peft_model(model, lora)
    pairs = [chat_pair(tokenizer, each) for each in chats]
    batches = list(_batches(pairs, recipe))
    if not batches:
        raise ValueError(
            f"{len(pairs)} chats are too few: {recipe.epochs:g} epochs make no batch of {recipe.batch_size}"
        )
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
    made: dict[str, Any] = asdict(recipe) | {"pairs": len(pairs), "steps": len(batches)}
    if held_out:
        unseen = [chat_pair(tokenizer, each) for each in held_out]
        made["held_out"] = len(unseen)
        made["adapter_nats_per_token"] = _nats_per_token(model, unseen, recipe.batch_size, tokenizer.eos_token_id)
        with model.disable_adapter():
            made["base_nats_per_token"] = _nats_per_token(model, unseen, recipe.batch_size, tokenizer.eos_token_id)
    (out / "recipe.json").write_text(json.dumps(made))
    return out


def _nats_per_token(model: Any, pairs: Sequence[Pair], batch_size: int, pad: int) -> float:
    """How badly a model foresees answers: the mean of minus the log-probability of their tokens."""
    import torch

    model.eval()
    nats, tokens = 0.0, 0
    by_length = sorted(pairs, key=len)
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        ids, mask, labels = (t.to(model.device) for t in _padded(batch, pad))
        with torch.no_grad():
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        count = sum(len(each.answer) for each in batch)
        nats, tokens = nats + loss.item() * count, tokens + count
    return nats / tokens


def pair(tokenizer: Any, lesson: Lesson, company: str) -> Pair:
    """A lesson as token ids, in the model's own chat template."""
    return chat_pair(tokenizer, Chat.of(lesson, company))


def chat_pair(tokenizer: Any, each: Chat) -> Pair:
    """A chat as token ids, in the model's own chat template."""
    prompt = tokenizer.apply_chat_template(
        list(each.prompt), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    answer = tokenizer(each.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return Pair(list(prompt), answer)


def _batches(pairs: list[Pair], recipe: Recipe) -> Iterator[list[Pair]]:
    """Of all epochs; the last may be a part of one."""
    rng = random.Random(recipe.seed)
    steps = int(recipe.epochs * len(pairs) / recipe.batch_size)
    endless = chain.from_iterable(batches(pairs, recipe.batch_size, rng, len) for _ in repeat(None))
    return islice(endless, steps)


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
