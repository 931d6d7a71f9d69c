"""What every subject of benchmarks/stream.py makes of a ticket: an answer and an event, with Headgate's headers.

One definition for the raw loops, for our runtime and for the peers, so that
the loops are compared and not what they carry. Our runtime builds the same
messages itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from aiokafka.structs import ConsumerRecord

from schemas.codec import decode, encode
from schemas.events import Event
from schemas.tickets import Ticket, TicketId
from schemas.topics import ANSWERS, EVENTS
from streams.runtime.headers import OutputHeaders
from streams.runtime.stage import Done, Headers, Origin, Output

TICKET_BYTES = 1024
OUTPUTS = 2
"""Records written for each ticket."""
POLL_RECORDS = 500
"""Most records that a loop polls at a time."""
BATCH_BYTES = 128 * 1024
"""Batches of this size beat the producer's default of 16 KiB clearly; the runtime takes it, too."""
CALLS_IN_FLIGHT = 2_000


@dataclass(frozen=True, slots=True)
class Sent:
    """A record to send."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


def ticket(number: int) -> Ticket:
    """The ticket of that number; TICKET_BYTES long once encoded."""
    bare = Ticket(ticket_id=TicketId(f"{number:09d}"), body=".", subject="a question")
    return msgspec.structs.replace(bare, body="." * (TICKET_BYTES + 1 - len(encode(bare))))


def answered(value: Ticket, origin: Origin) -> Done:
    """The ticket as its own answer, and the event of it."""
    key = value.ticket_id
    event = Event(event_id=f"router/{origin}", at=datetime.now(UTC), stage="router", outcome="answered", ticket_id=key)
    return Done((Output(ANSWERS, key, value),), event)


def outputs(value: bytes, origin: Origin, incoming: Headers, now: float) -> Iterator[Sent]:
    """Decode a ticket and build what is sent for it; `now`, seconds since the epoch, is one for a whole poll."""
    done = answered(decode(Ticket, value), origin)
    headers_of = OutputHeaders("router", origin, now, incoming)
    for number, output in enumerate((*done.outputs, Output(EVENTS, done.event.ticket_id, done.event))):
        headers = headers_of.of(type(output.value).__name__, number)
        yield Sent(output.topic.name, output.key.encode(), encode(output.value), headers)


def origin_of(record: ConsumerRecord) -> Origin:
    """Where a record of aiokafka stands."""
    return Origin(record.topic, record.partition, record.offset)
