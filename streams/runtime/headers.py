"""Record headers: CloudEvents (Kafka binary mode), W3C trace context, what a parked record and a dead letter carry."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from streams.runtime.stage import DeadLetter, Headers, Origin

_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

REQUEUE_OF = "headgate-requeue-of"
"""On a record that was published again from the dead letters: which of them it was, as PARTITION/OFFSET there."""
REPLAY_ID, REPLAY_OF, REPLAY_OUTPUT = REPLAY = (
    "headgate-replay-id",
    "headgate-replay-of",
    "headgate-replay-output",
)
"""On a past ticket that is on the slow lane again, and on all that the stages make of it there."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Why a ticket is on the slow lane."""

    id: str
    """One pass of one backfill."""
    of: str
    """The past ticket's place, topic/partition/offset."""
    output: str = ""
    """The topic for its answer or handoff, without the prefix; empty: where they go always."""


def replay_headers(replay: Replay) -> Headers:
    """The headers that say so."""
    output = ((REPLAY_OUTPUT, replay.output.encode()),) if replay.output else ()
    return ((REPLAY_ID, replay.id.encode()), (REPLAY_OF, replay.of.encode()), *output)


def read_replay(headers: Headers) -> Replay | None:
    """What the headers of a record say; None for one that is no replay. To be believed on the slow lane, and of what
    our stages wrote: a helpdesk may write anything on its tickets, and must not choose by it where answers go."""
    found = {name: (value or b"").decode("utf-8", "replace") for name, value in headers if name in REPLAY}
    if not found.get(REPLAY_ID):
        return None
    return Replay(found[REPLAY_ID], found.get(REPLAY_OF, ""), found.get(REPLAY_OUTPUT, ""))


class OutputHeaders:
    """The headers of everything that `stage` makes of the record at `origin`."""

    def __init__(self, stage: str, origin: Origin, now: float, incoming: Headers) -> None:
        self._stage = stage
        self._source = f"{stage}/{origin}"
        self._time = _moment(now)
        self._traceparent = trace_of(stage, origin, incoming).traceparent

    def of(self, record_type: str, number: int) -> Headers:
        """Of output `number`. The same input gives the same ce_id."""
        return (
            *_constant_headers(self._stage, record_type),
            ("ce_id", f"{self._source}/{number}".encode()),
            ("ce_time", self._time),
            ("traceparent", self._traceparent),
        )


@lru_cache(maxsize=64)
def _constant_headers(stage: str, record_type: str) -> Headers:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", f"headgate.{record_type.lower()}.v1".encode()),
        ("ce_source", f"/headgate/{stage}".encode()),
        ("content-type", b"application/json"),
    )


@lru_cache(maxsize=8)
def _moment(now: float) -> bytes:
    """A time as RFC 3339; a commit has one for all its records."""
    return datetime.fromtimestamp(now, UTC).isoformat().encode()


class Trace(NamedTuple):
    """Where a stage's work on a record stands in the record's trace; ids as hexadecimal digits."""

    trace_id: bytes
    span_id: bytes
    """Of the stage's own span, which its outputs name as their parent."""
    parent_id: bytes
    """Of the span that the record came from; empty where the trace begins here."""
    flags: bytes

    @property
    def traceparent(self) -> bytes:
        """As the outputs carry it."""
        return b"00-" + self.trace_id + b"-" + self.span_id + b"-" + self.flags


def trace_of(stage: str, origin: Origin, incoming: Headers) -> Trace:
    """The incoming trace goes on in a span of the stage's own; a new one begins where the record came without.

    The same record gives the same ids, whoever works on it and however often.
    """
    digest = hashlib.sha256(f"{stage}/{origin}".encode()).hexdigest().encode()
    parent = next((value for name, value in incoming if name == "traceparent"), b"")
    match = _TRACEPARENT.fullmatch(parent or b"")
    trace_id, parent_id, flags = (match[1], match[2], match[3]) if match else (digest[:32], b"", b"01")
    return Trace(trace_id, digest[32:48], parent_id, flags)


_PARKED = "headgate-parked-"


@dataclass(frozen=True, slots=True)
class Parked:
    """What a parked record remembers of its life before. Times are seconds since the epoch."""

    origin: Origin
    written_s: float
    attempts: int
    first_failed_s: float
    due_s: float
    """It is not worked on before."""


def parked_headers(parked: Parked, incoming: Headers) -> Headers:
    """The record's own headers as they came, then its life so far."""
    return (
        *own_headers(incoming),
        (_PARKED + "origin", str(parked.origin).encode()),
        (_PARKED + "written", repr(parked.written_s).encode()),
        (_PARKED + "attempts", str(parked.attempts).encode()),
        (_PARKED + "first-failed", repr(parked.first_failed_s).encode()),
        (_PARKED + "due", repr(parked.due_s).encode()),
    )


def read_parked(headers: Headers) -> Parked | None:
    """A parked record's life so far; None for one that was not parked by us."""
    found = {name.removeprefix(_PARKED): value for name, value in headers if name.startswith(_PARKED)}
    try:
        topic, partition, offset = found["origin"].decode().rsplit("/", 2)
        return Parked(
            origin=Origin(topic, int(partition), int(offset)),
            written_s=float(found["written"]),
            attempts=int(found["attempts"]),
            first_failed_s=float(found["first-failed"]),
            due_s=float(found["due"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError):  # a header may have no value at all
        return None


def own_headers(headers: Headers) -> Headers:
    """A record's headers without those that parking added."""
    return tuple(header for header in headers if not header[0].startswith(_PARKED))


def dead_letter_headers(
    stage: str, origin: Origin, letter: DeadLetter, attempts: int, now: float, incoming: Headers
) -> Headers:
    """The record's own headers as they came, then why and where it was given up."""
    return (
        *own_headers(incoming),
        ("headgate-reason", letter.reason.encode()),
        ("headgate-exception", letter.exception.encode()),
        ("headgate-stage", stage.encode()),
        ("headgate-attempts", str(attempts).encode()),
        ("headgate-origin", str(origin).encode()),
        ("headgate-at", _moment(now)),
    )
