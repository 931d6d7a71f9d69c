"""Training batches of about equal lengths. An item here is its own length."""

import random

from workers.learning.batches import batches


def epoch(lengths: list[int], size: int, rng: random.Random) -> list[list[int]]:
    return list(batches(lengths, size, rng, lambda length: length))


def test_an_epoch_has_every_item_once() -> None:
    """The last batch of the lengths may be a smaller one."""
    found = epoch(list(range(1, 44)), 8, random.Random(1))
    assert sorted(item for batch in found for item in batch) == list(range(1, 44))
    assert sorted(map(len, found)) == [3, 8, 8, 8, 8, 8]


def test_a_batch_holds_items_of_about_equal_lengths() -> None:
    """Padding to the longest of a batch adds less than a fifth to the word pieces."""
    rng = random.Random(2)
    lengths = [rng.randrange(4, 128) for _ in range(512)]
    read = sum(len(batch) * max(batch) for batch in epoch(lengths, 16, rng))
    assert read < 1.2 * sum(lengths)


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    """What stands in which batch, and when."""
    lengths, rng = [1 + i % 7 for i in range(64)], random.Random(3)
    first, second = (epoch(lengths, 8, rng) for _ in range(2))
    assert first != second
    assert epoch(lengths, 8, random.Random(3)) == first
