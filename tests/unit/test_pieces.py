"""Word pieces: long texts keep both ends, whatever they hold, and batches have few shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from tests.toy_model import WORDS, toy_tokenizer
from workers.router.pieces import PIECE_CHARS, SIZES, Bucket, batches, buckets, equals, load_tokenizer, padded, tokenise

TOKENIZER = toy_tokenizer()


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text).ids
    return found


@given(words=st.lists(st.sampled_from(WORDS[2:]), max_size=12), max_tokens=st.integers(4, 9))
def test_both_ends_are_kept_and_what_is_cut_is_counted(words: list[str], max_tokens: int) -> None:
    """Never more pieces than asked for; the count is that of the middle's characters."""
    text = " ".join(words)
    found = tokenise(TOKENIZER, text, max_tokens)
    if len(words) <= max_tokens:
        assert (found.ids, found.cut_chars) == (ids(text) or [0], 0)
        return
    head = max_tokens // 2
    first, last = words[:head], words[head - max_tokens :]
    assert found.ids == ids(" ".join(first + last))
    assert found.cut_chars == len(text) - len(" ".join(first)) - len(" ".join(last))


@given(
    words=st.lists(st.sampled_from([*WORDS[2:], "of", "x" * 15]), min_size=1, max_size=40),
    repeats=st.integers(1, 30),
)
def test_a_text_too_long_to_be_read_whole_gives_what_reading_it_whole_gives(words: list[str], repeats: int) -> None:
    """As long as its words are of ordinary length: the two windows hold enough of them."""
    text = " ".join(words * repeats)
    found = tokenise(TOKENIZER, text, 8)
    whole = ids(text)
    assert found.ids == (whole if len(whole) <= 8 else whole[:4] + whole[-4:])
    assert 0 <= found.cut_chars < len(text)


@pytest.mark.parametrize("what", ["a", " ", "\x00", "\u200b", "\U0001f642", "\u4e2d", ".!", "refund ", "e\u0301"])
def test_a_mebibyte_is_not_tokenised_whole(what: str) -> None:
    """Whatever it consists of: two windows are, and the rest counts as cut."""
    text = what * (2**20 // len(what))
    read: list[str] = []

    class Watched:
        def encode(self, short: str) -> object:
            read.append(short)
            return TOKENIZER.encode(short)

    found = tokenise(Watched(), text, 256)  # type: ignore[arg-type]
    assert [len(short) for short in read] == [256 * PIECE_CHARS + 1]
    assert 0 < len(found.ids) <= 256
    assert len(text) - 256 * PIECE_CHARS - 1 <= found.cut_chars < len(text)


def test_special_pieces_stay_at_both_ends() -> None:
    """They count towards the limit, and they have no characters of their own."""
    special = toy_tokenizer()
    special.post_processor = TemplateProcessing(single="[UNK] $A [PAD]", special_tokens=[("[UNK]", 1), ("[PAD]", 0)])
    found = tokenise(special, "refund router invoice red light", 4)
    assert found.ids == [1, *ids("refund light"), 0]
    assert found.cut_chars == len(" router invoice red ")


def test_nothing_but_white_space_is_one_piece() -> None:
    """With a tokenizer that has no special pieces: a pass over none would fail."""
    assert tokenise(TOKENIZER, " \n ", 8).ids == [0]


def test_a_tokenizers_own_cutting_and_padding_are_put_off() -> None:
    """Published tokenizers come with both, for a training that was not ours."""
    own = toy_tokenizer()
    own.enable_truncation(2)
    own.enable_padding(length=20)
    assert load_tokenizer(own.to_str()).encode("refund router light").ids == ids("refund router light")


def test_a_text_that_is_no_tokenizer_is_an_error() -> None:
    """With the library's reason."""
    with pytest.raises(ValueError, match="not a tokenizer"):
        load_tokenizer("{}")


@given(pieces=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=20), min_size=1, max_size=6))
def test_padding_is_masked(pieces: list[list[int]]) -> None:
    """The mask keeps exactly the texts; a row without one keeps a single piece."""
    for width, size in ((None, None), (32, 8)):
        feed = padded(pieces, width, size)
        found, mask = feed["input_ids"], feed["attention_mask"]
        assert found.shape == mask.shape == (size or len(pieces), width or max(map(len, pieces)))
        kept = [row[keep == 1].tolist() for row, keep in zip(found, mask, strict=True)]
        assert kept == pieces + [[0]] * (len(found) - len(pieces))
        assert not found[mask == 0].any()
        assert found.dtype == mask.dtype == np.int64


@given(lengths=st.lists(st.integers(1, 100), max_size=300))
def test_every_text_is_in_one_batch_that_holds_it(lengths: list[int]) -> None:
    """Each batch's shape is one of the few; its width is the least that holds its texts."""
    found = list(batches(lengths, 100))
    assert sorted(i for _, batch in found for i in batch) == list(range(len(lengths)))
    widths = sorted({bucket.width for bucket in buckets(100)})
    for bucket, batch in found:
        assert bucket in buckets(100)
        assert all(bucket.width == min(w for w in widths if w >= lengths[i]) for i in batch)
        assert bucket.size == min(size for size in SIZES if size >= len(batch))


def test_the_shapes_end_at_the_longest_text_that_there_is() -> None:
    """A model for 256 word pieces has four widths, one for fewer has less."""
    assert {b.width for b in buckets(256)} == {32, 64, 128, 256}
    assert {b.width for b in buckets(512)} == {32, 64, 128, 256, 512}
    assert buckets(6) == [Bucket(size, 6) for size in SIZES]


@given(st.lists(st.integers(1, 6), max_size=40), st.integers(1, 9))
def test_texts_of_one_length_go_together_and_the_most_work_first(lengths: list[int], most: int) -> None:
    """Each text once, no group mixes lengths or is too large, and none follows that has more to read."""
    groups = equals(lengths, most)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) <= most and len({lengths[i] for i in group}) == 1 for group in groups)
    work = [len(group) * lengths[group[0]] for group in groups]
    assert work == sorted(work, reverse=True)
