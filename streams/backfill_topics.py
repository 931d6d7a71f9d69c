"""A backfill's side of Kafka: the window of the tickets topic, what the events tell of it, and how far it has come."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata

from schemas.codec import PoisonError, decode
from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import BACKFILL, EVENTS, TICKETS
from streams.backfill_plan import Asked, Facts, Pass, Span, metadata, pass_of
from streams.connection import connection
from streams.exclusive import patience_s, transaction
from streams.letters import RESERVED
from streams.read import Reader, between, raw, reader
from streams.runtime import group
from streams.runtime.closing import closed
from streams.runtime.headers import Replay, read_replay, replay_headers
from streams.runtime.messages import Message
from streams.runtime.stage import Origin
from streams.settings import KafkaSettings
from streams.topics import partition_counts

CLOCKS_S = 60.0
"""Clocks of different machines may differ by so much."""
AHEAD_MS = 3_600_000
"""A record may say that it was written so much later than it was: more a broker refuses, by its default for
message.timestamp.after.max.ms."""


@dataclass(frozen=True, slots=True)
class BackfillTopics:
    """The topics, open for one backfill."""

    settings: KafkaSettings
    of: Asked
    partitions: int
    """Of the tickets topic."""
    slow_partitions: int
    admin: AIOKafkaAdminClient
    committed: AIOKafkaConsumer
    uncommitted: AIOKafkaConsumer
    """Asked for offsets only: the end that a reader of committed records is told is the last stable offset."""
    events: Reader

    @property
    def _group(self) -> str:
        return f"{self.settings.topic_prefix}headgate-backfill-{self.of.id}"

    def _at(self, partition: int, twin: str = "") -> TopicPartition:
        return TopicPartition(self.settings.topic_prefix + TICKETS.name + twin, partition)

    # -- what is known ------------------------------------------------------------------------------------------

    async def facts(self) -> Facts:
        """What the events tell, and what is on the slow lane; to be asked once an earlier backfill is fenced."""
        facts = Facts(self.of.replay_output)
        await self.follow(facts)
        slow = [self._at(number, BACKFILL) for number in range(self.slow_partitions)]
        # Up to the high watermark. Committed records end at the last stable offset, which a transaction of somebody
        # else's may hold back before what we have committed.
        starts = await self.uncommitted.beginning_offsets(slow)
        ends = await self.uncommitted.end_offsets(slow)
        spans = {partition: (starts[partition], ends[partition]) for partition in slow}
        async for record in between(self.committed, spans, patience_s(self.settings)):
            if replay := read_replay(record.headers):
                try:
                    facts.add_published(decode(Ticket, record.value), replay)
                except PoisonError:
                    continue
        return facts

    async def follow(self, facts: Facts) -> bool:
        """Add the events that have come; whether there were any."""
        found = False
        async for event, received in self.events.decoded(Event):
            facts.add(event, read_replay(received.headers))
            found = True
        return found

    # -- the window ---------------------------------------------------------------------------------------------

    async def progress(self) -> Pass | None:
        """The last pass; None if this backfill has never begun. Raises: BackfillError, KafkaError."""
        found = await group.committed(self.admin, self._group, [self._at(n) for n in range(self.partitions)])
        return pass_of({p.partition: (each.offset, each.metadata or "") for p, each in found.items() if each})

    async def window(self, number: int) -> Pass:
        """A new pass, up to where the window ends now: tickets of transactions that are still open are not in it."""
        # Producers' clocks differ: behind a record that says that it is from after the window may stand others of it.
        partitions = [self._at(n) for n in range(self.partitions)]
        ends = await self.committed.end_offsets(partitions)
        firsts = await self.committed.offsets_for_times(dict.fromkeys(partitions, _ms(self.of.since)))
        afters = await self.committed.offsets_for_times(dict.fromkeys(partitions, _ms(self.of.until) + AHEAD_MS))
        spans = {}
        for partition, end in ends.items():
            start, stop = (min(found.offset if found else end, end) for found in (firsts[partition], afters[partition]))
            spans[partition.partition] = Span(start, start, max(start, stop))
        return Pass(number, spans)

    async def tickets(self, within: Pass) -> AsyncIterator[ConsumerRecord]:
        """The window's records that are still to be looked at."""
        spans = {self._at(number): (span.position, span.end) for number, span in within.spans.items()}
        since_ms, until_ms = _ms(self.of.since), _ms(self.of.until)
        async for record in between(self.committed, spans, patience_s(self.settings)):
            # Timestamps are their producers': the offsets between two moments may hold others.
            if since_ms <= record.timestamp < until_ms:
                yield record

    # -- what is published --------------------------------------------------------------------------------------

    def message(self, record: ConsumerRecord, replay: Replay) -> Message:
        """A ticket as it came, for the slow lane. Of its headers only reserved ones stay behind. In the partition of
        the same number: where its helpdesk's partitioner put it, all of its copies are."""
        own = tuple((name, value) for name, value in record.headers if not name.startswith(RESERVED))
        partition = record.partition % self.slow_partitions
        return Message(TICKETS, record.key, record.value, (*own, *replay_headers(replay)), BACKFILL, partition)

    async def commit(self, producer: AIOKafkaProducer, messages: Sequence[Message], reached: Pass) -> None:
        """Publish, and move the positions, in one transaction."""
        offsets = {
            self._at(number): OffsetAndMetadata(span.position, metadata(reached.number, span))
            for number, span in reached.spans.items()
        }
        async with transaction(producer, self.settings.transaction_timeout_s):
            sent = [
                await producer.send(
                    self.settings.topic_prefix + m.topic_name, m.value, m.key, m.partition, headers=list(m.headers)
                )
                for m in messages
            ]
            await asyncio.gather(*sent)
            await producer.send_offsets_to_transaction(offsets, self._group)
            await producer.commit_transaction()


def place(record: ConsumerRecord) -> str:
    """Where a record stands: topic/partition/offset."""
    return str(Origin(record.topic, record.partition, record.offset))


@asynccontextmanager
async def opened(settings: KafkaSettings, of: Asked) -> AsyncIterator[BackfillTopics]:
    """The topics while the block runs. Raises: TopicsError if Kafka can't be reached or a topic is not there."""
    names = [settings.topic_prefix + TICKETS.name + twin for twin in ("", BACKFILL)]
    counts = await partition_counts(settings, names)
    common = {
        "client_id": "headgate-backfill",
        "enable_auto_commit": False,
        # Retention may take what an offset points to before it is read.
        "auto_offset_reset": "earliest",
    }
    admin = AIOKafkaAdminClient(**connection(settings))
    committed = AIOKafkaConsumer(**connection(settings), isolation_level="read_committed", **common)
    uncommitted = AIOKafkaConsumer(**connection(settings), isolation_level="read_uncommitted", **common)
    try:
        await admin.start()
        await committed.start()
        await uncommitted.start()
        # A ticket's events are later than the ticket, but by another machine's clock.
        async with reader(settings, [raw(EVENTS)], since=of.since - timedelta(seconds=CLOCKS_S)) as events:
            live, slow = (counts[name] for name in names)
            yield BackfillTopics(settings, of, live, slow, admin, committed, uncommitted, events)
    finally:
        await admin.close()
        await closed(committed.stop)
        await closed(uncommitted.stop)


def _ms(at: datetime) -> int:
    return math.ceil(at.timestamp() * 1000)
