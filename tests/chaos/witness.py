"""What can be seen of a run from outside: ends as they come, committed offsets, and in the end the whole log."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from schemas.codec import decode
from schemas.events import Event
from schemas.topics import EVENTS
from streams.topics import show
from tests.chaos.schedule import STAGES
from tests.chaos.verifier import ENDS, INPUTS, Committed, Entry
from tests.kafka import kafka_settings

LOOK_EVERY_S = 0.5
READ_LIMIT_S = 120.0

log = logging.getLogger(__name__)


class Follower:
    """Reads the ends of tickets as they come, as a helpdesk would."""

    def __init__(self, servers: str) -> None:
        self.ends: Counter[str] = Counter()
        """By ticket id, as far as they have been read."""
        self._servers = servers

    async def run(self) -> None:
        """Follow for ever. A reader that an outage breaks is made anew, and counts anew from the start."""
        while True:
            consumer = AIOKafkaConsumer(
                *ENDS,
                bootstrap_servers=self._servers,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
            )
            try:
                async with consumer:
                    ends: Counter[str] = Counter()
                    while True:
                        polled = await consumer.getmany(timeout_ms=200)
                        ends.update(_key(r) for records in polled.values() for r in records)
                        self.ends = ends
            except (KafkaError, TimeoutError, OSError) as exc:
                log.warning("the follower lost its broker and starts anew: %r", exc)
                await asyncio.sleep(LOOK_EVERY_S)


class OffsetWatch:
    """Looks at every group's committed offsets, again and again."""

    def __init__(self, servers: str) -> None:
        self.seen: list[Committed] = []
        self._servers = servers

    async def run(self) -> None:
        """Look for ever; while the broker is away there is nothing to see."""
        while True:
            try:
                await self.look()
            except (KafkaError, TimeoutError, OSError) as exc:
                log.info("no offsets to be seen: %r", exc)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once. A partition that is as it was before is not noted again."""
        latest = {(c.stage, c.partition): c for c in self.seen}
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        try:
            await admin.start()
            for stage in STAGES:
                found = await admin.list_consumer_group_offsets(f"headgate-{stage}")
                for partition, committed in found.items():
                    look = Committed(stage, partition.partition, committed.offset)
                    # A coordinator that has just loaded may know nothing yet (-1); other topics are the slow lanes.
                    is_known = partition.topic == INPUTS[stage] and committed.offset >= 0
                    if is_known and latest.get((stage, partition.partition)) != look:
                        self.seen.append(look)
        finally:
            await admin.close()


@dataclass(frozen=True, slots=True)
class Log:
    """All topics from start to end."""

    records: Sequence[Entry]
    events: Sequence[Event]


async def read_log(servers: str, isolation: Literal["read_committed", "read_uncommitted"]) -> Log:
    """Everything that a reader of that isolation finds, in the order of each partition.

    Raises: TimeoutError if an open transaction hides the end for too long.
    """
    partitions = [TopicPartition(t.topic, n) for t in await show(kafka_settings(servers)) for n in range(t.partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, isolation_level=isolation, enable_auto_commit=False)
    records: list[Entry] = []
    events: list[Event] = []
    async with consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        deadline = time.monotonic() + READ_LIMIT_S
        while behind := [p for p, end in ends.items() if await consumer.position(p) < end]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no end of {', '.join(f'{p.topic}/{p.partition}' for p in behind[:5])}")
            for found in (await consumer.getmany(timeout_ms=200)).values():
                records += (_entry(r) for r in found)
                events += _events(found)
    return Log(records, events)


def _events(found: Sequence[ConsumerRecord]) -> Iterator[Event]:
    return (decode(Event, r.value) for r in found if r.topic == EVENTS.name)


def _entry(record: ConsumerRecord) -> Entry:
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    if "headgate-origin" in headers:
        # A dead letter keeps the headers it came with, another record's ce_id among them.
        ce_id = f"{headers['headgate-stage']}/{headers['headgate-origin']}/dead-letter"
    else:
        ce_id = headers.get("ce_id", "")
    return Entry(record.topic, record.partition, record.offset, _key(record), ce_id)


def _key(record: ConsumerRecord) -> str:
    return (record.key or b"").decode("utf-8", "replace")
