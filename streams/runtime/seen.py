"""Which tickets of a partition were taken in lately, so that one published again is not answered again.

The memory is a compacted topic, partition by partition beside the input, and is
written in the transaction that takes the ticket in; what stands here is its
image, bounded by count.
"""

from collections import OrderedDict
from collections.abc import Mapping
from math import inf

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.codec import PoisonError, decode
from schemas.seen import Seen
from streams.connection import connection
from streams.runtime.clock import moment
from streams.runtime.closing import closed
from streams.settings import KafkaSettings

NO_OFFSET = -1


class SeenTickets:
    """Identities with the times their tickets were written; the oldest go first."""

    def __init__(self, window_s: float, limit: int) -> None:
        self._window_s = window_s
        self._limit = limit
        self._tickets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tickets)

    def has(self, identity: str, written_s: float, offset: int = NO_OFFSET) -> bool:
        """Whether a ticket of this identity was taken in less than the window before `written_s` (or after it).

        The record at `offset` is no duplicate of itself: at least once, a crash may fall between mark and commit.
        """
        seen_s, seen_offset = self._tickets.get(identity, (-inf, NO_OFFSET))
        return written_s - seen_s < self._window_s and (seen_offset == NO_OFFSET or seen_offset != offset)

    def add(self, identity: str, written_s: float, offset: int = NO_OFFSET) -> None:
        """A ticket was taken in. Over the limit, the first that came is forgotten: by count alone, since times are the
        producers' and one that is in another century must not empty the memory."""
        self._tickets.pop(identity, None)
        self._tickets[identity] = (written_s, offset)
        if len(self._tickets) > self._limit:
            self._tickets.popitem(last=False)


async def load(
    settings: KafkaSettings, partitions: Mapping[TopicPartition, SeenTickets], fetch_bytes: int = 4 * 1024 * 1024
) -> None:
    """Read the topic's partitions to their ends into their images; call it once their former owners are fenced.

    Raises: KafkaError.
    """
    if not partitions:
        return
    consumer = AIOKafkaConsumer(
        **connection(settings),
        client_id="headgate-seen",
        isolation_level="read_committed",
        enable_auto_commit=False,
        max_partition_fetch_bytes=fetch_bytes,
    )
    try:
        await consumer.start()
        consumer.assign(list(partitions))
        ends = await consumer.end_offsets(list(partitions))
        starts = await consumer.beginning_offsets(list(partitions))
        for partition, start in starts.items():
            consumer.seek(partition, start)
        left = {p for p in partitions if starts[p] < ends[p]}
        while left:
            polled = await consumer.getmany(*left, timeout_ms=200)
            for partition, records in polled.items():
                for record in records:
                    _remember(partitions[partition], record.key, record.value)
            # A partition's end may be a transaction's marker, which no poll returns: the position passes it.
            left = {p for p in left if await consumer.position(p) < ends[p]}
    finally:
        await closed(consumer.stop)


def _remember(seen: SeenTickets, key: bytes, value: bytes | None) -> None:
    try:
        taken = decode(Seen, value)
        seen.add(key.decode(), taken.at.timestamp(), int(taken.origin.rpartition("/")[2]))
    except (PoisonError, ValueError):
        # Somebody else's record, or a tombstone: it says nothing of a ticket.
        return


def mark(written_s: float, origin: str) -> Seen:
    """What is remembered of a ticket."""
    return Seen(at=moment(written_s), origin=origin)
