"""Which passage each example ticket is about, said as the router would say it of a ticket that it has not seen.

Heads (classes.py) on an encoder that is taught passages (bi_encoder.py). Tickets that are labelled stay new to it; the
heads are fitted out of fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from workers.knowledge import Passage
from workers.learning import bge, bi_encoder, classes, phrases, router
from workers.learning.classes import Floats, Subjects
from workers.learning.company import Company, Example, as_ticket
from workers.learning.encoder import export_encoder, quantise
from workers.learning.phrases import Phrases
from workers.learning.reading import Reading, read
from workers.learning.splits import retrieval_set
from workers.router.classifier import ticket_text


@dataclass
class Retriever:
    """The retriever of one company's knowledge, made as it is asked for; what takes long stays in the work folder."""

    company: Company
    work: Path

    @cached_property
    def taught_encoder(self) -> Path:
        """A Hugging Face folder, made once."""
        folder = self.work / "taught-encoder"
        if not (folder / "config.json").is_file():
            examples = retrieval_set(self.company)
            base = bge.as_hugging_face(self.work / "bge")
            bi_encoder.teach(base, texts_of(examples), _names(examples), self.passages, folder)
        return folder

    @cached_property
    def encoder(self) -> Path:
        """The int8 encoder without heads; made once."""
        path = self.work / "encoder" / "encoder.onnx"
        exact = self.work / "encoder-float32"
        return path if path.is_file() else quantise(export_encoder(exact, self.taught_encoder), path)

    @cached_property
    def passages(self) -> list[Passage]:
        """In the order of all probabilities: by their ids."""
        return sorted(self.company.passages, key=lambda passage: passage.id)

    @cached_property
    def ids(self) -> list[str]:
        """Of the passages."""
        return [passage.id for passage in self.passages]

    @cached_property
    def kinds(self) -> Floats:
        return router.kinds(self.encoder)

    @cached_property
    def knowledge(self) -> Subjects:
        return router.known(self.encoder, self.passages)

    @cached_property
    def training(self) -> Reading:
        """Every training ticket."""
        return self.reading(self.company.split("train"))

    @cached_property
    def phrases(self) -> Phrases:
        return phrases.fit(self.training.pieces, self.kinds)

    def reading(self, examples: Sequence[Example]) -> Reading:
        return read(self.encoder, texts_of(examples))

    @cached_property
    def routine(self) -> list[Example]:
        """Every routine training ticket: those of which a passage is known."""
        return [e for e in self.company.split("train") if e.kind == "routine"]

    @cached_property
    def subjects(self) -> Subjects:
        """Of the routine tickets."""
        rows = [i for i, e in enumerate(self.company.split("train")) if e.kind == "routine"]
        return Subjects(self.training.take(rows), tuple(_names(self.routine)))

    @cached_property
    def unseen_probs(self) -> dict[str, Floats]:
        """Passage probabilities of every routine training ticket, by heads that have not seen it."""
        found = classes.out_of_fold(self.phrases, self.subjects, self.knowledge)
        return {e.ticket_id: row for e, row in zip(self.routine, found, strict=True)}

    @cached_property
    def picked(self) -> dict[str, tuple[str, ...]]:
        """The passages that the system picks for every training and validation ticket."""
        train, validation = self.company.split("train"), self.company.split("validation")
        others = [e for e in train if e.kind != "routine"] + validation
        head = classes.fit(self.phrases, self.subjects, self.knowledge)
        found = head.probabilities(self.phrases, self.reading(others))
        probs = self.unseen_probs | {e.ticket_id: row for e, row in zip(others, found, strict=True)}
        return dict(zip(probs, classes.picked(np.stack(list(probs.values())), self.ids), strict=True))


def passage_of(example: Example) -> str:
    """The one passage that answers a routine ticket."""
    return f"{example.category}.{example.intent}"


def _names(examples: Sequence[Example]) -> list[str]:
    return [passage_of(example) for example in examples]


def texts_of(examples: Sequence[Example]) -> list[str]:
    """What the encoders read."""
    return [ticket_text(as_ticket(example)) for example in examples]
