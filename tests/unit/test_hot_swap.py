"""Replacing a model's file while it is in force: what is loaded, when, and what stays."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.hot_swap import HotSwap, Refused, Stamp, Swapped, stamp, to_load

STAMPS = st.none() | st.builds(Stamp, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))


@dataclass(frozen=True)
class Named:
    """A model that is its file's text."""

    version: str


def load(path: Path) -> Named:
    text = path.read_text()
    if text.startswith("bad"):
        raise ValueError(f"{text} can't be used")
    return Named(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "model").write_text("one")
    return tmp_path / "model"


def replace(path: Path, text: str) -> None:
    """Put another file in its place in one step, as a careful copy does."""
    path.with_name("new").write_text(text)
    path.with_name("new").replace(path)


@given(tried=STAMPS, before=STAMPS, now=STAMPS)
def test_only_a_file_that_is_there_new_and_still_is_loaded(
    tried: Stamp | None, before: Stamp | None, now: Stamp | None
) -> None:
    """Whatever the file was before."""
    assert to_load(tried, before, now) == (now is not None and now != tried and now == before)


def test_a_file_that_did_not_change_is_not_loaded_again(path: Path) -> None:
    """Looking costs one stat."""
    calls: list[Path] = []

    def counted(file: Path) -> Named:
        calls.append(file)
        return load(file)

    swap = HotSwap(path, counted)
    assert [swap.look() for _ in range(3)] == [None] * 3
    assert len(calls) == 1


def test_a_new_file_is_in_force_once_it_keeps_still(path: Path) -> None:
    """One look sees it, the next one loads it."""
    swap = HotSwap(path, load)
    replace(path, "two")
    assert swap.look() is None
    assert swap.current.version == "one"
    assert swap.look() == Swapped("one", "two")
    assert swap.current.version == "two"
    assert swap.look() is None


def test_a_file_that_is_still_being_written_is_left_alone(path: Path) -> None:
    """Half a file would be refused although nothing is wrong with it."""
    swap = HotSwap(path, load)
    for size in range(1, 5):
        path.write_text("t" * size)
        assert swap.look() is None
    assert swap.look() == Swapped("one", "tttt")


def test_a_file_that_is_away_for_a_moment_changes_nothing(path: Path) -> None:
    """Somebody deletes the old one first and then copies the new one."""
    swap = HotSwap(path, load)
    path.unlink()
    assert [swap.look(), swap.look()] == [None, None]
    replace(path, "two")
    assert [swap.look(), swap.look()] == [None, Swapped("one", "two")]


def test_a_file_that_cannot_be_used_is_refused_once_and_the_old_one_goes_on(path: Path) -> None:
    """Until another file comes."""
    swap = HotSwap(path, load)
    replace(path, "bad one")
    found = [swap.look() for _ in range(4)]
    assert found == [None, Refused("ValueError: bad one can't be used"), None, None]
    assert swap.current.version == "one"
    replace(path, "bad two")
    assert [swap.look(), swap.look()] == [None, Refused("ValueError: bad two can't be used")]
    replace(path, "three")
    assert [swap.look(), swap.look()] == [None, Swapped("one", "three")]


def test_the_old_file_put_back_ends_a_refusal(path: Path) -> None:
    """The outcome says so, with the version that was in force all the time."""
    swap = HotSwap(path, load)
    for text in ("bad", "one"):
        replace(path, text)
        swap.look()
        found = swap.look()
    assert found == Swapped("one", "one")


def test_a_file_replaced_while_it_loads_is_loaded_as_well(path: Path) -> None:
    """Which of the two files was read doesn't matter: the newer one has another stamp."""

    def overtaken(file: Path) -> Named:
        loaded = load(file)
        if loaded.version == "two":
            replace(path, "three")
        return loaded

    swap = HotSwap(path, overtaken)
    replace(path, "two")
    assert [swap.look(), swap.look()] == [None, Swapped("one", "two")]
    assert [swap.look(), swap.look()] == [None, Swapped("two", "three")]


def test_without_a_usable_file_nothing_starts(path: Path) -> None:
    """There is no older model to go on with."""
    path.write_text("bad")
    with pytest.raises(ValueError, match="bad can't be used"):
        HotSwap(path, load)


def test_a_file_of_the_same_size_and_time_is_told_by_its_inode(path: Path) -> None:
    """A copy that keeps times, of a model as long as the last one."""
    before = stamp(path)
    assert before is not None
    path.with_name("new").write_text("two")
    os.utime(path.with_name("new"), ns=(before.modified_ns, before.modified_ns))
    path.with_name("new").replace(path)
    after = stamp(path)
    assert after is not None
    assert after.inode != before.inode
    assert after[1:] == before[1:]
