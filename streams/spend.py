"""The spend limits of all tier-2 processes together: their ledger is the topic `spend`.

Every process appends its steps to the topic's one partition, and reads it to
judge all steps, its own among them, in the order in which they stand there.

Invariants:
- Money is granted when this process has read its own reservation where the log
  holds it, never before: every other process then counts it, too, whatever
  becomes of this one.
- A step is sent until the broker has it. Sent twice, it counts once; so the
  producer isn't idempotent: aiokafka's is dead for good once a record could not
  be delivered in time, as when the broker is away for 40 s.
- The book begins at a snapshot, and is complete when the process has read a
  step that it wrote for this purpose. That step brings the broker's time, too.

What is acknowledged must stay: the topic needs the copies that its operator
trusts, and no unclean election of a leader.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord

from schemas.codec import PoisonError, decode, encode
from schemas.spend import Settle, SpendEntry, SpendSnapshot, Step
from schemas.topics import SPEND, SPEND_SNAPSHOTS
from streams.connection import connection
from streams.runtime.closing import CLOSE_LIMIT_S, closed
from streams.settings import KafkaSettings
from streams.topics import TopicsError
from workers.errors import WorkerDiedError
from workers.tier2.spend import SpendLimits
from workers.tier2.spend_book import SpendBook
from workers.tier2.spend_desk import SpendDesk

log = structlog.get_logger()

SNAPSHOT_EVERY = 5_000
"""Records between two snapshots: so many take 30 ms to apply, a snapshot of a thousand tenants 4 ms (measured)."""
SNAPSHOT_KEY = b"book"
RECONNECT_S = (0.5, 10.0)
"""First and longest pause before the clients are built anew after a Kafka error."""
POLL_MS = 1000
SNAPSHOT_LIMIT_S = 30.0
"""For reading one record that is there."""


class SharedSpend(SpendDesk):
    """An async context manager: connects in the background, and delivers what was settled before it ends."""

    def __init__(self, settings: KafkaSettings, limits: SpendLimits) -> None:
        super().__init__(limits)
        self._settings = settings
        self._spend = TopicPartition(settings.topic_prefix + SPEND.name, 0)
        self._snapshots = TopicPartition(settings.topic_prefix + SPEND_SNAPSHOTS.name, 0)
        self._outbox: asyncio.Queue[Step | SpendSnapshot | None] = asyncio.Queue()
        """What is to be written; None is the last."""
        self._unacknowledged: dict[asyncio.Future[object], Step] = {}
        self._hello = ""
        """The id of the step that ends the reading at a start."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="spend")
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._task:
            self._outbox.put_nowait(None)
            await asyncio.wait({self._task}, timeout=CLOSE_LIMIT_S)
            self._task.cancel()
            await asyncio.wait({self._task})

    def append(self, step: Step) -> None:
        """Put a step on its way to the broker."""
        self._outbox.put_nowait(step)

    # -- the clients --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, read and write until the end; a Kafka error ends the clients, not the process."""
        pause_s = RECONNECT_S[0]
        while True:
            started_s = time.monotonic()
            try:
                async with self._clients() as (producer, consumer):
                    await self._live(producer, consumer)
                return
            except* (KafkaError, TopicsError, TimeoutError, OSError) as group:
                pause_s = RECONNECT_S[0] if time.monotonic() - started_s > RECONNECT_S[1] else pause_s
                first = group.exceptions[0]
                log.warning(
                    "spend_ledger_lost",
                    error=f"{type(first).__name__}: {first}",
                    consequence="no call is begun until it is back",
                    reconnect_in_s=pause_s,
                )
            finally:
                self.current.clear()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RECONNECT_S[1])

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[tuple[AIOKafkaProducer, AIOKafkaConsumer]]:
        name = "headgate-spend"
        producer = AIOKafkaProducer(
            **connection(self._settings),
            client_id=name,
            acks="all",
            compression_type="zstd",
            # Before compression; what the broker takes is the topic's to say.
            max_request_size=8 * SPEND_SNAPSHOTS.max_message_bytes,
        )
        # An offset that isn't there means that the book is not what the log says: it is to be read anew.
        consumer = AIOKafkaConsumer(
            **connection(self._settings), client_id=name, enable_auto_commit=False, auto_offset_reset="none"
        )
        try:
            await producer.start()
            await consumer.start()
            yield producer, consumer
        finally:
            await asyncio.gather(closed(producer.stop), closed(consumer.stop))

    async def _live(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        """One life of the clients, until the outbox ends."""
        await self._load(consumer)
        self._hello = self.new_id()
        self.append(Settle(id=self._hello, micro_usd=0))
        try:
            async with asyncio.TaskGroup() as life:
                reading = life.create_task(self._read(consumer))
                while (item := await self._outbox.get()) is not None:
                    await self._write(producer, item, life)
                reading.cancel()
        finally:
            for sent, step in self._unacknowledged.items():
                self._again(step)
                if not sent.cancel() and not sent.cancelled():
                    # Asked for, so that asyncio doesn't complain that nobody did.
                    sent.exception()
            self._unacknowledged.clear()

    # -- reading ------------------------------------------------------------------------------------------------

    async def _load(self, consumer: AIOKafkaConsumer) -> None:
        """Take the newest snapshot, and stand where it ends. Raises: KafkaError; TopicsError."""
        both = [self._spend, self._snapshots]
        if missing := {partition.topic for partition in both} - await consumer.topics():
            raise TopicsError(f"no topic {', '.join(sorted(missing))}: create them with `headgate topics apply`")
        starts, ends = await consumer.beginning_offsets(both), await consumer.end_offsets(both)
        snapshot = await self._snapshot(consumer, ends[self._snapshots]) if ends[self._snapshots] else None
        offset = snapshot.offset if snapshot else 0
        if offset > ends[self._spend]:
            log.warning(
                "spend_log_too_short",
                snapshot=offset,
                end=ends[self._spend],
                consequence="the topic was made anew or cut: what the snapshot counts goes on being counted",
            )
            offset = 0
        self.begin(SpendBook.restored(snapshot) if snapshot else SpendBook())
        consumer.assign([self._spend])
        consumer.seek(self._spend, max(offset, starts[self._spend]))

    async def _snapshot(self, consumer: AIOKafkaConsumer, end: int) -> SpendSnapshot | None:
        """The topic's last record, which no compaction takes away. Without it the log is read from its start."""
        consumer.assign([self._snapshots])
        consumer.seek(self._snapshots, end - 1)
        record: ConsumerRecord = await asyncio.wait_for(consumer.getone(), SNAPSHOT_LIMIT_S)
        try:
            return decode(SpendSnapshot, record.value)
        except PoisonError as exc:
            log.warning("spend_snapshot_unreadable", error=exc.reason, next="reading the whole log")
            return None

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            polled = await consumer.getmany(self._spend, timeout_ms=POLL_MS)
            for record in polled.get(self._spend, ()):
                self._take(record)

    def _take(self, record: ConsumerRecord) -> None:
        try:
            step = decode(SpendEntry, record.value).step
        except PoisonError as exc:
            log.error("spend_step_unreadable", offset=record.offset, error=exc.reason, consequence="it counts nothing")
            return
        self.apply(step, record.timestamp / 1000)
        if step.id == self._hello:
            self.caught_up()
        # Whoever wrote the record writes the snapshot: one process, and not always the same one.
        if (record.offset + 1) % SNAPSHOT_EVERY == 0 and self.is_own(step) and self.current.is_set():
            self._outbox.put_nowait(self.book.snapshot(record.offset + 1))

    # -- writing ------------------------------------------------------------------------------------------------

    async def _write(self, producer: AIOKafkaProducer, item: Step | SpendSnapshot, life: asyncio.TaskGroup) -> None:
        if isinstance(item, SpendSnapshot):
            life.create_task(self._write_snapshot(producer, encode(item)))
            return
        try:
            sent = await producer.send(self._spend.topic, encode(SpendEntry(step=item)), partition=0)
        except BaseException:
            self._again(item)
            raise
        self._unacknowledged[sent] = item
        life.create_task(self._acknowledged(sent))

    async def _acknowledged(self, sent: "asyncio.Future[object]") -> None:
        await sent
        del self._unacknowledged[sent]

    def _again(self, step: Step) -> None:
        """A step that may not have arrived; a reservation for which nobody waits any more is not worth it."""
        if self.is_wanted(step):
            self.append(step)

    async def _write_snapshot(self, producer: AIOKafkaProducer, value: bytes) -> None:
        try:
            await producer.send_and_wait(self._snapshots.topic, value, key=SNAPSHOT_KEY, partition=0)
        except MessageSizeTooLargeError:
            log.warning("spend_snapshot_too_large", size_bytes=len(value), consequence="a start reads more of the log")

    # -- the end ------------------------------------------------------------------------------------------------

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Nobody reads the log any more: callers must not wait for it."""
        error = None if task.cancelled() else task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error:
            log.error("spend_ledger_died", error=type(error).__name__, exc_info=error)
        self.die(WorkerDiedError(f"the spend ledger ended: {type(error).__name__ if error else 'closed'}"))
