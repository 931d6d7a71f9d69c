"""The router's model: one ONNX file from a ticket's text to p_ok, passages and embedding. Nothing stands beside it.

The graph's inputs are input_ids and attention_mask, (batch, sequence) int64; its
outputs have the first dimension batch: OUTPUTS. Its metadata hold the names of
the classes of passage_probs, max_tokens, the tokenizer, and the number of labels.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from schemas.tickets import Ticket
from workers.router.cores import usable_cores
from workers.router.passes import Bucketed, Passes, Unpadded
from workers.router.pieces import load_tokenizer, tokenise
from workers.router.session import Device, build_session

EMBEDDING_SIZE = 384

PICKED = 1
"""Passages that tier-1 is given. A model this small that gets two answers from memory: of Fernway's held-out wordings
whose passage came first 87 % were answered well, and 17 % of those whose passage came second. With one it reads: 99.8 %
and none. The right one is the first for 89 % of the test split's routine tickets."""

OUTPUTS = ("p_ok", "p_ok_tier2", "in_scope", "passage_probs", "embedding")
"""(batch,) the first three, then (batch, classes) and (batch, EMBEDDING_SIZE); float32."""

LEAST_TOKENS = 4
"""Two special pieces and one from each end of a text: fewer could not be cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the model says of one ticket."""

    p_ok: float
    """Estimated probability that tier-1's answer would be acceptable, 0 to 1. Means nothing unless `labelled`."""
    category: str
    """The category whose passages are likeliest, all together."""
    p_category: float
    passages: tuple[str, ...]
    """Ids of the likeliest passages of the company's knowledge, likeliest first; empty where the model knows none."""
    passage_probs: NDArray[np.float32]
    """(classes,), in the order of Classifier.classes; together 1."""
    embedding: NDArray[np.float32]
    """(384,), unit length."""
    p_ok_tier2: float = 1.0
    """Estimated probability that tier-2's answer would be acceptable."""
    in_scope: float = 1.0
    """Share of past tickets that are at least as unlike the other past tickets as this one is."""
    cut_chars: int = 0
    """Characters in the text's middle that the encoder didn't read."""
    labelled: bool = True
    """Whether the model has learned from labelled outcomes; a cold start's has not."""


def ticket_text(ticket: Ticket) -> str:
    """What the encoder reads of a ticket: subject, body, then the facts the helpdesk gave."""
    return "\n".join(part for part in (ticket.subject, ticket.body, *ticket.context) if part)


def is_passage(name: str) -> bool:
    """Whether a class is a passage's id, `category.intent`; where tickets name no passage, it is a bare category."""
    return "." in name


def category_of(name: str) -> str:
    """The category of a class."""
    return name.split(".")[0]


class Classifier:
    """A loaded model. Its calls block on the CPU or the GPU: an event loop makes them in a thread.

    They may come from several threads at once; together they use no more threads than they were given.
    """

    def __init__(self, model: Path, device: Device = "cpu", threads: int | None = None) -> None:
        """Load the file `model` and run it once; `threads` None takes all cores that the process may use.

        Raises: ValueError naming the file if it is missing or can't be used; RuntimeError if onnxruntime is not
        installed rightly, or if a GPU was asked for and can't be had.
        """
        data = _read(model)
        self.version = hashlib.sha256(data).hexdigest()[:12]
        """The start of the model file's sha256."""
        try:
            self._load(data, device, threads or usable_cores())
        except ValueError as exc:
            raise ValueError(f"router model {model}: {exc}") from exc

    def _load(self, data: bytes, device: Device, threads: int) -> None:
        session = build_session(data, device)
        if missing := set(OUTPUTS) - {output.name for output in session.get_outputs()}:
            raise ValueError(f"the graph lacks the outputs {', '.join(sorted(missing))}: learn it anew")
        contents = _metadata(session.get_modelmeta().custom_metadata_map)
        self.classes = contents.classes
        """Names of the classes of passage_probs."""
        self.labelled = contents.labels > 0
        """Whether it has learned from labelled outcomes; a cold start's p_ok means nothing."""
        self.categories = tuple(sorted({category_of(name) for name in self.classes}))
        self._category = np.array([self.categories.index(category_of(name)) for name in self.classes])
        self._passages = [i for i, name in enumerate(self.classes) if is_passage(name)]
        self._tokenizer = contents.tokenizer
        self._max_tokens = contents.max_tokens
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="router-model")
        self._passes: Passes = (
            Unpadded(session, self._pool) if device == "cpu" else Bucketed(session, OUTPUTS, self._max_tokens, device)
        )
        self._warm_up()

    def _warm_up(self) -> None:
        """Run the shortest and the longest text: the first run of a shape plans its memory, and a graph with other
        shapes than it should have shows itself now."""
        texts = [[0], [0] * self._max_tokens]
        try:
            found = self._passes.run(texts, OUTPUTS)
        except Exception as exc:
            # onnxruntime's own classes again.
            raise ValueError(f"the graph does not run: {exc}") from exc
        n, shapes = len(texts), [output.shape for output in found]
        if shapes != (wanted := [(n,), (n,), (n,), (n, len(self.classes)), (n, EMBEDDING_SIZE)]):
            raise ValueError(f"the graph's outputs {', '.join(OUTPUTS)} have the shapes {shapes}, not {wanted}")
        if wild := [name for name, output in zip(OUTPUTS, found, strict=True) if not np.isfinite(output).all()]:
            raise ValueError(f"the graph gives {', '.join(wild)} that are no numbers")

    def classify(self, texts: Sequence[str]) -> list[Scores]:
        """Scores of each text, in the order given."""
        if not texts:
            return []
        outputs, cut = self._run(texts, OUTPUTS)
        return [self._scores(*row) for row in zip(*outputs, cut, strict=True)]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of unit length, (n, 384), in the order given."""
        if not texts:
            return np.empty((0, EMBEDDING_SIZE), np.float32)
        (embeddings,), _ = self._run(texts, ["embedding"])
        return embeddings

    def _run(self, texts: Sequence[str], outputs: Sequence[str]) -> tuple[list[NDArray[np.float32]], list[int]]:
        """The outputs, (n, ...) each, and how many characters of each text were cut."""
        # In this thread: 20 us a text, less than to hand it to another one.
        pieces = [tokenise(self._tokenizer, text, self._max_tokens) for text in texts]
        return self._passes.run([p.ids for p in pieces], outputs), [p.cut_chars for p in pieces]

    def _scores(
        self,
        p_ok: float,
        p_ok_tier2: float,
        in_scope: float,
        probabilities: NDArray[np.float32],
        embedding: NDArray[np.float32],
        cut_chars: int,
    ) -> Scores:
        by_category = np.bincount(self._category, probabilities, len(self.categories))
        best = int(by_category.argmax())
        likeliest = sorted(self._passages, key=lambda i: -probabilities[i])[:PICKED]
        return Scores(
            p_ok=float(p_ok),
            category=self.categories[best],
            p_category=float(by_category[best]),
            passages=tuple(self.classes[i] for i in likeliest),
            passage_probs=probabilities,
            embedding=embedding,
            p_ok_tier2=float(p_ok_tier2),
            in_scope=float(in_scope),
            cut_chars=cut_chars,
            labelled=self.labelled,
        )


@dataclass(frozen=True, slots=True)
class _Metadata:
    """What the model's file holds beside the graph."""

    classes: tuple[str, ...]
    max_tokens: int
    tokenizer: Tokenizer
    labels: int


def _metadata(properties: Mapping[str, str]) -> _Metadata:
    try:
        classes = tuple(str(name) for name in json.loads(properties["passages"]))
        max_tokens, labels = int(properties["max_tokens"]), int(properties["labels"])
        text = properties["tokenizer"]
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"its metadata lack passages, max_tokens, tokenizer or labels ({exc})") from exc
    if not classes or max_tokens < LEAST_TOKENS:
        raise ValueError(f"its metadata name {len(classes)} passages and max_tokens {max_tokens}")
    return _Metadata(classes, max_tokens, load_tokenizer(text), labels)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ValueError(f"router model: can't read {path}: {exc.strerror}") from exc
