"""Full fine-tuning: an encoder that is taught, all of it, what the router wants to know of a ticket.

One network learns all tasks at once: tier-1's answer acceptable, tier-2's answer
acceptable, category or passage; a row teaches what is known of it. Its heads are
thrown away: those of the router are fitted on the new encoder as on the old one.

The rows that the encoder learned from are no measure of it any more: it pulls them
apart by heart, and heads fitted on them are far too sure of the next ticket. So it
learns from one part of the rows and leaves the other to whatever is fitted on its
embeddings. To tune one encoder for each fold would waste no row, but take five times
as long and leave the heads with embeddings of five kinds. Needs the `learn` extra.
"""

import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.learning.batches import batches
from workers.learning.encoder import encoder_source, pooled
from workers.learning.labels import LabelledOutcome, split, weights
from workers.router.classifier import EMBEDDING_SIZE
from workers.router.cores import usable_cores
from workers.router.pieces import load_tokenizer, padded, tokenise

UNKNOWN = -1
"""Of a row's class: neither passage nor category is known."""

UNSEEN_SHARE = 0.5
"""Of the rows, for the heads and to choose the epoch by."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to tune. The defaults are usual ones for encoders of this size, not the outcome of a search."""

    epochs: int = 3
    batch_size: int = 16
    encoder_rate: float = 5e-5
    """Learning rates rise over `warmup_share` of the steps, then fall to 0."""
    heads_rate: float = 5e-3
    """The heads start from nothing, the encoder from what it knows."""
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    class_weight: float = 0.3
    """Of the loss over categories and passages beside that over a tier's outcome, 1."""
    max_tokens: int = 128
    """A pass over 256 takes more than twice as long; serving still reads 256."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A row as the network reads it."""

    pieces: list[int]
    outcomes: tuple[float, float]
    """Of tier-1 and tier-2: 1 acceptable, 0 not, nan not known."""
    kind: int
    """Index of its class, or UNKNOWN."""
    weight: float


def finetune(
    rows: Sequence[LabelledOutcome], out: Path, *, seed: int, recipe: Recipe | None = None
) -> tuple[Path, list[LabelledOutcome]]:
    """Tune the encoder on a part of the rows; writes a Hugging Face folder for `export_encoder` to `out`.

    Returns the folder, and the other rows: only on them may heads be fitted that read this encoder. Rows of one text
    or group are in one part. On a GPU where torch sees one, else on all usable cores: a row of 85 word pieces
    takes about 0.1 s of a core in each epoch. The same seed gives the same encoder on the same CPU.

    Raises: ValueError if there are too few rows for two parts, or if nothing is known of any.
    """
    import torch

    recipe = recipe or Recipe()
    classes = classes_of(rows)
    if len(classes) < 2 and all(row.tier1_ok is None and row.tier2_ok is None for row in rows):
        raise ValueError("there is nothing to fine-tune on: no outcome, and no two categories to tell apart")
    torch.manual_seed(seed)
    torch.set_num_threads(usable_cores())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    taught, unseen = split(rows, UNSEEN_SHARE, seed)
    network = _network(encoder_source(), len(classes)).to(device)
    print(f"fine-tuning on {device}: {len(taught)} rows, {len(unseen)} unseen, {len(classes)} classes", flush=True)
    _train(network, lessons(taught, classes, recipe), lessons(unseen, classes, recipe), device, seed, recipe)
    network.encoder.save_pretrained(out)
    shutil.copyfile(encoder_source() / "tokenizer.json", out / "tokenizer.json")
    return out, unseen


def classes_of(rows: Sequence[LabelledOutcome]) -> list[str]:
    """Names of the passages, and of the categories of rows without one, sorted."""
    return sorted({_class(row) for row in rows} - {""})


def _class(row: LabelledOutcome) -> str:
    return row.passage or row.category


def lessons(rows: Sequence[LabelledOutcome], classes: Sequence[str], recipe: Recipe) -> list[Lesson]:
    """The rows in their order, read as serving reads tickets."""
    tokenizer = load_tokenizer((encoder_source() / "tokenizer.json").read_text("utf-8"))
    index = {name: i for i, name in enumerate(classes)}
    return [
        Lesson(
            tokenise(tokenizer, row.text, recipe.max_tokens).ids,
            (_number(row.tier1_ok), _number(row.tier2_ok)),
            index.get(_class(row), UNKNOWN),
            float(weight),
        )
        for row, weight in zip(rows, weights(rows), strict=True)
    ]


def _number(outcome: bool | None) -> float:
    return math.nan if outcome is None else float(outcome)


def share_of_rate(step: int, steps: int, warmup_share: float) -> float:
    """What the learning rates are multiplied by at a step, from 0 on: a rise, then a straight fall to 0."""
    warmup = max(1, round(steps * warmup_share))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _network(source: Path, classes: int) -> Any:
    """Encoder and heads: logits (batch, 2) of the tiers' outcomes, and (batch, classes)."""
    import torch
    from transformers import AutoModel

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(source, dtype=torch.float32)
            # Half of the weights: without them a step is quicker, and words that no row has keep their neighbours.
            self.encoder.embeddings.requires_grad_(False)
            self.heads = torch.nn.Linear(EMBEDDING_SIZE, 2 + classes)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            # Of unit length its parts are about 0.05: the heads would need large weights, and so a rate of their own.
            found = self.heads(pooled(states.float(), attention_mask) * math.sqrt(EMBEDDING_SIZE))
            return found[:, :2], found[:, 2:]

    return Network()


def _train(
    network: Any, taught: Sequence[Lesson], unseen: Sequence[Lesson], device: str, seed: int, recipe: Recipe
) -> None:
    """Train; leaves the network as it was after the epoch with the least loss on the unseen lessons."""
    import torch

    steps = recipe.epochs * math.ceil(len(taught) / recipe.batch_size)
    optimizer = torch.optim.AdamW(
        [
            {"params": network.encoder.parameters(), "lr": recipe.encoder_rate},
            {"params": network.heads.parameters(), "lr": recipe.heads_rate},
        ],
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: share_of_rate(step, steps, recipe.warmup_share)
    )
    rng = random.Random(seed)
    best, least = {}, math.inf
    started = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        for batch in batches(taught, recipe.batch_size, rng, lambda lesson: len(lesson.pieces)):
            loss = _loss(network, batch, device, recipe)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        reached = _unseen_loss(network, unseen, device, recipe)
        print(
            f"epoch {epoch}/{recipe.epochs}  unseen loss {reached:.4f}  {time.monotonic() - started:.0f} s",
            flush=True,
        )
        if reached < least:
            best, least = {name: value.clone() for name, value in network.state_dict().items()}, reached
    network.load_state_dict(best)


def _unseen_loss(network: Any, unseen: Sequence[Lesson], device: str, recipe: Recipe) -> float:
    import torch

    network.eval()
    parts = [unseen[start : start + recipe.batch_size] for start in range(0, len(unseen), recipe.batch_size)]
    with torch.no_grad():
        losses = [_loss(network, part, device, recipe).item() * len(part) for part in parts]
    return float(sum(losses)) / len(unseen)


def _loss(network: Any, batch: Sequence[Lesson], device: str, recipe: Recipe) -> Any:
    """Mean over the lessons of what each knows, by its weight."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    inputs = {name: torch.from_numpy(ids).to(device) for name, ids in padded([x.pieces for x in batch]).items()}
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        outcome_logits, class_logits = network(**inputs)
    outcomes = torch.tensor([x.outcomes for x in batch], device=device)
    known = ~outcomes.isnan()
    losses = binary_cross_entropy_with_logits(outcome_logits.float(), outcomes.nan_to_num(), reduction="none")
    each = (losses * known).sum(1)
    if class_logits.shape[1] > 1:
        kinds = torch.tensor([x.kind for x in batch], device=device)
        each = each + recipe.class_weight * cross_entropy(
            class_logits.float(), kinds, ignore_index=UNKNOWN, reduction="none"
        )
    return (each * torch.tensor([x.weight for x in batch], device=device)).mean()
