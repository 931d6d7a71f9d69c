"""The shell around a stage: consume, hand to the worker, send and commit in one transaction per batch.

Invariants:
- Outputs, the event and the input offset go in one transaction, on a producer
  whose transactional.id belongs to the input partition.
- That producer is initialised *before* the committed offset is read: this fences
  the partition's former owner, and only then is its last commit final.
- A record leaves a partition as outputs or as a dead letter, never otherwise.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from schemas.codec import PoisonError, decode
from schemas.events import StageName
from streams.runtime import metrics
from streams.runtime.attempt import Attempted, attempt_batch
from streams.runtime.messages import Message, messages_for
from streams.runtime.stage import DeadLetter, Origin, Record, Stage
from streams.settings import KafkaSettings

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()

POLL_MS = 500
"""How long a poll waits for records; bounds how late a stop is noticed while idle."""
RECONNECT_S = (1.0, 15.0)
"""First and longest pause before the stage builds its clients anew after a Kafka error."""
CLOSE_LIMIT_S = 5.0
"""A client whose broker is gone may never finish closing; past this it is left to the garbage collector."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024


class StageLoop(Generic[T]):
    """One process's run of one stage, over all partitions that the group assigns to it."""

    def __init__(self, stage: Stage[T], settings: KafkaSettings) -> None:
        self.stage = stage
        self.settings = settings
        self.topic = settings.topic_prefix + stage.topic.name
        self.group = f"{settings.topic_prefix}headgate-{stage.name}"
        self.stopping = asyncio.Event()
        self.joined = False
        """Whether the group has given this process its partitions (possibly none)."""
        self.beat = time.monotonic()
        """When the loop last moved: an old beat means that it hangs."""

    def stop(self) -> None:
        """Finish what is in flight, commit it, and leave."""
        self.stopping.set()

    async def run(self) -> None:
        """Run until `stop`. A Kafka error ends the session, not the process: clients are built anew.

        Raises: whatever a worker's bug raises; the process then exits and its supervisor restarts it.
        """
        pause_s = RECONNECT_S[0]
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                await _Session(self).run()
            except KafkaError as exc:
                if time.monotonic() - started > RECONNECT_S[1]:
                    pause_s = RECONNECT_S[0]
                self.joined = False
                metrics.RECONNECTS.labels(self.stage.name).inc()
                log.warning(
                    "kafka_session_ended",
                    error=f"{type(exc).__name__}: {exc}",
                    consequence="uncommitted work of this process will be done again",
                    reconnect_in_s=pause_s,
                )
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), pause_s)
                pause_s = min(pause_s * 2, RECONNECT_S[1])


class _Session(Generic[T]):
    """One life of the consumer and its per-partition producers."""

    def __init__(self, loop: StageLoop[T]) -> None:
        self.loop = loop
        self.lanes: dict[TopicPartition, _PartitionLane[T]] = {}
        self.failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=loop.settings.bootstrap_servers,
            client_id=f"headgate-{loop.stage.name}",
            group_id=loop.group,
            group_instance_id=loop.settings.group_instance_id,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            rebalance_timeout_ms=int(loop.settings.drain_s * 1000) + 10_000,
            max_partition_fetch_bytes=MAX_REQUEST_BYTES,
        )

    async def run(self) -> None:
        self.consumer.subscribe([self.loop.topic], listener=_Listener(self))
        await self.consumer.start()
        try:
            await self._watch()
        finally:
            await self.drain(list(self.lanes))
            await _closed(self.consumer)
        if self.failed.done():
            self.failed.result()

    async def _watch(self) -> None:
        """Wait for a stop or for the first lane that fails."""
        stop: asyncio.Future[Any] = asyncio.create_task(self.loop.stopping.wait())
        try:
            while not (stop.done() or self.failed.done()):
                self.loop.beat = time.monotonic()
                await asyncio.wait((stop, self.failed), timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def open(self, partition: TopicPartition) -> None:
        """Take a partition over: fence its former owner, then start where that one last committed."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.loop.settings.bootstrap_servers,
            client_id=f"headgate-{self.loop.stage.name}-{partition.partition}",
            transactional_id=f"{self.loop.group}-{partition.topic}-{partition.partition}",
            transaction_timeout_ms=int(self.loop.settings.transaction_timeout_s * 1000),
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=128 * 1024,
        )
        await producer.start()
        committed = await self.consumer.committed(partition)
        if committed is None:
            await self.consumer.seek_to_beginning(partition)
        else:
            self.consumer.seek(partition, committed)
        lane = _PartitionLane(self.loop, self.consumer, producer, partition)
        lane.task.add_done_callback(self._lane_ended)
        self.lanes[partition] = lane

    def _lane_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() and not self.failed.done():
            self.failed.set_exception(task.exception())  # type: ignore[arg-type]

    def fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    async def drain(self, partitions: Sequence[TopicPartition]) -> None:
        """Let the batches in flight finish and commit, within the drain time; then close the producers."""
        lanes = [self.lanes.pop(p) for p in partitions if p in self.lanes]
        if not lanes:
            return
        for lane in lanes:
            lane.leaving.set()
        _, late = await asyncio.wait({lane.task for lane in lanes}, timeout=self.loop.settings.drain_s)
        for task in late:
            task.cancel()
        if late:
            log.warning("drain_timed_out", partitions=len(late), consequence="their batches will be done again")
            await asyncio.wait(late)
        await asyncio.gather(*(_closed(lane.producer) for lane in lanes))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Opens and drains lanes as the group assigns and revokes partitions. aiokafka logs and drops what a listener
    raises, so failures are handed to the session instead."""

    def __init__(self, session: _Session[T]) -> None:
        self.session = session

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self.session.drain(list(revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        try:
            await asyncio.gather(*(self.session.open(p) for p in assigned))
        except Exception as exc:
            self.session.fail(exc)
            raise
        self.session.loop.joined = True
        log.info("partitions_assigned", partitions=sorted(p.partition for p in assigned))


class _PartitionLane(Generic[T]):
    """One partition's work, in order, a batch and a transaction at a time."""

    def __init__(
        self, loop: StageLoop[T], consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, partition: TopicPartition
    ) -> None:
        self.loop = loop
        self.stage = loop.stage
        self.consumer = consumer
        self.producer = producer
        self.partition = partition
        self.leaving = asyncio.Event()
        self.rng = random.Random()
        self.task = asyncio.create_task(self._run(), name=f"{self.stage.name}-{partition.partition}")

    async def _run(self) -> None:
        while not self.leaving.is_set():
            polled = await self.consumer.getmany(self.partition, timeout_ms=POLL_MS, max_records=self.stage.batch_size)
            if records := polled.get(self.partition):
                await self._process(records)

    async def _process(self, raw: Sequence[ConsumerRecord]) -> None:
        records, poison = _decoded(self.stage, raw)
        metrics.IN_FLIGHT.labels(self.stage.name).inc(len(records))
        try:
            attempted = await attempt_batch(self.stage, records, self.rng)
        finally:
            metrics.IN_FLIGHT.labels(self.stage.name).dec(len(records))
        finished = sorted([*attempted, *poison], key=lambda a: a.origin.offset)
        by_offset = {r.offset: r for r in raw}
        now = time.time()
        messages = [m for a in finished for m in messages_for(self.stage.name, a, by_offset[a.origin.offset], now)]
        await self._commit(messages, raw[-1].offset + 1)
        for done in finished:
            _report(self.stage.name, done)

    async def _commit(self, messages: Sequence[Message], next_offset: int) -> None:
        started = time.monotonic()
        prefix = self.loop.settings.topic_prefix
        try:
            async with self.producer.transaction():
                sent = [
                    await self.producer.send(prefix + m.topic, m.value, key=m.key, headers=list(m.headers))
                    for m in messages
                ]
                await asyncio.gather(*sent)
                await self.producer.send_offsets_to_transaction({self.partition: next_offset}, self.loop.group)
        except ProducerFenced:
            # Another process owns the partition now: whatever this one did is not committed, and must not be.
            log.warning("producer_fenced", partition=self.partition.partition, consequence="this batch is dropped")
            raise
        metrics.TRANSACTION_SECONDS.labels(self.stage.name).observe(time.monotonic() - started)


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


async def _closed(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close a client; what it says on its way out changes nothing, since its work is committed or will be redone."""
    try:
        await asyncio.wait_for(client.stop(), CLOSE_LIMIT_S)
    except (KafkaError, TimeoutError, OSError) as exc:
        log.info("client_close_failed", error=type(exc).__name__)
