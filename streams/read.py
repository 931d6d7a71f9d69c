"""Read topics as a downstream consumer does: committed records only, decoded."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from schemas.codec import PoisonError, decode
from schemas.topics import Topic
from streams.connection import connection
from streams.runtime.closing import closed
from streams.settings import KafkaSettings
from streams.topics import TopicsError, partition_counts

S = TypeVar("S", bound=Struct)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Received:
    """A record as read. `value` is None where the topic carries bytes as they came (dead letters)."""

    topic: Topic
    value: Struct | None
    raw: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    partition: int
    offset: int
    key: bytes | None = None
    written_s: float = 0.0
    """The record's time, seconds since the epoch."""

    @property
    def place(self) -> str:
        """`topic/partition/offset`, without the prefix."""
        return f"{self.topic.name}/{self.partition}/{self.offset}"


class Reader:
    """Reads topics without a group: it commits nothing and disturbs nobody."""

    def __init__(self, client: AIOKafkaConsumer, topics: dict[str, Topic]) -> None:
        self._client = client
        self._topics = topics

    async def poll(self, timeout_s: float) -> list[Received]:
        """What has come; empty if nothing did within `timeout_s`.

        Raises: PoisonError for a record that is none of ours.
        """
        polled = await self._client.getmany(timeout_ms=int(timeout_s * 1000))
        return [self._received(r) for records in polled.values() for r in records]

    def _received(self, record: object) -> Received:
        topic = self._topics[record.topic]  # type: ignore[attr-defined]
        raw: bytes | None = record.value  # type: ignore[attr-defined]
        return Received(
            topic,
            decode(topic.value, raw) if topic.value else None,
            raw,
            tuple(record.headers),  # type: ignore[attr-defined]
            record.partition,  # type: ignore[attr-defined]
            record.offset,  # type: ignore[attr-defined]
            record.key,  # type: ignore[attr-defined]
            record.timestamp / 1000,  # type: ignore[attr-defined]
        )

    async def until_end(self, before: datetime | None = None) -> AsyncIterator[Received]:
        """Everything up to the offsets that were the end when this was called; of a partition no further than its
        first record of `before` or later."""
        ends = await self._client.end_offsets(self._client.assignment())
        limits: dict[tuple[str, int], int] = {}
        if before is not None:
            found = await self._client.offsets_for_times(dict.fromkeys(ends, int(before.timestamp() * 1000)))
            limits = {(self._topics[p.topic].name, p.partition): o.offset for p, o in found.items() if o is not None}
            ends |= {partition: first.offset for partition, first in found.items() if first is not None}
        while any([await self._client.position(p) < end for p, end in ends.items()]):
            for received in await self.poll(0.5):
                if received.offset < limits.get((received.topic.name, received.partition), received.offset + 1):
                    yield received

    async def decoded(
        self, record_type: type[S], unreadable: list[str] | None = None, before: datetime | None = None
    ) -> AsyncIterator[tuple[S, Received]]:
        """`until_end` as values of one type, from topics that are read `raw`. The places of records that are none of
        ours are added to `unreadable`; without it they are logged."""
        async for received in self.until_end(before):
            try:
                value = decode(record_type, received.raw)
            except PoisonError as exc:
                if unreadable is None:
                    log.warning("record_unreadable", place=received.place, error=exc.reason)
                else:
                    unreadable.append(received.place)
            else:
                yield value, received


async def between(
    client: AIOKafkaConsumer, spans: Mapping[TopicPartition, tuple[int, int]], patience_s: float
) -> AsyncIterator[ConsumerRecord]:
    """Records from one offset up to another, as they stand in Kafka. A client that reads committed ones waits where a
    transaction is open.

    Raises: TopicsError if there was no progress for `patience_s`.
    """
    ends = {partition: end for partition, (start, end) in spans.items() if start < end}
    client.assign(list(ends))
    for partition in ends:
        client.seek(partition, spans[partition][0])
    positions = dict.fromkeys(ends, -1)
    moved_at = time.monotonic()
    while ends:
        for partition, records in (await client.getmany(*ends, timeout_ms=200)).items():
            for record in records:
                if record.offset < ends[partition]:
                    yield record
        before, positions = positions, {p: await client.position(p) for p in ends}
        ends = {p: end for p, end in ends.items() if positions[p] < end}
        if positions != before:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > patience_s:
            stuck = ", ".join(f"{p.topic}/{p.partition}" for p in ends)
            raise TopicsError(f"{stuck}: the end can't be reached. Kafka is away, or a transaction stays open")


def raw(topic: Topic) -> Topic:
    """The topic with its bytes as they came: read so, one record that is none of ours does not end the reading."""
    return replace(topic, value=None)


async def records(
    settings: KafkaSettings,
    record_type: type[S],
    *topics: Topic,
    unreadable: list[str] | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
) -> AsyncIterator[tuple[S, Received]]:
    """All that is on topics of one type, up to where they end now, or what was written since a moment and before
    another; what is none of ours as in `Reader.decoded`.

    Raises: TopicsError if the broker can't be reached or a topic is not there.
    """
    async with reader(settings, [raw(topic) for topic in topics], since=since) as source:
        async for found in source.decoded(record_type, unreadable, before):
            yield found


@asynccontextmanager
async def reader(
    settings: KafkaSettings, topics: Sequence[Topic], from_start: bool = True, since: datetime | None = None
) -> AsyncIterator[Reader]:
    """A reader over all partitions of some topics: from their start, from what was written since, or from their end.

    Raises: TopicsError if the broker can't be reached or a topic is not there.
    """
    named = {settings.topic_prefix + topic.name: topic for topic in topics}
    # Asked of the admin client: a consumer that is given a topic that isn't there tries for most of a minute.
    counts = await partition_counts(settings, named)
    partitions = [TopicPartition(name, number) for name, count in counts.items() for number in range(count)]
    client = AIOKafkaConsumer(
        **connection(settings),
        client_id="headgate-read",
        isolation_level="read_committed",
        enable_auto_commit=False,
    )
    try:
        await client.start()
        client.assign(partitions)
        await (client.seek_to_beginning(*partitions) if from_start else client.seek_to_end(*partitions))
        if since is not None:
            await _seek(client, partitions, since)
        for partition in partitions:
            # Looked up only when asked for: what is published after this block was entered must be read.
            await client.position(partition)
        yield Reader(client, named)
    finally:
        await closed(client.stop)


async def _seek(client: AIOKafkaConsumer, partitions: Sequence[TopicPartition], since: datetime) -> None:
    found = await client.offsets_for_times(dict.fromkeys(partitions, max(0, int(since.timestamp() * 1000))))
    for partition, first in found.items():
        if first is None:
            # Nothing was written since.
            await client.seek_to_end(partition)
        else:
            client.seek(partition, first.offset)
