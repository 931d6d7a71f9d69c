"""Record headers: CloudEvents, the trace that goes on, a parked record's life, and why a dead letter is dead."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.runtime.headers import (
    OutputHeaders,
    Parked,
    Replay,
    dead_letter_headers,
    own_headers,
    parked_headers,
    read_parked,
    read_replay,
    replay_headers,
    trace_of,
)
from streams.runtime.stage import DeadLetter, Origin

ORIGIN = Origin("tickets", 3, 42)
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
INCOMING = (("traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-00"),)
VALID = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def test_an_output_is_a_cloud_event() -> None:
    """Binary mode: the required attributes are headers, the value is the data."""
    headers = dict(OutputHeaders("router", ORIGIN, 0.5, ()).of("Routed", 1))
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == b"router/tickets/3/42/1"
    assert headers["ce_type"] == b"headgate.routed.v1"
    assert headers["ce_source"] == b"/headgate/router"
    assert headers["ce_time"] == b"1970-01-01T00:00:00.500000+00:00"
    assert headers["content-type"] == b"application/json"


def test_the_same_input_gives_the_same_id() -> None:
    """Whoever reads a record twice can tell."""
    once, again = (dict(OutputHeaders("router", ORIGIN, now, ()).of("Routed", 0))["ce_id"] for now in (1.0, 2.0))
    assert once == again
    assert dict(OutputHeaders("router", ORIGIN, 1.0, ()).of("Routed", 1))["ce_id"] != once


def test_an_incoming_trace_goes_on_in_a_span_of_its_own() -> None:
    """The trace and its flags stay, the parent is this stage."""
    made = trace_of("router", ORIGIN, INCOMING).traceparent
    assert VALID.fullmatch(made)
    assert made.split(b"-")[1] == TRACE
    assert made.split(b"-")[2] != b"00f067aa0ba902b7"
    assert made.split(b"-")[3] == b"00"


def test_a_record_without_a_trace_begins_one() -> None:
    """The same one if it is worked on again."""
    made = trace_of("router", ORIGIN, ()).traceparent
    assert VALID.fullmatch(made)
    assert made == trace_of("router", ORIGIN, ()).traceparent
    assert made.split(b"-")[1] != trace_of("router", Origin("tickets", 3, 43), ()).traceparent.split(b"-")[1]


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"junk",
        None,
        b"00-" + TRACE.upper() + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-00f067aa0ba902b7-01\n",
        b"00-" + TRACE + b"-00f067aa0ba902b7-01-more",
        b"ff-" + TRACE + b"-00f067aa0ba902b7-01",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"\xff\xfe",
    ],
)
def test_a_malformed_trace_is_replaced(malformed: bytes) -> None:
    """As the specification says: as if there were none."""
    assert trace_of("router", ORIGIN, (("traceparent", malformed),)) == trace_of("router", ORIGIN, ())


def test_a_dead_letter_keeps_its_own_headers_first() -> None:
    """All of them, in their order, doubles and odd bytes too; then where and why it was given up."""
    own = (("a", b"1"), ("a", b"\xff"), ("headgate-reason", b"an older one"))
    headers = dead_letter_headers("router", ORIGIN, DeadLetter("not a Ticket", "PoisonError"), 2, 0.0, own)
    assert headers[:3] == own
    assert dict(headers[3:]) == {
        "headgate-reason": b"not a Ticket",
        "headgate-exception": b"PoisonError",
        "headgate-stage": b"router",
        "headgate-attempts": b"2",
        "headgate-origin": b"tickets/3/42",
        "headgate-at": b"1970-01-01T00:00:00+00:00",
    }


SECONDS = st.floats(0, 1e11)
NAMES = st.text("abc-/_.", min_size=1, max_size=9)
ORIGINS = st.builds(Origin, NAMES, st.integers(0, 9999), st.integers(0, 2**63 - 1))
PARKED = st.builds(Parked, ORIGINS, SECONDS, st.integers(0, 99), SECONDS, SECONDS)
OWN = st.lists(st.tuples(NAMES, st.binary(max_size=9)), max_size=4).map(tuple)


@given(PARKED, PARKED, OWN)
def test_a_parked_record_remembers_its_life(parked: Parked, again: Parked, own: tuple[tuple[str, bytes], ...]) -> None:
    """Exactly, and parked a second time only the last; its own headers stay as they came."""
    headers = parked_headers(parked, own)
    assert read_parked(headers) == parked
    assert own_headers(headers) == own
    assert parked_headers(again, headers) == parked_headers(again, own)


@pytest.mark.parametrize("name", ["origin", "written", "attempts", "first-failed", "due"])
@pytest.mark.parametrize("garbage", [b"", b"junk", b"\xff", None])
def test_a_life_that_cannot_be_read_is_none(name: str, garbage: bytes | None) -> None:
    """Somebody else's record on the retry topic starts its life here; None is a header that Kafka allows."""
    headers = dict(parked_headers(Parked(ORIGIN, 1.0, 1, 2.0, 3.0), ()))
    broken: dict[str, bytes | None] = {**headers, f"headgate-parked-{name}": garbage}
    assert read_parked(tuple(broken.items())) is None  # type: ignore[arg-type]
    del headers[f"headgate-parked-{name}"]
    assert read_parked(tuple(headers.items())) is None


@pytest.mark.parametrize("replay", [Replay("b-1", "tickets/3/42"), Replay("b-1", "tickets/3/42", "mine")])
def test_a_replay_survives_as_headers(replay: Replay) -> None:
    """Among a record's own; one without an id is none."""
    assert read_replay((*INCOMING, *replay_headers(replay))) == replay
    assert read_replay((*INCOMING, *replay_headers(replay)[1:])) is None
