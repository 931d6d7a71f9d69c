"""What the trained adapter says, recorded when it was trained, so that a test can hold the served one against it.

llama.cpp serves the adapter from another file format, in other arithmetic; a
wrong permutation or a missing layer would still give fluent text.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from workers.learning.adapter import Lesson, pair
from workers.learning.company import as_ticket
from workers.tier1.prompts import chat

TOKENS = 24
"""Greedy tokens recorded of each prompt."""

LEAST_MARGIN = 1.0
"""How far ahead of the second the first token must always be, in nats. llama.cpp rounds activations to 8 bits, which
may turn a closer decision round; a wrong adapter moves logits by far more."""

PROMPTS = 8


def record(base: Path, adapter: Path, lessons: Sequence[Lesson], company: str, out: Path) -> None:
    """Write PROMPTS prompts (as chat messages) with the first greedy tokens' text that the trained model gives."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    rows = []
    for lesson in lessons:
        prompt = torch.tensor([pair(tokenizer, lesson, company).prompt])
        with torch.no_grad():
            made = model.generate(
                input_ids=prompt,
                max_new_tokens=TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        best = torch.cat(made.logits).topk(2).values
        if (best[:, 0] - best[:, 1]).min() < LEAST_MARGIN:
            continue
        text = tokenizer.decode(made.sequences[0, prompt.shape[1] :], skip_special_tokens=True)
        messages = chat(as_ticket(lesson.example), company, lesson.passages)
        rows.append({"messages": messages, "prompt_tokens": prompt.shape[1], "text": text})
        if len(rows) == PROMPTS:
            break
    out.write_text(json.dumps({"max_tokens": TOKENS, "prompts": rows}, indent=1) + "\n")
