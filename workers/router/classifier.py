"""The router's model: one ONNX graph from a ticket's word pieces to p_ok, passages and embedding.

On the CPU tickets run one by one, without padding: batching buys nothing there
(measured in one run, one thread: 160 tickets a second at 1, 164 at 4, 155 at 8,
93 at 32 padded). A GPU gets large padded batches.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from schemas.tickets import Ticket

Device = Literal["cpu", "cuda"]

EMBEDDING_SIZE = 384

PICKED = 2
"""Passages that tier-1 is given. On Fernway's validation split the right one is the first for 80 % of the routine
tickets, one of the first two for 92 %; each more costs tier-1 about a third of its speed on a CPU."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How many texts run together, and the multiple of word pieces that they are padded to."""

    size: int
    multiple: int


BATCHING: dict[Device, Batching] = {"cpu": Batching(1, 1), "cuda": Batching(32, 16)}
"""The GPU's figures are a guess: few different shapes, since each new one costs an allocation."""

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the model says of one ticket."""

    p_ok: float
    """Estimated probability that tier-1's answer would be acceptable, 0 to 1."""
    category: str
    """The category whose passages are likeliest, all together."""
    p_category: float
    passages: tuple[str, ...]
    """Ids of the likeliest passages of the company's knowledge, likeliest first."""
    passage_probs: NDArray[np.float32]
    """(passages,), in the order of Classifier.passages; together 1."""
    embedding: NDArray[np.float32]
    """(384,), unit length."""


def ticket_text(ticket: Ticket) -> str:
    """What the encoder reads of a ticket: subject, body, then the facts the helpdesk gave."""
    return "\n".join(part for part in (ticket.subject, ticket.body, *ticket.context) if part)


def category_of(passage: str) -> str:
    """A passage's id is `category.intent`."""
    return passage.split(".")[0]


class Classifier:
    """A loaded model. Its calls block on the CPU or the GPU: an event loop makes them in a thread."""

    def __init__(self, model: Path, device: Device = "cpu", threads: int = 1) -> None:
        """Load `model`, and the tokenizer.json beside it.

        Raises: ValueError naming the file that is missing or can't be used; RuntimeError if a GPU was
        asked for and can't be had.
        """
        data = _read(model)
        self.version = hashlib.sha256(data).hexdigest()[:12]
        """The start of the model file's sha256."""
        self._session = _session(model, data, device, threads)
        self.passages, max_tokens = _metadata(model, self._session)
        self.categories = tuple(sorted({category_of(passage) for passage in self.passages}))
        self._category = np.array([self.categories.index(category_of(passage)) for passage in self.passages])
        self._tokenizer = load_tokenizer(model.with_name("tokenizer.json"), max_tokens)
        self._batching = BATCHING[device]

    def classify(self, texts: Sequence[str]) -> list[Scores]:
        """Scores of each text, in the order given."""
        if not texts:
            return []
        p_ok, probabilities, embeddings = self._run(texts, ["p_ok", "passage_probs", "embedding"])
        return [
            Scores(float(p), *self._category_and_passages(row), row, embedding)
            for p, row, embedding in zip(p_ok, probabilities, embeddings, strict=True)
        ]

    def _category_and_passages(self, probabilities: NDArray[np.float32]) -> tuple[str, float, tuple[str, ...]]:
        by_category = np.bincount(self._category, probabilities, len(self.categories))
        best = int(by_category.argmax())
        likeliest = np.argsort(-probabilities)[:PICKED]
        return self.categories[best], float(by_category[best]), tuple(self.passages[i] for i in likeliest)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of unit length, (n, 384), in the order given."""
        if not texts:
            return np.empty((0, EMBEDDING_SIZE), np.float32)
        return self._run(texts, ["embedding"])[0]

    def _run(self, texts: Sequence[str], outputs: list[str]) -> list[NDArray[np.float32]]:
        pieces = [self._tokenizer.encode(text).ids for text in texts]
        order: list[int] = []
        parts: list[list[NDArray[np.float32]]] = []
        for batch in batches([len(p) for p in pieces], self._batching.size):
            order += batch
            parts.append(self._session.run(outputs, padded([pieces[i] for i in batch], self._batching.multiple)))
        back = np.argsort(order)
        return [np.concatenate(part)[back] for part in zip(*parts, strict=True)]


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of at most `size`, by length: texts of about one length pad each other little."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(pieces: Sequence[Sequence[int]], multiple: int) -> dict[str, NDArray[np.int64]]:
    """The graph's inputs, (batch, sequence) int64 each, as wide as the longest text rounded up to `multiple`."""
    width = -(-max(map(len, pieces)) // multiple) * multiple
    ids = np.zeros((len(pieces), width), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(pieces):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer in `path`, cutting texts at `max_tokens` word pieces.

    Raises: ValueError if the file can't be read.
    """
    try:
        tokenizer = Tokenizer.from_buffer(_read(path))
    except ValueError as exc:
        raise ValueError(f"tokenizer {path}: {exc}") from exc
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ValueError(f"router model: can't read {path}: {exc.strerror}") from exc


def _session(model: Path, data: bytes, device: Device, threads: int) -> Any:
    provider = _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(_no_gpu("this onnxruntime has no CUDA: install the extra gpu instead of cpu"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[provider])
    except Exception as exc:
        # onnxruntime raises a dozen classes without a common parent of their own.
        raise ValueError(f"router model {model}: not a graph that onnxruntime can run: {exc}") from exc
    # An available provider proves nothing: onnxruntime falls back to the CPU in silence
    # when CUDA's libraries don't load. Only the built session tells.
    if session.get_providers()[0] != provider:
        raise RuntimeError(_no_gpu("CUDA did not start on this machine: look at the driver and the CUDA libraries"))
    return session


def _no_gpu(why: str) -> str:
    return f'a GPU was asked for (router.device = "cuda") and {why}'


def _metadata(model: Path, session: Any) -> tuple[tuple[str, ...], int]:
    properties = session.get_modelmeta().custom_metadata_map
    try:
        return tuple(json.loads(properties["passages"])), int(properties["max_tokens"])
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"router model {model}: its metadata lacks passages or max_tokens ({exc})") from exc
