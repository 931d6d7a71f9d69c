"""What is remembered of the tickets taken in: for a window, up to a limit, whatever order they come in."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.seen import Seen
from streams.runtime.seen import SeenTickets, _remember, mark

WINDOW_S = 100.0
IDENTITIES = st.sampled_from("abcdef")
MOMENTS_S = st.integers(0, 400).map(float)
TICKETS = st.lists(st.tuples(IDENTITIES, MOMENTS_S), max_size=40)


def test_a_ticket_is_known_at_once() -> None:
    """Published twice in one poll, it is answered once."""
    seen = SeenTickets(WINDOW_S, 10)
    assert not seen.has("a", 1000.0)
    seen.add("a", 1000.0)
    assert seen.has("a", 1000.0)
    assert not seen.has("b", 1000.0)


def test_the_window_counts_between_the_tickets_and_not_from_now() -> None:
    """A backlog that is worked off a day late has the same duplicates."""
    seen = SeenTickets(WINDOW_S, 10)
    seen.add("a", 1000.0)
    assert seen.has("a", 1099.9)
    assert not seen.has("a", 1100.0)
    assert seen.has("a", 1.0), "one that was written before and read after is a duplicate, too"


@given(TICKETS, IDENTITIES, MOMENTS_S)
def test_nothing_is_a_duplicate_that_was_not_taken_in_within_the_window(
    tickets: list[tuple[str, float]], identity: str, at_s: float
) -> None:
    """A ticket that is wrongly taken for a duplicate is never answered: this is the side that must not err."""
    seen = SeenTickets(WINDOW_S, 3)
    for name, written_s in tickets:
        seen.add(name, written_s)
    if seen.has(identity, at_s):
        assert any(name == identity and at_s - written_s < WINDOW_S for name, written_s in tickets)


@given(TICKETS, st.integers(1, 8))
def test_memory_is_bounded_and_the_newest_is_in_it(tickets: list[tuple[str, float]], limit: int) -> None:
    """Never more than the limit, whatever comes; what was taken in last is known, however old it is."""
    seen = SeenTickets(WINDOW_S, limit)
    for name, written_s in tickets:
        seen.add(name, written_s)
        assert 1 <= len(seen) <= limit
        assert seen.has(name, written_s)


@given(st.lists(st.tuples(IDENTITIES, st.integers(0, 60).map(float)), max_size=40))
def test_within_window_and_limit_everything_is_known(steps: list[tuple[str, float]]) -> None:
    """Tickets in the order of their times: known if and only if the last of its identity is in the window."""
    seen = SeenTickets(WINDOW_S, 1000)
    last_s: dict[str, float] = {}
    now_s = 0.0
    for name, step_s in steps:
        now_s += step_s
        assert seen.has(name, now_s) == (name in last_s and now_s - last_s[name] < WINDOW_S)
        seen.add(name, now_s)
        last_s[name] = now_s


@given(st.lists(st.tuples(IDENTITIES, st.integers(300, 399).map(float)), max_size=20).flatmap(st.permutations))
def test_tickets_finish_in_any_order(tickets: list[tuple[str, float]]) -> None:
    """And are remembered in that order: all of the window are known, whichever came first."""
    seen = SeenTickets(WINDOW_S, 1000)
    for name, written_s in tickets:
        seen.add(name, written_s)
    assert all(seen.has(name, 399.0) for name, _ in tickets)


def test_past_the_limit_the_first_taken_in_are_forgotten() -> None:
    """One taken in again counts as new."""
    seen = SeenTickets(WINDOW_S, 2)
    for name in ("a", "b", "a", "c"):
        seen.add(name, 1000.0)
    assert [seen.has(name, 1000.0) for name in "abc"] == [True, False, True]


def test_a_wrong_clock_does_not_make_a_process_forget() -> None:
    """A producer sets the time of its records: one that is in another century is no reason to answer twice."""
    seen = SeenTickets(WINDOW_S, 10)
    seen.add("a", 1000.0)
    seen.add("from-2100", 4e9)
    assert seen.has("a", 1001.0)


@given(TICKETS)
def test_what_is_written_is_what_is_remembered(tickets: list[tuple[str, float]]) -> None:
    """A process that takes a partition over knows what its former owner knew."""
    owner, successor = SeenTickets(WINDOW_S, 4), SeenTickets(WINDOW_S, 4)
    for name, written_s in tickets:
        owner.add(name, written_s)
        _remember(successor, name.encode(), encode(mark(written_s, "tickets/0/1")))
    assert len(owner) == len(successor)
    assert all(owner.has(n, s) == successor.has(n, s) for n in "abcdef" for s in (0.0, 150.0, 300.0, 399.0))


@pytest.mark.parametrize(("key", "value"), [(b"a", None), (b"a", b"junk"), (b"\xff", b"{}"), (b"a", b"{}")])
def test_what_somebody_else_wrote_says_nothing_of_a_ticket(key: bytes, value: bytes | None) -> None:
    """Tombstones and foreign records are passed over."""
    seen = SeenTickets(WINDOW_S, 10)
    _remember(seen, key, value)
    assert len(seen) == 0


def test_a_mark_has_the_tickets_time_and_place() -> None:
    """UTC, as all moments."""
    moment = datetime(2026, 11, 24, tzinfo=UTC) + timedelta(milliseconds=1)
    told = msgspec.json.decode(encode(mark(moment.timestamp(), "tickets/0/7")), type=Seen)
    assert (told.at, told.origin) == (moment, "tickets/0/7")
