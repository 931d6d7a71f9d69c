"""Commit metadata: whatever is committed is read back, within the broker's limit; whatever else stands there is not."""

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.runtime.offset_metadata import MAX_BYTES, decode, encode
from streams.runtime.offsets import MAX_DISTANCE, CommitPoint, Offsets

OFFSETS = st.integers(0, 2**63 - 1 - MAX_DISTANCE)


@st.composite
def points(draw: st.DrawFn) -> CommitPoint:
    """Reachable ones: any offset, any of the records after it finished, in few or many runs."""
    start = draw(OFFSETS)
    length = draw(st.integers(0, MAX_DISTANCE))
    offsets = Offsets(CommitPoint(start))
    unfinished = draw(st.sets(st.integers(0, length - 1), max_size=50)) if length else set()
    for index in sorted(unfinished | ({length - 1} if length else set())):
        offsets.begin(start + index)
    if length and length - 1 not in unfinished:
        offsets.finish(start + length - 1)
    return offsets.commit_point()


def bits_of(point: CommitPoint) -> int:
    return int.from_bytes(point.finished, "little")


@given(points())
def test_what_is_committed_is_read_back(point: CommitPoint) -> None:
    """In ASCII, and within the limit."""
    text = encode(point)
    assert decode(point.offset, text) == point
    assert len(text.encode("ascii")) <= MAX_BYTES


def test_the_longest_metadata_fits() -> None:
    """The highest offset that Kafka has, the greatest distance, and nothing to leave out."""
    start = 2**63 - 1 - MAX_DISTANCE
    offsets = Offsets(CommitPoint(start))
    offsets.begin(start)
    offsets.begin(start + MAX_DISTANCE - 1)
    offsets.finish(start + MAX_DISTANCE - 1)
    point = offsets.commit_point()
    assert (point.begun, len(point.finished)) == (MAX_DISTANCE, (MAX_DISTANCE + 7) // 8)
    text = encode(point)
    assert len(text) <= MAX_BYTES
    assert decode(start, text) == point


@given(points(), OFFSETS)
def test_text_beside_another_offset_is_not_taken_for_its_own(point: CommitPoint, other: int) -> None:
    """A tool has reset the group and left the metadata: everything from there on is done again."""
    expected = point if other == point.offset else CommitPoint(other)
    assert decode(other, encode(point)) == expected


@given(OFFSETS, st.text(max_size=200) | st.from_regex(r"h[0-9]:[0-9+-_ ]{0,9}:[0-9-]{0,7}:[!-~]{0,40}", fullmatch=True))
def test_garbage_leaves_nothing_out(offset: int, text: str) -> None:
    """Whatever it says, no more than a readable point's records are passed over; most says nothing at all."""
    point = decode(offset, text)
    assert point.offset == offset
    assert point == CommitPoint(offset) or text.startswith(f"h1:{offset}:")


@given(points().filter(lambda point: len(point.finished) > 0), st.data())
def test_cut_text_is_not_read_as_more_than_it_was(point: CommitPoint, data: st.DataObject) -> None:
    """A prefix of the text says nothing: its bits would be others', and a record would be lost."""
    text = encode(point)
    assert decode(point.offset, text[: data.draw(st.integers(0, len(text) - 1))]) == CommitPoint(point.offset)


SOME = base64.b85encode(b"\x06").decode()


def summed(rest: str, version: str = "h1") -> str:
    """A text whose checksum is right, whatever else is wrong with it."""
    return f"{version}:{zlib.crc32(rest.encode()):08x}:{rest}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h1",
        "h1:7",
        f"h1:00000000:7:3:{SOME}",
        summed(f"7:3:{SOME}:"),
        summed(f"7:3:{SOME}", "h2"),
        summed(f"7:3:{SOME}", "H1"),
        summed(f"8:3:{SOME}"),
        summed(f":3:{SOME}"),
        summed(f"7:-3:{SOME}"),
        summed(f"7:{MAX_DISTANCE + 1}:{SOME}"),
        summed("7:3:\x7f"),
        summed("7:3:é"),
        summed(f"7:8:{base64.b85encode(bytes(2)).decode()}"),
        '{"consumed": [7, 8]}',
    ],
)
def test_what_cannot_be_ours_is_not_read(text: str) -> None:
    """Another version, another offset, foreign text, more bits than records had begun: all is done again."""
    assert decode(7, text) == CommitPoint(7)
    assert decode(7, summed(f"7:3:{SOME}")) == CommitPoint(7, 3, b"\x06")


def test_bits_past_the_last_begun_record_finish_nothing() -> None:
    """A last byte has room for them; a record that nobody has begun arrives as a new one all the same."""
    point = decode(7, summed(f"7:1:{base64.b85encode(bytes([0xFF])).decode()}"))
    offsets = Offsets(point)
    assert [o for o in range(7, 16) if offsets.arrive(o)] == list(range(8, 16))
