"""One life of a stage's Kafka clients: membership, fetching, and the partitions that come and go.

Invariants:
- A partition is opened in this order: fence its former owner, read where it
  stands, begin there. Only after the fence is its last commit final.
- Seeking to a partition's start and taking its records in happen in one turn of
  the loop: a record polled in between would be nobody's.
- A partition is given up only after it is drained; once the session leaves, none is opened.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from schemas.topics import BACKFILL, SEEN, outputs
from streams.connection import connection
from streams.runtime import gauges, group, hanging, seen
from streams.runtime.closing import CLOSE_LIMIT_S, closed
from streams.runtime.delivery import MAX_REQUEST_BYTES, Delivery, delivery
from streams.runtime.dispatcher import Dispatcher
from streams.runtime.group import InstanceTakenError
from streams.runtime.offsets import CommitPoint
from streams.runtime.partition import Partition
from streams.runtime.seen import SeenTickets
from streams.runtime.stage import Stage
from streams.settings import KafkaSettings

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()

POLL_MS = 500
"""How long a poll waits for records."""
POLL_RECORDS = 500
"""Most records of one poll: decoding them holds up everything else for a few milliseconds."""
IDLE_LIMIT_MS = 2**31 - 1
"""aiokafka puts a member that has not polled for this long out of the group and does not let it back in. A process that
hangs is /healthz's to report."""
HEARTBEAT_MS = 1000
"""How soon a member hears that the group rebalances, and so how long the others wait for it."""
METADATA_REFRESH_S = 30.0
"""How soon partitions that were added to a topic are found."""


class Session(Generic[T]):
    """The consumer, the dispatcher, and one delivery a partition, until a stop or the first failure."""

    def __init__(
        self, stage: Stage[T], settings: KafkaSettings, group_id: str, client_id: str, instance: group.InstanceWatch
    ) -> None:
        """`instance` is the process's, over all its sessions."""
        self.stage = stage
        self.settings = settings
        self.group = group_id
        self.topics = [settings.topic_prefix + stage.topic.name + twin for twin in ("", *stage.topic.twins)]
        self.joined = False
        """Whether the group has given this process its partitions (possibly none)."""
        self.beat = time.monotonic()
        self.instance = instance
        self._counts: dict[str, int] = {}
        """Partitions of each topic when we joined."""
        self.leaving = False
        """Set once: an assignment that still comes opens nothing."""
        self.failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.dispatcher = Dispatcher(stage, settings, self.fail)
        self.admin = AIOKafkaAdminClient(**connection(settings), client_id=f"{client_id}-admin")
        self.consumer = AIOKafkaConsumer(
            **connection(settings),
            client_id=client_id,
            group_id=group_id,
            group_instance_id=settings.group_instance_id,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=HEARTBEAT_MS,
            rebalance_timeout_ms=int(settings.drain_s * 1000) + 10_000,
            max_poll_interval_ms=IDLE_LIMIT_MS,
            max_partition_fetch_bytes=MAX_REQUEST_BYTES,
            metadata_max_age_ms=int(METADATA_REFRESH_S * 1000),
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop.

        Raises: KafkaError; InstanceTakenError, DuplicateInstanceError; whatever a worker's bug raises.
        """
        self.consumer.subscribe(self.topics, listener=_Listener(self))
        membership = asyncio.create_task(self._fetch(), name=f"{self.stage.name}-fetch")
        membership.add_done_callback(self._ended)
        ticking = asyncio.create_task(self.dispatcher.tick(), name=f"{self.stage.name}-tick")
        watching = asyncio.create_task(
            hanging.watch(self.admin, self.group, self.dispatcher.partitions), name=f"{self.stage.name}-hanging"
        )
        watching.add_done_callback(self._ended)
        try:
            await self._watch(stopping)
        finally:
            self.leaving = True
            membership.cancel()
            ticking.cancel()
            watching.cancel()
            await self.drain(list(self.dispatcher.partitions.values()))
            await closed(self.consumer.stop)
            # After the consumer: an assignment that was being opened may still be asking.
            await closed(self.admin.close)
            gauges.clear(self.stage.name)
        if self.failed.done():
            self.failed.result()

    async def _fetch(self) -> None:
        """Join, then fetch for the partitions that have room. A poll of a partition that isn't there where none has:
        only a poll learns of the group's errors."""
        await self.admin.start()
        await self.check_instance()
        await self.consumer.start()
        nowhere = TopicPartition(self.topics[0], -1)
        while True:
            self.dispatcher.fetch_wanted.clear()
            polled = await self._poll(self.dispatcher.wanted() or [nowhere])
            if polled:
                self.dispatcher.arrived(polled)

    async def _poll(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, list[ConsumerRecord]]:
        """One poll, cut short when another partition has room again."""
        poll = asyncio.create_task(
            self.consumer.getmany(*partitions, timeout_ms=POLL_MS, max_records=POLL_RECORDS),
            name=f"{self.stage.name}-poll",
        )
        wanted = asyncio.create_task(self.dispatcher.fetch_wanted.wait())
        try:
            await asyncio.wait((poll, wanted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
            # Its records are taken and returned in one turn of the loop: cancelled, it has taken none.
            poll.cancel()
        with suppress(asyncio.CancelledError):
            polled: dict[TopicPartition, list[ConsumerRecord]] = await poll
            return polled
        return {}

    async def _watch(self, stopping: asyncio.Event) -> None:
        """Wait for a stop or for the first failure; joining the group may take long, and a stop ends that too."""
        stop: asyncio.Future[Any] = asyncio.create_task(stopping.wait())
        try:
            while not (stop.done() or self.failed.done()):
                self.beat = time.monotonic()
                gauges.update(self.stage.name, self.dispatcher, self.consumer)
                # Ages grow by themselves, and with them what the lanes may begin.
                self.dispatcher.dispatch()
                self.follow_topics()
                await asyncio.wait((stop, self.failed), timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def open(self, assigned: Iterable[TopicPartition]) -> None:
        """Take partitions over: fence their former owners, then start where those last committed."""
        deliveries = {p: delivery(self.settings, self.group, p, self.consumer) for p in assigned}
        opened = False
        try:
            # All of them are waited for: one that fails must not leave another starting behind our back.
            started = await asyncio.gather(*(d.start() for d in deliveries.values()), return_exceptions=True)
            for error in started:
                if error is not None:
                    raise error
            if self.leaving:
                return
            its_outputs = outputs(self.stage.name, self.settings.topic_prefix)
            await hanging.abort_hanging(self.admin, self.group, deliveries, its_outputs)
            points = await group.starts(self.admin, self.consumer, self.group, list(deliveries))
            memories = self._memories(deliveries)
            await seen.load(self.settings, {self._memory_of(p): m for p, m in memories.items()})
            if self.leaving or not self.consumer.assignment() >= set(deliveries):
                # The group has moved on meanwhile, and will say what is ours.
                return
            opened = True
            for partition, its_delivery in deliveries.items():
                self._begin(partition, its_delivery, points[partition], memories.get(partition))
        finally:
            if not opened:
                await asyncio.gather(*(closed(d.close) for d in deliveries.values()))

    def _begin(
        self, at: TopicPartition, its_delivery: Delivery, point: CommitPoint, memory: SeenTickets | None
    ) -> None:
        self.consumer.seek(at, point.offset)
        partition = Partition(self.stage, at, its_delivery, point, memory, self.dispatcher.committed)
        partition.task.add_done_callback(self._ended)
        self.dispatcher.add(partition)

    def _memories(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, SeenTickets]:
        """What remembers tickets: parked ones were taken in before they were parked, so their partitions don't."""
        if self.stage.duplicate is None or not self.settings.dedupe_window_s:
            return {}
        with_memory = {self.topics[0] + twin for twin in SEEN.twins} | {self.topics[0]}
        window_s, limit = self.settings.dedupe_window_s, self.settings.dedupe_limit
        return {p: SeenTickets(window_s, limit) for p in partitions if p.topic in with_memory}

    def _memory_of(self, partition: TopicPartition) -> TopicPartition:
        twin = BACKFILL if partition.topic.endswith(BACKFILL) else ""
        return TopicPartition(self.settings.topic_prefix + SEEN.name + twin, partition.partition)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the session; the first error counts."""
        if not self.failed.done():
            self.failed.set_exception(error)

    async def drain(self, partitions: Sequence[Partition[T]]) -> None:
        """Let what is in flight finish and commit, within the drain time; then give the partitions up."""
        if not partitions:
            return
        self.dispatcher.leave(partitions)
        if not await _quiet(partitions, self.settings.drain_s):
            late = sum(p.in_flight for p in partitions)
            log.warning("drain_timed_out", records=late, consequence="they will be done again")
            self.dispatcher.cancel_calls(partitions)
            await _quiet(partitions, CLOSE_LIMIT_S)
        for partition in partitions:
            self.dispatcher.remove(partition)
        # The first cancellation may end in the abort of a transaction, which waits for a broker that may be gone.
        commits = {p.task for p in partitions}
        for _ in range(2):
            for task in commits:
                task.cancel()
            _, commits = await asyncio.wait(commits, timeout=CLOSE_LIMIT_S)
            if not commits:
                break
        await asyncio.gather(*(closed(p.delivery.close) for p in partitions))

    async def check_instance(self, joined: bool = False) -> None:
        """Look who is the group's member under our instance id: right after joining that is us.

        Raises: InstanceTakenError, DuplicateInstanceError.
        """
        instance_id = self.settings.group_instance_id
        if instance_id is None:
            return
        with suppress(KafkaError):
            member_id = await group.member_of(self.admin, self.group, instance_id)
            if joined:
                self.instance.joined(member_id)
            else:
                self.instance.check(member_id)

    def follow_topics(self) -> None:
        """Ask for a rebalance when a topic has more partitions than when we joined. aiokafka's leader sees to that; but
        a static member that comes back leads without being told so, and then nobody does."""
        counts = self._partition_counts()
        if self.settings.group_instance_id and self._counts and counts != self._counts:
            self._counts = counts
            log.info("partitions_added", partitions=counts)
            self.consumer.subscribe(self.topics, listener=_Listener(self))

    def remember_topics(self) -> None:
        """We have joined, with the partitions that there are."""
        self._counts = self._partition_counts()

    def forget_topics(self) -> None:
        """A rebalance is under way: asking for another would only break it off."""
        self._counts = {}

    def _partition_counts(self) -> dict[str, int]:
        return {topic: len(self.consumer.partitions_for_topic(topic) or ()) for topic in self.topics}


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Opens and drains partitions as the group assigns and revokes them. aiokafka logs and drops what a listener
    raises, so failures are handed to the session instead."""

    def __init__(self, session: Session[T]) -> None:
        self.session = session

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        session = self.session
        owned = session.dispatcher.partitions
        session.forget_topics()
        try:
            await session.drain([owned[p] for p in revoked if p in owned])
            await session.check_instance()
        except InstanceTakenError as exc:
            session.fail(exc)
            # Returning would join, and throw the other one out. This ends the coordination at once, so that the
            # consumer can still be closed; waiting here would hold it up for ever.
            raise asyncio.CancelledError from exc
        except Exception as exc:
            session.fail(exc)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        session = self.session
        if session.leaving:
            # Opening would only keep the group waiting for our leave.
            return
        try:
            await session.open(assigned)
            await session.check_instance(joined=True)
        except Exception as exc:
            session.fail(exc)
            return
        session.remember_topics()
        session.joined = True
        log.info(
            "partitions_assigned", partitions=sorted(p.partition for p in assigned if p.topic == session.topics[0])
        )


async def _quiet(partitions: Sequence[Partition[T]], limit_s: float) -> bool:
    """Wait until nothing happens on any of them; False if that takes longer."""
    deadline = time.monotonic() + limit_s
    for partition in partitions:
        while not partition.quiet:
            partition.changed.clear()
            changed = asyncio.create_task(partition.changed.wait())
            await asyncio.wait(
                {changed, partition.task}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
            )
            changed.cancel()
            if time.monotonic() >= deadline:
                return all(p.quiet for p in partitions)
    return True
