"""Training batches of about equal lengths, so that padding wastes little."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_WINDOW = 16
"""Batches whose items are sorted by length together: even batches, which differ from epoch to epoch."""


def batches(
    items: Sequence[Item], size: int, rng: random.Random, length: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """One epoch: every item once."""
    shuffled = rng.sample(items, len(items))
    window = size * _WINDOW
    ordered = [
        item
        for start in range(0, len(shuffled), window)
        for item in sorted(shuffled[start : start + window], key=length)
    ]
    epoch = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return iter(rng.sample(epoch, len(epoch)))
