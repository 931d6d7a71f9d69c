"""The Kafka side of one partition of tier-2's slow lane: its tickets taken in, read again, and committed.

The delivery's transactional.id is the one that the ordinary tier-2 process has for this partition, and the place in the
input its group's: so each of the two goes on where the other stopped, and fences it.
"""

import asyncio
import time
from collections.abc import Collection, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from schemas.batches import Batch
from schemas.codec import decode, encode
from schemas.tickets import Routed
from schemas.topics import BATCHES, TIER2
from streams.runtime.canonical_log import report
from streams.runtime.delivery import Delivery
from streams.runtime.messages import Message, Settled, finished
from streams.runtime.offsets import CommitPoint, Offsets
from streams.runtime.stage import Origin, Record

POLL_MS = 500

End = tuple[Settled, ConsumerRecord]
"""What became of a ticket, and its record."""


class BatchPartition:
    """One assignment of one partition. All of its methods raise KafkaError."""

    def __init__(self, at: TopicPartition, delivery: Delivery, consumer: AIOKafkaConsumer, start: CommitPoint) -> None:
        """`consumer` has this partition alone."""
        self.at = at
        self._delivery, self._consumer = delivery, consumer
        self._offsets = Offsets(start)
        self._seek(start.offset)

    async def take_in(self, most: int) -> list[ConsumerRecord]:
        """The next records, which are unfinished from now on; none if none come within half a second, or while they
        stand so far above the lowest unfinished one that no commit could say so."""
        polled = await self._consumer.getmany(self.at, timeout_ms=POLL_MS, max_records=most)
        taken = []
        for source in polled.get(self.at, ()):
            if not self._offsets.may_begin(source.offset, most):
                self._seek(self._offsets.arrived_to)
                await asyncio.sleep(POLL_MS / 1000)
                break
            if self._offsets.arrive(source.offset):
                self._offsets.begin(source.offset, source.timestamp / 1000)
                taken.append(source)
        return taken

    async def read_again(self, offsets: Collection[int]) -> dict[int, ConsumerRecord]:
        """Records that were taken in before, by offset; without those that retention has taken since."""
        last = min(max(offsets), (await self._consumer.end_offsets([self.at]))[self.at] - 1)
        found: dict[int, ConsumerRecord] = {}
        self._seek(min(offsets))
        try:
            while await self._consumer.position(self.at) <= last:
                polled = await self._consumer.getmany(self.at, timeout_ms=POLL_MS)
                found |= {source.offset: source for source in polled.get(self.at, ()) if source.offset in offsets}
        finally:
            self._seek(self._offsets.arrived_to)
        return found

    def _seek(self, offset: int) -> None:
        self._consumer.seek(self.at, offset)

    async def commit(
        self, ends: Sequence[End], batches: Sequence[tuple[str, Batch | None]], taken_out: Collection[int] = ()
    ) -> None:
        """In one transaction: what became of tickets, batches as they are now (None: over), and the place in the
        input, where those `taken_out` are finished."""
        now = round(time.time(), 3)
        reported: list[Settled] = []
        messages: list[Message] = []
        for settled, source in ends:
            final, its_messages = finished("tier2", TIER2, settled, source, now)
            reported.append(final)
            messages += its_messages
        for key, batch in batches:
            messages.append(Message(BATCHES, key.encode(), encode(batch) if batch else None, (), partition=0))
        for offset in taken_out:
            self._offsets.finish(offset)
        await self._delivery.commit(messages, self._offsets.commit_point())
        report("tier2", reported)


def origin_of(source: ConsumerRecord) -> Origin:
    """Where a record stands."""
    return Origin(source.topic, source.partition, source.offset)


def ticket_of(source: ConsumerRecord) -> Record[Routed]:
    """A record as a ticket. Raises: PoisonError."""
    return Record(decode(Routed, source.value), origin_of(source), source.timestamp / 1000)
