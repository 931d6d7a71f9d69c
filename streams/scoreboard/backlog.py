"""`/api/backlog`: what each stage has not finished. A group's committed offset alone would lie, since stages finish out
of order: what is marked as finished beyond it is taken off, and so are offsets that no record has (transactions'
markers), as far as the look goes."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.events import StageName
from schemas.topics import INPUTS
from streams.connection import connection
from streams.runtime.closing import closed
from streams.runtime.group import commit_points
from streams.runtime.lanes import lane_of
from streams.runtime.offsets import CommitPoint
from streams.scoreboard.views import BacklogView, StageBacklog
from streams.settings import KafkaSettings
from streams.topics import TopicsError, partition_counts

LOOK_S = 2.0
LIMIT_S = 20.0
LOOK_RECORDS = 100
"""So far each partition is looked into for the oldest unfinished record, one after the other."""


@dataclass(slots=True)
class Unfinished:
    """A partition's records from the commit point on: those that were looked at, and the offsets past them."""

    point: CommitPoint
    end: int
    next: int
    """Where the look ended."""
    seen: int = 0
    oldest_s: float | None = None
    """When the oldest was written, seconds since the epoch."""

    @classmethod
    def of(cls, point: CommitPoint, start: int, end: int) -> "Unfinished":
        return cls(point, end, max(point.offset, start))

    def look(self, offset: int, written_s: float) -> None:
        """Take the next record in."""
        self.next = offset + 1
        if offset < self.end and not self.point.is_finished(offset):
            self.seen += 1
            self.oldest_s = written_s if self.oldest_s is None else self.oldest_s

    @property
    def count(self) -> int:
        """Exact if the look reached the end; past it offsets count that may hold no record."""
        marked_to = min(self.end, self.point.offset + 8 * len(self.point.finished))
        marked = sum(self.point.is_finished(offset) for offset in range(self.next, marked_to))
        return self.seen + max(0, self.end - self.next) - marked


def backlog_view(found: Mapping[tuple[StageName, str], Iterable[Unfinished]], now_s: float) -> BacklogView:
    """One row a stage and topic."""
    rows = []
    for (stage, topic), partitions in found.items():
        parts = list(partitions)
        oldest = min((part.oldest_s for part in parts if part.oldest_s is not None), default=None)
        rows.append(
            StageBacklog(
                stage=stage,
                topic=topic,
                lane=lane_of(topic).value,
                unfinished=sum(part.count for part in parts),
                oldest_s=max(0.0, now_s - oldest) if oldest is not None else None,
            )
        )
    return BacklogView(stages=tuple(rows))


async def read_backlog(kafka: KafkaSettings) -> BacklogView:
    """From the groups' commit points and the topics.

    Raises: TopicsError if the broker can't be reached or a topic is not there; TimeoutError.
    """
    topics = {
        (stage, topic.name + twin): kafka.topic_prefix + topic.name + twin
        for stage, topic in INPUTS.items()
        for twin in ("", *topic.twins)
    }
    admin = AIOKafkaAdminClient(**connection(kafka))
    consumer = AIOKafkaConsumer(
        **connection(kafka),
        client_id="headgate-read",
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=256 * 1024,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            await admin.start()
            await consumer.start()
            # Not the consumer's metadata: it has assigned topics only.
            counts = await partition_counts(kafka, topics.values())
            partitions = [TopicPartition(name, number) for name, count in counts.items() for number in range(count)]
            found = await _unfinished(admin, consumer, kafka.topic_prefix, partitions)
            if left := {p: part for p, part in found.items() if part.next < part.end}:
                await _look(consumer, left)
    except (KafkaError, OSError) as exc:
        raise TopicsError(f"the backlog can't be read: {exc or type(exc).__name__}") from exc
    finally:
        await asyncio.gather(closed(admin.close), closed(consumer.stop))
    by_topic = {
        place: [part for partition, part in found.items() if partition.topic == name] for place, name in topics.items()
    }
    return backlog_view(by_topic, time.time())


async def _unfinished(
    admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, prefix: str, partitions: list[TopicPartition]
) -> dict[TopicPartition, Unfinished]:
    # Assigned, the topics' metadata comes in one request; else in one a topic.
    consumer.assign(partitions)
    consumer.pause(*partitions)
    starts, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    points: dict[TopicPartition, CommitPoint | None] = {}
    for stage, topic in INPUTS.items():
        mine = [p for p in partitions if p.topic in {prefix + topic.name + twin for twin in ("", *topic.twins)}]
        points |= await commit_points(admin, f"{prefix}headgate-{stage}", mine)
    # A stage that never ran begins at the start.
    return {p: Unfinished.of(points[p] or CommitPoint(starts[p]), starts[p], ends[p]) for p in partitions}


async def _look(consumer: AIOKafkaConsumer, found: Mapping[TopicPartition, Unfinished]) -> None:
    """Read a little of each partition."""
    consumer.assign(list(found))
    for partition, part in found.items():
        consumer.seek(partition, part.next)
    left = set(found)
    deadline_s = time.monotonic() + LOOK_S
    while left and time.monotonic() < deadline_s:
        polled: dict[TopicPartition, list[Any]] = await consumer.getmany(
            *left, timeout_ms=200, max_records=LOOK_RECORDS
        )
        for partition, records in polled.items():
            for record in records:
                found[partition].look(record.offset, record.timestamp / 1000)
        for partition in list(left):
            part = found[partition]
            # Past markers, too, of which no record tells.
            part.next = max(part.next, min(await consumer.position(partition), part.end))
            if part.next >= part.end or part.next - part.point.offset >= LOOK_RECORDS:
                left.discard(partition)
