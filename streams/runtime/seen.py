"""Which tickets of a partition were taken in lately, so that one published again is not answered again.

The memory is a compacted topic, partition by partition beside the input, and is
written in the transaction that takes the ticket in; what stands here is its
image, bounded by age and by count.
"""

from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.codec import PoisonError, decode
from schemas.seen import Seen


class SeenTickets:
    """Identities with the times their tickets were written; the oldest go first."""

    def __init__(self, window_s: float, limit: int) -> None:
        self._window_s = window_s
        self._limit = limit
        self._written_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._written_s)

    def has(self, identity: str, written_s: float) -> bool:
        """Whether a ticket of this identity was taken in less than the window before `written_s` (or after it)."""
        seen_s = self._written_s.get(identity)
        return seen_s is not None and written_s - seen_s < self._window_s

    def add(self, identity: str, written_s: float) -> None:
        """A ticket was taken in. What is older than the window, or over the limit, is forgotten."""
        self._written_s.pop(identity, None)
        self._written_s[identity] = written_s
        while len(self._written_s) > self._limit or self._oldest_s() <= written_s - self._window_s:
            self._written_s.popitem(last=False)

    def _oldest_s(self) -> float:
        return next(iter(self._written_s.values()))


async def load(
    bootstrap_servers: str, partitions: Mapping[TopicPartition, SeenTickets], fetch_bytes: int = 4 * 1024 * 1024
) -> None:
    """Read the topic's partitions to their ends into their images; call it once their former owners are fenced.

    Raises: KafkaError.
    """
    if not partitions:
        return
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
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
        await consumer.stop()


def _remember(seen: SeenTickets, key: bytes, value: bytes | None) -> None:
    try:
        seen.add(key.decode(), decode(Seen, value).at.timestamp())
    except (PoisonError, UnicodeDecodeError):
        # Somebody else's record, or a tombstone: it says nothing of a ticket.
        return


def mark(written_s: float, origin: str) -> Seen:
    """What is remembered of a ticket."""
    return Seen(at=datetime.fromtimestamp(written_s, UTC), origin=origin)
