"""An encoder that is taught which passage a ticket is about.

Each passage is a vector of unit length, at first its own text's embedding, and a ticket should be closer to its passage
than to the others: a softmax over cosines. So even a passage without tickets has its place. What the encoder was taught
says nothing of how well it reads the next ticket: outcomes and thresholds must come from other tickets. Needs the
`learn` extra.
"""

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.knowledge import Passage
from workers.learning.batches import batches
from workers.learning.encoder import pooled
from workers.learning.finetune import share_of_rate
from workers.router.cores import usable_cores
from workers.router.pieces import load_tokenizer, padded, tokenise


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to teach."""

    epochs: int = 3
    batch_size: int = 32
    encoder_rate: float = 1e-4
    passages_rate: float = 5e-3
    warmup_share: float = 0.1
    sharpness: float = 20.0
    """Cosines are multiplied by it before the softmax."""
    smoothing: float = 0.05
    """Of the labels: a few wordings fit two passages."""
    max_tokens: int = 128
    seed: int = 7


def teach(
    source: Path,
    texts: Sequence[str],
    names: Sequence[str],
    passages: Sequence[Passage],
    out: Path,
    recipe: Recipe | None = None,
) -> Path:
    """Tune an encoder on tickets' texts (n,) and the ids of their passages (n,); writes a Hugging Face folder for
    `export_encoder` to `out`, and returns it. `source` is such a folder. About 0.08 s of a core for a ticket in each
    epoch of bge-small.

    Raises: ValueError for a name that no passage has.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize
    from transformers import AutoModel

    recipe = recipe or Recipe()
    index = {passage.id: i for i, passage in enumerate(passages)}
    if unknown := set(names) - index.keys():
        raise ValueError(f"no passage has the id {min(unknown)!r}")
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(usable_cores())
    tokenizer = load_tokenizer((source / "tokenizer.json").read_text("utf-8"))
    encoder = AutoModel.from_pretrained(source, dtype=torch.float32)
    encoder.embeddings.requires_grad_(False)

    def pieces(of: Sequence[str]) -> list[list[int]]:
        return [tokenise(tokenizer, text, recipe.max_tokens).ids for text in of]

    def embedded(batch: Sequence[list[int]]) -> Any:
        inputs = {name: torch.from_numpy(ids) for name, ids in padded(batch).items()}
        states = encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        return normalize(pooled(states, inputs["attention_mask"]), dim=1)

    with torch.no_grad():
        of_passages = torch.nn.Parameter(embedded(pieces([passage.text for passage in passages])))
    tickets = list(zip(pieces(texts), (index[name] for name in names), strict=True))
    steps = recipe.epochs * -(-len(tickets) // recipe.batch_size)
    optimizer, schedule = _descent(encoder, of_passages, recipe, steps)
    rng, started = random.Random(recipe.seed), time.monotonic()
    encoder.train()
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        for batch in batches(tickets, recipe.batch_size, rng, lambda ticket: len(ticket[0])):
            of_tickets, about = zip(*batch, strict=True)
            cosines = embedded(of_tickets) @ normalize(of_passages, dim=1).T
            loss = cross_entropy(recipe.sharpness * cosines, torch.tensor(about), label_smoothing=recipe.smoothing)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(batch)
        print(
            f"epoch {epoch}/{recipe.epochs}  loss {total / len(tickets):.3f}  {time.monotonic() - started:.0f} s",
            flush=True,
        )
    encoder.save_pretrained(out)
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    return out


def _descent(encoder: Any, of_passages: Any, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """Optimizer and schedule: passages may move faster than the encoder."""
    import torch

    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in encoder.parameters() if p.requires_grad], "lr": recipe.encoder_rate},
            {"params": [of_passages], "lr": recipe.passages_rate},
        ],
        weight_decay=0.01,
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: share_of_rate(step, steps, recipe.warmup_share)
    )
