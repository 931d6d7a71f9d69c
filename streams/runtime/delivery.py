"""How a partition's outputs and its commit point reach Kafka: in one transaction, or one after the other.

Invariants:
- Exactly once: the producer's transactional.id belongs to the input partition
  and is initialised by `start`, before the committed offset is read. That fences
  the partition's former owner; only then is its last commit final.
- At least once: the commit point follows its outputs, so a crash in between
  writes them again.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerFenced
from aiokafka.partitioner import murmur2
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata

from schemas.topics import SEEN, TOPICS
from streams.connection import connection
from streams.runtime import metrics, offset_metadata
from streams.runtime.messages import Message
from streams.runtime.offsets import CommitPoint
from streams.settings import KafkaSettings

log = structlog.get_logger()

MAX_REQUEST_BYTES = max(topic.max_message_bytes for topic in TOPICS)
MAX_BATCH_BYTES = 128 * 1024
"""Of one output partition; clearly faster than the default of 16 KiB (measured)."""
TRANSACTION_BACKOFF_S = 0.002
"""How soon a transaction that met the end of the one before it asks again; see `hasten`."""


def hasten() -> None:
    """Let transactions follow each other closely. It sets how often a request is repeated that the broker has refused
    because the last transaction's markers are still being written (about 2 ms), and nothing else: no order, no
    acknowledgement and no fence depends on it, so that no crash can tell the difference.

    The name is aiokafka's own and not promised to anybody; `retry_backoff_ms` doesn't reach it. Its 20 ms are most of
    a hop's latency: p50/p99 3.5/58 ms with it, 2.8/24 ms without (200 records/s on four partitions, measured).
    """
    if not isinstance(sender.BACKOFF_OVERRIDE, float):
        raise TypeError("aiokafka's BACKOFF_OVERRIDE is no longer a number of seconds")
    sender.BACKOFF_OVERRIDE = TRANSACTION_BACKOFF_S


class Delivery(Protocol):
    """What a partition needs to commit."""

    async def start(self) -> None:
        """Connect; for exactly-once also fence whoever had the partition before."""

    async def commit(self, messages: Sequence[Message], point: CommitPoint) -> None:
        """Deliver the messages and the commit point.

        Raises: KafkaError. The messages may or may not have arrived; a new owner's `start` settles it.
        """

    async def close(self) -> None:
        """Disconnect."""


class ExactlyOnce:
    """Outputs and commit point in one transaction."""

    def __init__(self, settings: KafkaSettings, group: str, partition: TopicPartition) -> None:
        hasten()
        self._prefix, self._group, self._partition = settings.topic_prefix, group, partition
        self._producer = AIOKafkaProducer(
            **connection(settings),
            client_id=f"{group}-{partition.topic}-{partition.partition}",
            transactional_id=f"{group}-{partition.topic}-{partition.partition}",
            transaction_timeout_ms=int(settings.transaction_timeout_s * 1000),
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=MAX_BATCH_BYTES,
        )

    async def start(self) -> None:
        await self._producer.start()

    async def commit(self, messages: Sequence[Message], point: CommitPoint) -> None:
        try:
            async with self._producer.transaction():
                # All sends before the first wait: then one request adds every partition to the transaction, and no
                # record is sent while another request changes the transaction (the broker would refuse it, and
                # aiokafka wait 100 ms). For the same reason the offset follows the acknowledgements, and since the
                # first request may meet the end of the last transaction, which only for partitions is asked soon again.
                await _send(self._producer, self._prefix, messages)
                await self._producer.send_offsets_to_transaction({self._partition: committed(point)}, self._group)
        except ProducerFenced:
            # Another process owns the partition now: whatever this one did is not committed, and must not be.
            log.warning("producer_fenced", partition=str(self._partition), consequence="its results are dropped")
            raise

    async def abort_hanging(self, topics: Sequence[str]) -> None:
        """Abort what an earlier transaction has left open, in all partitions of these topics and in the group; none is
        under way. Raises: KafkaError."""
        # An abort ends what is open in every partition that the transaction has touched, and touching takes a record.
        await self._producer.begin_transaction()
        await self._producer.send_offsets_to_transaction({self._partition: OffsetAndMetadata(0, "")}, self._group)
        sent = [
            await self._producer.send(topic, b"", key=b"aborted", partition=number)
            for topic in topics
            for number in await self._producer.partitions_for(topic)
        ]
        await asyncio.gather(*sent)
        await self._producer.abort_transaction()

    async def close(self) -> None:
        await self._producer.stop()


class AtLeastOnce:
    """Outputs first, then the commit point."""

    def __init__(
        self, settings: KafkaSettings, group: str, partition: TopicPartition, consumer: AIOKafkaConsumer
    ) -> None:
        self._prefix, self._partition, self._consumer = settings.topic_prefix, partition, consumer
        self._producer = AIOKafkaProducer(
            **connection(settings),
            client_id=f"{group}-{partition.topic}-{partition.partition}",
            enable_idempotence=True,
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=MAX_BATCH_BYTES,
        )

    async def start(self) -> None:
        await self._producer.start()

    async def commit(self, messages: Sequence[Message], point: CommitPoint) -> None:
        # Remembered before its answer is out, a ticket that is done again would be dropped as its own duplicate.
        await _send(self._producer, self._prefix, [m for m in messages if m.topic is not SEEN])
        await _send(self._producer, self._prefix, [m for m in messages if m.topic is SEEN])
        await self._consumer.commit({self._partition: committed(point)})

    async def close(self) -> None:
        await self._producer.stop()


def delivery(
    settings: KafkaSettings, group: str, partition: TopicPartition, consumer: AIOKafkaConsumer
) -> ExactlyOnce | AtLeastOnce:
    """What the settings ask for, not started."""
    if settings.delivery == "exactly_once":
        return ExactlyOnce(settings, group, partition)
    return AtLeastOnce(settings, group, partition, consumer)


def committed(point: CommitPoint) -> OffsetAndMetadata:
    """A commit point as Kafka keeps it."""
    return OffsetAndMetadata(point.offset, offset_metadata.encode(point))


async def _send(producer: AIOKafkaProducer, prefix: str, messages: Sequence[Message]) -> None:
    """Send them all, then wait until the broker has them all.

    Raises: KafkaError, the first one.
    """
    # One after the other: the first that is awaited takes as long as all of them.
    sent = [
        await producer.send_batch(batch, topic, partition=partition)
        for (topic, partition), batch in await _batches(producer, prefix, messages)
    ]
    try:
        for delivered in sent:
            await delivered
    except BaseException:
        for delivered in sent:
            delivered.add_done_callback(lambda d: d.cancelled() or d.exception())
        raise


async def _batches(
    producer: AIOKafkaProducer, prefix: str, messages: Sequence[Message]
) -> list[tuple[tuple[str, int], BatchBuilder]]:
    """The messages by topic and partition, in batches of our own: sent one by one, each costs aiokafka three times as
    much."""
    partitions: dict[str, int] = {}
    full: list[tuple[tuple[str, int], BatchBuilder]] = []
    open_: dict[tuple[str, int], BatchBuilder] = {}
    for message in messages:
        topic = prefix + message.topic_name
        if topic not in partitions:
            partitions[topic] = len(await producer.partitions_for(topic))
        at = (topic, _partition_of(message, partitions[topic]))
        # An empty batch has room for a message of any size.
        while (batch := open_.get(at)) is None or not batch.append(
            timestamp=None, key=message.key, value=message.value, headers=list(message.headers)
        ):
            if batch is not None:
                full.append((at, batch))
            open_[at] = producer.create_batch()
    return [*full, *open_.items()]


def _partition_of(message: Message, partitions: int) -> int:
    if message.partition is not None:
        return message.partition
    if message.key is None:
        return random.randrange(partitions)
    # Only short keys are kept: a record's key may be as large as the record.
    hashed = _hash(message.key) if len(message.key) <= 256 else murmur2(message.key)
    return int(hashed & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=4096)
def _hash(key: bytes) -> int:
    """As every Kafka client's default partitioner; an answer and its event share a key."""
    return int(murmur2(key))


async def timed_commit(stage: str, delivery: Delivery, messages: Sequence[Message], point: CommitPoint) -> None:
    """Commit, and record what it took."""
    started = time.monotonic()
    await delivery.commit(messages, point)
    metrics.TRANSACTION_SECONDS.labels(stage).observe(time.monotonic() - started)
    metrics.TRANSACTION_RECORDS.labels(stage).observe(len(messages))
