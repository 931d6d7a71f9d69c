"""One partition's way through a stage: poll, hand to the worker, send and commit, a batch and a transaction at a time.

Outputs, events and the input offset go in one transaction; what is logged and
counted afterwards did happen.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerFenced
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from schemas.codec import PoisonError, decode
from schemas.events import StageName
from streams.runtime import metrics
from streams.runtime.attempt import Attempted, attempt_batch
from streams.runtime.messages import Message, finished
from streams.runtime.stage import DeadLetter, Origin, Record, Stage
from streams.settings import KafkaSettings

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()

POLL_MS = 500
"""How long a poll waits for records."""


class PartitionLane(Generic[T]):
    """One partition's work, in order, a batch and a transaction at a time."""

    def __init__(
        self,
        stage: Stage[T],
        settings: KafkaSettings,
        group: str,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer,
        partition: TopicPartition,
    ) -> None:
        self.stage = stage
        self.topic_prefix = settings.topic_prefix
        self.group = group
        self.consumer = consumer
        self.producer = producer
        self.partition = partition
        self.leaving = False
        self.polling = False
        self.rng = random.Random()
        self.task = asyncio.create_task(self._run(), name=f"{self.stage.name}-{partition.partition}")

    def leave(self) -> None:
        """Finish the batch in flight and end."""
        self.leaving = True
        # Records polled and not begun are nobody's yet. And in a rebalance a poll that another partition's records
        # wake up waits for the next assignment, which itself waits for this lane to end.
        if self.polling:
            self.task.cancel()

    async def _run(self) -> None:
        while not self.leaving:
            self.polling = True
            polled = await self.consumer.getmany(self.partition, timeout_ms=POLL_MS, max_records=self.stage.batch_size)
            self.polling = False
            if records := polled.get(self.partition):
                await self._process(records)

    async def _process(self, raw: Sequence[ConsumerRecord]) -> None:
        records, poison = _decoded(self.stage, raw)
        metrics.IN_FLIGHT.labels(self.stage.name).inc(len(records))
        try:
            attempted = await attempt_batch(self.stage, records, self.rng)
        finally:
            metrics.IN_FLIGHT.labels(self.stage.name).dec(len(records))
        by_offset = {a.origin.offset: a for a in (*attempted, *poison)}
        now = time.time()
        done = [finished(self.stage.name, by_offset[r.offset], r, now) for r in raw]
        await self._commit([m for _, messages in done for m in messages], raw[-1].offset + 1)
        for result, _ in done:
            _report(self.stage.name, result)

    async def _commit(self, messages: Sequence[Message], next_offset: int) -> None:
        started = time.monotonic()
        try:
            async with self.producer.transaction():
                sent = [await self._send(message) for message in messages]
                await asyncio.gather(*sent)
                await self.producer.send_offsets_to_transaction({self.partition: next_offset}, self.group)
        except ProducerFenced:
            # Another process owns the partition now: whatever this one did is not committed, and must not be.
            log.warning("producer_fenced", partition=self.partition.partition, consequence="this batch is dropped")
            raise
        metrics.TRANSACTION_SECONDS.labels(self.stage.name).observe(time.monotonic() - started)

    async def _send(self, message: Message) -> "asyncio.Future[object]":
        delivered: asyncio.Future[object] = await self.producer.send(
            self.topic_prefix + message.topic.name, message.value, key=message.key, headers=list(message.headers)
        )
        return delivered


def _decoded(stage: Stage[T], raw: Sequence[ConsumerRecord]) -> tuple[list[Record[T]], list[Attempted]]:
    records: list[Record[T]] = []
    poison: list[Attempted] = []
    for r in raw:
        origin = Origin(r.topic, r.partition, r.offset)
        try:
            records.append(Record(decode(stage.record_type, r.value), origin, r.timestamp / 1000))
        except PoisonError as exc:
            poison.append(Attempted(origin, DeadLetter(exc.reason, "PoisonError"), 1))
    return records, poison


def _report(stage: StageName, attempted: Attempted) -> None:
    """One log line and one count a record, after its transaction: what is logged did happen."""
    where = {
        "topic": attempted.origin.topic,
        "partition": attempted.origin.partition,
        "offset": attempted.origin.offset,
    }
    if isinstance(attempted.result, DeadLetter):
        metrics.RECORDS.labels(stage, "dead_lettered").inc()
        log.error("record_dead_lettered", reason=attempted.result.reason, attempts=attempted.attempts, **where)
        return
    event = attempted.result.event
    metrics.RECORDS.labels(stage, event.outcome).inc()
    metrics.COST_USD.labels(stage).inc(event.cost_usd)
    metrics.AGE_SECONDS.labels(stage).observe(event.age_s)
    log.info(
        f"ticket_{event.outcome}",
        ticket_id=event.ticket_id,
        category=event.category,
        tier=event.tier,
        reasons=list(event.reasons),
        attempts=attempted.attempts,
        duration_s=round(event.duration_s, 3),
        age_s=round(event.age_s, 3),
        cost_usd=event.cost_usd,
        **where,
    )
