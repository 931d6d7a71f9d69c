"""From a record's final result to the messages of its transaction."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from schemas.codec import encode
from schemas.events import Event, StageName
from schemas.tickets import TicketId
from schemas.topics import ANSWERS, BACKFILL, DEAD_LETTERS, EVENTS, HANDOFFS, RETRY, SEEN, Topic
from streams.runtime import seen
from streams.runtime.headers import (
    OutputHeaders,
    Parked,
    Replay,
    dead_letter_headers,
    parked_headers,
    read_replay,
    replay_headers,
)
from streams.runtime.lanes import Lane, lane_of
from streams.runtime.stage import DeadLetter, Done, Headers, Origin, Output

FRAME_BYTES = 1024
"""More than what Kafka's own framing adds to a message (a batch header of 61 bytes, a few bytes a field)."""
CUT_BYTES = 16 * 1024
"""How much stays of a key, and of the headers together, where a record has to be cut."""
TICKET_ID_BYTES = 256
"""How much of a buried record's key its event names."""


class Settled(Struct, frozen=True):
    """A record's final result in this partition, and how many tries it took."""

    origin: Origin
    result: Done | DeadLetter | Parked
    attempts: int
    mark: str | None = None
    """The identity to remember, where the stage drops what it has seen before."""


class Message(Struct, frozen=True):
    """What is sent: topic and which of its twins, key and value as bytes, headers."""

    topic: Topic
    key: bytes | None
    value: bytes | None
    headers: Headers
    twin: str = ""
    partition: int | None = None
    """None means the key's."""

    @property
    def topic_name(self) -> str:
        """Without the configured prefix."""
        return self.topic.name + self.twin

    @property
    def excess_bytes(self) -> int:
        """By how much it is larger than its topic takes; not above 0 means that it fits."""
        size_bytes = len(self.key or b"") + len(self.value or b"") + FRAME_BYTES
        for name, value in self.headers:
            size_bytes += len(name) + len(value or b"")
        return size_bytes - self.topic.limit_bytes(self.twin)


def finished(
    stage: StageName, topic: Topic, settled: Settled, source: ConsumerRecord, now: float
) -> tuple[Settled, list[Message]]:
    """What becomes of a record of `topic`, and its messages: one whose outputs no topic takes becomes a dead letter.

    Sent as they are, such outputs would fail the transaction, and the partition would meet the record again for ever.
    """
    messages = list(messages_for(stage, topic, settled, source, now))
    too_large = [m for m in messages if _may_be_too_large(m) and m.excess_bytes > 0]
    if not too_large or isinstance(settled.result, DeadLetter):
        return settled, messages
    name = too_large[0].topic_name
    letter = DeadLetter(f"an output for {name} is {too_large[0].excess_bytes} bytes too large", "OutputTooLarge")
    settled = msgspec.structs.replace(settled, result=letter, mark=None)
    return settled, list(messages_for(stage, topic, settled, source, now))


def _may_be_too_large(message: Message) -> bool:
    """Whether it is worth adding up: our own headers are small, those of a parked record are anybody's."""
    return message.twin == RETRY or len(message.value or b"") > message.topic.max_message_bytes // 2


def messages_for(
    stage: StageName, topic: Topic, settled: Settled, source: ConsumerRecord, now: float
) -> Iterator[Message]:
    """A finished record's outputs and event, or its dead letter and the event of that, or the parked record."""
    incoming = tuple(source.headers)
    result = settled.result
    slow = BACKFILL if lane_of(settled.origin.topic) is Lane.BACKFILL else ""
    if settled.mark is not None:
        # By partition and not by key: the memory stands beside the ticket however its producer chose the partition.
        value = encode(seen.mark(source.timestamp / 1000, str(settled.origin)))
        yield Message(SEEN, settled.mark.encode(), value, (), slow, source.partition)
    if isinstance(result, Parked):
        yield Message(topic, source.key, source.value, parked_headers(result, incoming), RETRY)
        return
    if isinstance(result, DeadLetter):
        yield _buried(source, stage, settled, result, now)
        event = _dead_lettered(stage, settled.origin, result, source, now)
        outputs: tuple[Output, ...] = ()
    else:
        event, outputs = result.event, result.outputs
    replay = read_replay(incoming) if slow else None
    if replay:
        event = msgspec.structs.replace(event, replay_id=replay.id)
    carried = replay_headers(replay) if replay else ()
    headers_of = OutputHeaders(stage, settled.origin, now, incoming)
    for number, output in enumerate((*outputs, Output(EVENTS, event.ticket_id, event))):
        headers = (*headers_of.of(type(output.value).__name__, number), *carried)
        topic = _destination(output.topic, replay)
        twin = slow if slow in topic.twins else ""
        yield Message(topic, output.key.encode(), encode(output.value), headers, twin)


def _destination(topic: Topic, replay: Replay | None) -> Topic:
    """Where a record goes: how a ticket ends may be wanted elsewhere."""
    if replay and replay.output and topic in (ANSWERS, HANDOFFS):
        return replace(topic, name=replay.output)
    return topic


def _buried(source: ConsumerRecord, stage: StageName, settled: Settled, letter: DeadLetter, now: float) -> Message:
    """The record as it came. Only what Kafka can't carry changes: a record with neither key nor value gets an empty
    key, and one that its producer had compressed below every limit is cut, the value last."""

    def headers(incoming: Headers) -> Headers:
        return dead_letter_headers(stage, settled.origin, letter, settled.attempts, now, incoming)

    key = b"" if source.key is None and source.value is None else source.key
    incoming = tuple(source.headers)
    whole = Message(DEAD_LETTERS, key, source.value, headers(incoming))
    if whole.excess_bytes <= 0:
        return whole
    value = source.value or b""
    cut = ("headgate-cut-from-bytes", str(len(value)).encode())
    key = None if key is None else key[:CUT_BYTES]
    rest = Message(DEAD_LETTERS, key, value, (*headers(tuple(_small(incoming))), cut))
    return msgspec.structs.replace(rest, value=value[: len(value) - max(0, rest.excess_bytes)])


def _small(headers: Headers) -> Iterator[tuple[str, bytes]]:
    """The headers of a record that has to be cut: in their order, as long as they are small together."""
    size_bytes = 0
    for name, value in headers:
        size_bytes += len(name) + len(value or b"")
        if size_bytes <= CUT_BYTES:
            yield name, value


def _dead_lettered(stage: StageName, origin: Origin, letter: DeadLetter, source: ConsumerRecord, now: float) -> Event:
    return Event(
        event_id=f"{stage}/{origin}",
        at=datetime.fromtimestamp(now, UTC),
        stage=stage,
        outcome="dead_lettered",
        ticket_id=TicketId((source.key or b"")[:TICKET_ID_BYTES].decode("utf-8", "replace")),
        reasons=(letter.exception,),
        age_s=max(0.0, now - source.timestamp / 1000),
    )
