"""The shell around a stage: joins its group, and gives every partition that comes a lane of its own.

Invariants:
- Outputs, the event and the input offset go in one transaction, on a producer
  whose transactional.id belongs to the input partition.
- That producer is initialised *before* the committed offset is read: this fences
  the partition's former owner, and only then is its last commit final.
- A record leaves a partition as outputs or as a dead letter, never otherwise.
- A lane is given up only after it has ended; once the session leaves, none is opened.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Generic, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from schemas.topics import TOPICS
from streams.runtime import metrics
from streams.runtime.lane import POLL_MS, PartitionLane
from streams.runtime.stage import Stage
from streams.settings import KafkaSettings

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()

RECONNECT_S = (1.0, 15.0)
"""First and longest pause before the stage builds its clients anew after a Kafka error."""
CLOSE_LIMIT_S = 5.0
"""A client whose broker is gone may never finish closing; past this it is left to the garbage collector."""
MAX_REQUEST_BYTES = max(topic.max_message_bytes for topic in TOPICS)
IDLE_LIMIT_MS = 2**31 - 1
"""aiokafka puts a member that has not polled for this long out of the group and does not let it back in. A batch may
take its time; a process that hangs is /healthz's to report."""


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
        self.lanes: dict[TopicPartition, PartitionLane[T]] = {}
        self.leaving = False
        """Set once: an assignment that still comes opens nothing."""
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
            max_poll_interval_ms=IDLE_LIMIT_MS,
            max_partition_fetch_bytes=MAX_REQUEST_BYTES,
        )

    async def run(self) -> None:
        self.consumer.subscribe([self.loop.topic], listener=_Listener(self))
        membership = asyncio.create_task(self._stay_in_group(), name=f"{self.loop.stage.name}-group")
        membership.add_done_callback(self._membership_ended)
        try:
            await self._watch()
        finally:
            self.leaving = True
            membership.cancel()
            await self.drain(list(self.lanes))
            await _closed(self.consumer)
        if self.failed.done():
            self.failed.result()

    async def _stay_in_group(self) -> None:
        """Join, then poll a partition that isn't there: only a poll learns of the group's errors, and a process
        without partitions has no lane that polls."""
        await self.consumer.start()
        nowhere = TopicPartition(self.loop.topic, -1)
        while True:
            await self.consumer.getmany(nowhere, timeout_ms=POLL_MS)

    async def _watch(self) -> None:
        """Wait for a stop or for the first failure; joining the group may take long, and a stop ends that too."""
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
        async with AsyncExitStack() as unless_opened:
            unless_opened.push_async_callback(_closed, producer)
            await producer.start()
            committed = await self.consumer.committed(partition)
            if committed is None:
                await self.consumer.seek_to_beginning(partition)
            else:
                self.consumer.seek(partition, committed)
            if self.leaving:
                return
            unless_opened.pop_all()
            lane = PartitionLane(
                self.loop.stage, self.loop.settings, self.loop.group, self.consumer, producer, partition
            )
            self.lanes[partition] = lane
            lane.task.add_done_callback(lambda task: self._lane_ended(lane, task))

    def _lane_ended(self, lane: PartitionLane[T], task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            self.fail(task.exception())
        elif not lane.leaving:
            self.fail(RuntimeError(f"the handler of {self.loop.stage.name} cancelled its own partition's work"))

    def _membership_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            self.fail(task.exception())

    def fail(self, error: BaseException | None) -> None:
        """End the session; the first error counts."""
        if error and not self.failed.done():
            self.failed.set_exception(error)

    async def drain(self, partitions: Sequence[TopicPartition]) -> None:
        """Let the batches in flight finish and commit, within the drain time; then close the producers."""
        lanes = [self.lanes[p] for p in partitions if p in self.lanes]
        if not lanes:
            return
        for lane in lanes:
            lane.leave()
        late = {lane.task for lane in lanes}
        _, late = await asyncio.wait(late, timeout=self.loop.settings.drain_s)
        if late:
            log.warning("drain_timed_out", partitions=len(late), consequence="their batches will be done again")
        # The first cancellation may end in the abort of a transaction, which waits for a broker that may be gone.
        for _ in range(2):
            for task in late:
                task.cancel()
            if late:
                _, late = await asyncio.wait(late, timeout=CLOSE_LIMIT_S)
        await asyncio.gather(*(_closed(lane.producer) for lane in lanes))
        for lane in lanes:
            self.lanes.pop(lane.partition, None)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Opens and drains lanes as the group assigns and revokes partitions. aiokafka logs and drops what a listener
    raises, so failures are handed to the session instead."""

    def __init__(self, session: _Session[T]) -> None:
        self.session = session

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self.session.drain(list(revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        # All of them are waited for: one that fails must not leave another opening behind our back.
        opened = await asyncio.gather(*(self.session.open(p) for p in assigned), return_exceptions=True)
        if failures := [result for result in opened if result]:
            self.session.fail(failures[0])
            return
        self.session.loop.joined = True
        log.info("partitions_assigned", partitions=sorted(p.partition for p in assigned))


async def _closed(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close a client; what it says on its way out changes nothing, since its work is committed or will be redone."""
    # In a task of its own: a client that was fetching from a lost broker ends its stop with a stray CancelledError,
    # which here would read as our own cancellation.
    stopping = asyncio.create_task(client.stop())
    _, late = await asyncio.wait({stopping}, timeout=CLOSE_LIMIT_S)
    if late:
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=CLOSE_LIMIT_S)
    if not stopping.done() or stopping.cancelled():
        log.info("client_close_failed", error="cancelled" if stopping.done() else "no end")
    elif error := stopping.exception():
        log.info("client_close_failed", error=type(error).__name__)
