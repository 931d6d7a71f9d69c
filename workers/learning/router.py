"""Training of the router's model: from labelled outcomes to one ONNX file, and a card that says how good it is.

The encoder is MiniLM-L6 (all-MiniLM-L6-v2, Apache-2.0), frozen or tuned (finetune.py); or bge-small, taught passages
(bi_encoder.py), which takes twice as long. The heads are fitted on what the int8 encoder gives, so training and serving
see the same numbers, and the artefact is refused when int8 decides otherwise than float32. Needs the `learn` extra.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.knowledge import Passage
from workers.learning import bge, phrases
from workers.learning.card import Card, Training, write_card
from workers.learning.classes import Subjects
from workers.learning.encoder import ENCODER, export_encoder, quantise
from workers.learning.finetune import finetune
from workers.learning.graph import assemble
from workers.learning.heads import fit_heads
from workers.learning.labels import LabelledOutcome
from workers.learning.reading import Reading, read
from workers.router.classifier import Classifier, Scores

Floats = NDArray[np.float64]
Level = Literal["heads", "full"]

LEAST_AGREEMENT = 0.99
"""int8 and float32 must decide alike on this share of the rows that they are compared on."""

COMPARED = 1_000
"""Rows at most, those held out before others: of a hundred a second one that differs would refuse the model."""

IN_SCOPE = 0.05
"""The policy's default limit."""


def train_router(
    rows: Sequence[LabelledOutcome],
    validation: Sequence[LabelledOutcome],
    knowledge: Sequence[Passage],
    out: Path,
    *,
    level: Level = "heads",
    taught: Path | None = None,
    command: str = "headgate learn router",
    seed: int = 7,
) -> Card:
    """Train on `rows`, measure on `validation`; writes model.onnx (int8), model.fp32.onnx and the card to `out`.

    Rows without any outcome make a cold start: classes and scope are learned, p_ok means nothing. Level `full` tunes
    the encoder on a part of the rows, and fits the heads on the rest. `taught` is an encoder of
    bi_encoder.py to begin with, a Hugging Face folder; outcomes of the tickets that it was taught with must not be
    among the rows.

    Raises: ValueError if there are too few rows of a kind, or if int8 and float32 decide differently too often.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, unseen, name = taught, rows, f"{bge.NAME}, taught passages" if taught else ENCODER
        if level == "full":
            source, unseen = finetune(rows, Path(folder) / "tuned", seed=seed)
            name = f"{ENCODER}, tuned on {len(rows) - len(unseen)} rows"
        exact = export_encoder(Path(folder) / "float32", source)
        small = quantise(exact, Path(folder) / "int8" / "encoder.onnx")
        heads = fit_heads(unseen, read(small, [row.text for row in unseen]), known(small, knowledge), kinds(small))
        models = [assemble(encoder, name, heads) for encoder in (exact, small)]
        in_float32, in_int8 = map(Classifier, models)
        scores = in_int8.classify([row.text for row in validation])
        texts = [row.text for row in (*validation, *rows)][:COMPARED]
        agreement = agreement_of(in_float32.classify(texts), in_int8.classify(texts))
        if not agreement >= LEAST_AGREEMENT:  # nor is it of no rows at all
            raise ValueError(
                f"int8 and float32 agree on {agreement:.2%} of the decisions, less than {LEAST_AGREEMENT:.0%}: "
                "learn with more rows, or another --seed"
            )
        out.mkdir(parents=True, exist_ok=True)
        for model, file in zip(models, ("model.fp32.onnx", "model.onnx"), strict=True):
            shutil.copyfile(model, out / file)
    made = Training(
        version=Classifier(out / "model.onnx").version,
        level=level,
        encoder=name,
        command=command,
        seed=seed,
        agreement_int8_float32=agreement,
    )
    return write_card(rows, validation, scores, made, out)


def kinds(encoder: Path) -> Floats:
    """What kinds of word pieces the tokenizer beside the encoder knows."""
    tokenizer = json.loads(encoder.with_name("tokenizer.json").read_text("utf-8"))
    return phrases.kinds_of(tokenizer["model"]["vocab"])


def known(encoder: Path, knowledge: Sequence[Passage]) -> Subjects:
    """The company's passages, read."""
    names = tuple(passage.id for passage in knowledge)
    texts = [passage.text for passage in knowledge]
    return Subjects(read(encoder, texts) if texts else Reading([], np.empty((0, 384))), names)


def agreement_of(exact: Sequence[Scores], small: Sequence[Scores]) -> float:
    """The share of tickets with the same category and tier, by p_ok = 0.5 and the default limit on in_scope."""
    pairs = zip(exact, small, strict=True)
    return float(np.mean([_decision(a) == _decision(b) for a, b in pairs]))


def _decision(scores: Scores) -> tuple[str, bool]:
    return scores.category, scores.p_ok >= 0.5 and scores.in_scope >= IN_SCOPE
