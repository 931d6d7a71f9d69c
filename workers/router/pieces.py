"""From a ticket's text to the graph's inputs: word pieces, cut in the middle where there are too many, and padded.

Training reads texts through the same function, so that it sees what serving sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Inputs = dict[str, NDArray[np.int64]]
"""The graph's inputs input_ids and attention_mask, (batch, sequence) each."""

HEAD_SHARE = 0.5
"""Of the word pieces that are kept of a long text, the share from its start: there subject and first sentences say what
it is about. Its end holds the request itself and the helpdesk's facts. An even guess, to be measured."""

PIECE_CHARS = 16
"""Characters of a long text that are tokenised for each word piece wanted. English has 5 a piece, so that even a text
full of white space fills its share; and a mebibyte costs what 4,096 characters cost, 1 to 6 ms, not up to 1,600."""

SIZES = (1, 8, 32, 64)
"""Texts of a GPU batch. Each shape costs a pass at load and memory for as long as the process lives. A guess."""

WIDTHS = (32, 64, 128, 256)
"""Word pieces of a GPU batch's texts."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text as the encoder reads it."""

    ids: list[int]
    """1 to max_tokens, special ones included."""
    cut_chars: int
    """Characters in the text's middle that the encoder does not read; 0 means that it reads all."""


def load_tokenizer(text: str) -> Tokenizer:
    """The tokenizer that a tokenizer.json holds, without its own truncation and padding.

    Raises: ValueError if the text holds none.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as exc:
        # The library raises Exception itself. Its message names a place in the file, no ticket.
        raise ValueError(f"not a tokenizer: {exc}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenise(tokenizer: Tokenizer, text: str, max_tokens: int) -> Pieces:
    """Word pieces of a text: all of them, or the first and the last ones that fit into `max_tokens` (4 or more)."""
    window = PIECE_CHARS * max_tokens // 2
    # The space keeps the two ends' words apart; one character more than both is cheaper read than cut.
    short = text if len(text) <= 2 * window + 1 else f"{text[:window]} {text[-window:]}"
    encoding = tokenizer.encode(short)
    # A tokenizer without special pieces finds none in white space; no pass can do with nothing.
    ids: list[int] = encoding.ids or [0]
    cut_chars = len(text) - len(short)
    if len(ids) <= max_tokens:
        return Pieces(ids, cut_chars)
    head = int(max_tokens * HEAD_SHARE)
    tail = max_tokens - head
    offsets = encoding.offsets
    # [CLS] and [SEP] stand at the ends, so both are kept, and neither's offsets are asked for.
    return Pieces(ids[:head] + ids[-tail:], cut_chars + offsets[-tail][0] - offsets[head - 1][1])


def padded(pieces: Sequence[Sequence[int]], width: int | None = None, size: int | None = None) -> Inputs:
    """The graph's inputs for a batch, `width` wide (by default as wide as its longest text), filled up to `size` rows.

    A row that is filled up reads one word piece, since the mean of none is no number.
    """
    ids = np.zeros((size or len(pieces), width or max(map(len, pieces))), np.int64)
    mask = np.zeros_like(ids)
    mask[:, 0] = 1
    for row, text in enumerate(pieces):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def equals(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices of texts of one length together, at most `most` to a group.

    The group with most to read comes first: the last one to end then leaves other threads idle for the shortest time.
    """
    of_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        of_length.setdefault(length, []).append(i)
    groups = [group[start : start + most] for group in of_length.values() for start in range(0, len(group), most)]
    return sorted(groups, key=lambda group: -len(group) * lengths[group[0]])


@dataclass(frozen=True, slots=True)
class Bucket:
    """A fixed shape of a batch: so many rows, so many word pieces."""

    size: int
    width: int


def buckets(max_tokens: int) -> list[Bucket]:
    """Every shape that a batch can have."""
    return [Bucket(size, width) for width in _widths(max_tokens) for size in SIZES]


def batches(lengths: Sequence[int], max_tokens: int) -> Iterator[tuple[Bucket, list[int]]]:
    """Texts of one width together, each batch's bucket and the indices of its texts; none is longer than max_tokens."""
    for shorter, width in zip((0, *_widths(max_tokens)), _widths(max_tokens), strict=False):
        of_width = [i for i, length in enumerate(lengths) if shorter < length <= width]
        for start in range(0, len(of_width), SIZES[-1]):
            batch = of_width[start : start + SIZES[-1]]
            yield Bucket(next(size for size in SIZES if size >= len(batch)), width), batch


def _widths(max_tokens: int) -> list[int]:
    return [width for width in WIDTHS if width < max_tokens] + [max_tokens]
