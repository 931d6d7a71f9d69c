"""Public sets of prompts whose outcome with a weak and a strong model is known, read and embedded."""

import csv
import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.learning.reading import Reading
from workers.router.classifier import Classifier
from workers.router.pieces import load_tokenizer, tokenise

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Name = Literal["mmlu", "gsm8k", "llmrouter"]

WEAK, STRONG = "qwen2.5-7b-instruct", "llama-3.1-nemotron-51b-instruct"
"""The pair of the LLMRouter set that is routed."""

TRAINING_LABELS = 9_000
"""Of MMLU; the other 5,037 rows are tested on, with fewer labels too."""

csv.field_size_limit(1 << 24)


@dataclass(frozen=True, slots=True, eq=False)
class RoutingSet:
    """n prompts and the grades of both models' answers, (n,) within [0, 1]."""

    name: Name
    prompts: list[str]
    weak: Floats
    strong: Floats
    reading: Reading
    """The prompts alone: no subject, no response."""

    def splits(self, seed: int, labels: int) -> Iterator[tuple[Indices, Indices]]:
        """Rows to learn from and rows to test on: one split of MMLU; of the others five folds, each tested on once."""
        order = np.random.default_rng(seed).permutation(len(self.prompts))
        if self.name == "mmlu":
            yield order[:labels], order[TRAINING_LABELS:]
            return
        for fold in np.array_split(order, 5):
            yield np.setdiff1d(order, fold), fold


def load(name: Name, data: Path, classifier: Classifier, model: Path, cache: Path) -> RoutingSet:
    """Read a set from the folder `data`; embeddings are kept in `cache`, by model and texts.

    Raises: FileNotFoundError if the set is not there.
    """
    prompts, weak, strong = _llmrouter(data) if name == "llmrouter" else _routellm(name, data)
    return RoutingSet(name, prompts, weak, strong, read(prompts, classifier, model, cache))


def read(texts: list[str], classifier: Classifier, model: Path, cache: Path) -> Reading:
    """Word pieces and embeddings as the example company's router gives them."""
    import onnxruntime

    metadata = onnxruntime.InferenceSession(model).get_modelmeta().custom_metadata_map
    tokenizer = load_tokenizer(metadata["tokenizer"])
    pieces = [tokenise(tokenizer, text, int(metadata["max_tokens"])).ids for text in texts]
    digest = hashlib.sha256(json.dumps([classifier.version, texts]).encode()).hexdigest()[:16]
    file = cache / f"{digest}.npy"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, classifier.embed(texts))
    return Reading(pieces, np.load(file).astype(np.float64))


def texts_of(path: Path, field: str) -> list[str]:
    """One field of every row of a gzipped CSV or JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file) if ".csv" in path.name else map(json.loads, file)
        return [row[field] for row in rows]


def _routellm(name: str, data: Path) -> tuple[list[str], Floats, Floats]:
    contaminated = {e["eval_prompt"] for e in json.loads((data / "routellm" / "contaminated.json").read_text())[name]}
    with gzip.open(data / "routellm" / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] not in contaminated]
    grades = [np.array([row[column] == "true" for row in rows], float) for column in ("weak_correct", "strong_correct")]
    return [row["prompt"] for row in rows], grades[0], grades[1]


def _llmrouter(data: Path) -> tuple[list[str], Floats, Floats]:
    with gzip.open(data / "llmrouter_dc" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    grades = [np.array([row["scores"][model] for row in rows]) for model in (WEAK, STRONG)]
    return [row["question"] for row in rows], grades[0], grades[1]
