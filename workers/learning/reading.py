"""Texts as the router's heads see them: word pieces, and the frozen encoder's embeddings. Needs the `learn` extra."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.learning.encoder import MAX_TOKENS
from workers.router.cores import usable_cores
from workers.router.passes import Unpadded
from workers.router.pieces import load_tokenizer, tokenise
from workers.router.session import build_session

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """n texts, in order."""

    pieces: list[list[int]]
    """Of each text, as serving cuts it, the special ones at both ends included."""
    embeddings: Floats
    """(n, 384), unit length."""

    def __len__(self) -> int:
        return len(self.pieces)

    def take(self, rows: Sequence[int] | Indices) -> "Reading":
        """Some of the texts, by their indices."""
        return Reading([self.pieces[int(row)] for row in rows], self.embeddings[rows])


def read(encoder: Path, texts: Sequence[str]) -> Reading:
    """Read texts with the encoder's graph and the tokenizer.json beside it, as serving on a CPU does."""
    tokenizer = load_tokenizer(encoder.with_name("tokenizer.json").read_text("utf-8"))
    pieces = [tokenise(tokenizer, text, MAX_TOKENS).ids for text in texts]
    with ThreadPoolExecutor(usable_cores()) as pool:
        (embeddings,) = Unpadded(build_session(encoder.read_bytes(), "cpu"), pool).run(pieces, ["pooled"])
    return Reading(pieces, embeddings.astype(np.float64))
