"""`headgate run tier2-batch`: tier-2's slow lane by the provider's batch interface, at its price and in its time.

One process does it for all partitions: a batch holds a thousand tickets, and most of the time it waits. A second one
would fence the first.
"""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, ProducerFenced
from prometheus_client import Gauge

from schemas.batches import Batch, BatchTicket
from schemas.codec import PoisonError, decode
from schemas.topics import BACKFILL, BATCHES, TIER2, outputs
from streams.batch_collector import Desk
from streams.batch_lane import BatchLane
from streams.batch_partition import BatchPartition
from streams.connection import connection
from streams.read import raw, reader
from streams.runtime import group, metrics
from streams.runtime.closing import closed
from streams.runtime.delivery import ExactlyOnce
from streams.runtime.hanging import abort_hanging
from streams.settings import KafkaSettings, Settings, SettingsError
from streams.spend import SharedSpend
from streams.tier2 import frontier_config, spend_limits
from streams.topics import TopicsError, partition_counts
from workers.tier2.batches import BatchApi, batches_of
from workers.tier2.batching import Batching
from workers.tier2.spend import Reservation

RECONNECT_S = (1.0, 15.0)
"""First and longest pause before the clients are built anew after a Kafka error."""
HANG_S = 30.0
"""A loop that has not moved for this long is reported dead by /healthz."""

TICKETS = Gauge(
    "headgate_batch_tickets",
    "Tickets of the slow lane: waiting for a batch, in one that is on its way, in one that the provider has.",
    ["state"],
)
OPEN = Gauge("headgate_batches_open", "Batches that have no end yet.")

log = structlog.get_logger()


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code.

    Raises: SettingsError, ValueError: as the tier-2 stage; and if the slow lane is answered by calls.
    """
    if settings.tier2.backfill != "batch":
        raise SettingsError(
            f"tier2.backfill is {settings.tier2.backfill!r}: `headgate run tier2` answers the slow lane itself"
        )
    batching = Batching(frontier_config(settings, "tier2"))
    work = _Work(settings, batching)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.stopping.set)
    health = metrics.Health(lambda: time.monotonic() - work.beat_s < HANG_S, lambda: bool(work.lanes))
    server = metrics.serve(settings.health_port, health)
    try:
        async with (
            SharedSpend(settings.kafka, spend_limits(settings.tier2.spend)) as spend,
            _apis(batching, settings.tier2.timeout_s) as apis,
        ):
            log.info("batches_started", health_port=server.server_port, target=batching.target.name)
            return await work.run(spend, apis)
    finally:
        server.shutdown()


@asynccontextmanager
async def _apis(batching: Batching, timeout_s: float) -> AsyncIterator[Mapping[str, BatchApi]]:
    async with AsyncExitStack() as stack:
        yield {
            target.name: await stack.enter_async_context(batches_of(target, timeout_s))
            for target in batching.config.targets
        }


class _Work:
    """The process's lanes, session after session."""

    def __init__(self, settings: Settings, batching: Batching) -> None:
        self.lanes: Sequence[BatchLane] = ()
        self.stopping = asyncio.Event()
        self.beat_s = time.monotonic()
        self._settings, self._kafka = settings, settings.kafka
        self._batching = batching
        self._uncommitted: dict[str, BatchTicket] = {}

    async def run(self, spend: SharedSpend, apis: Mapping[str, BatchApi]) -> int:
        """Work until told to stop; returns the exit code. A Kafka error ends the clients, not the process."""
        pause_s = RECONNECT_S[0]
        while not self.stopping.is_set():
            started_s = time.monotonic()
            try:
                async with _opened(self._kafka) as (partitions, batches):
                    self._check(batches)
                    self._give_back(spend, batches)
                    desk = Desk(self._settings.tier2, self._batching, apis, spend, {}, self._uncommitted)
                    await self._live(partitions, desk, batches)
            except ProducerFenced:
                log.error(
                    "batches_taken", error="another process works on the slow lane", next="exiting: run one alone"
                )
                return 1
            except (KafkaError, TopicsError) as exc:
                pause_s = RECONNECT_S[0] if time.monotonic() - started_s > RECONNECT_S[1] else pause_s
                log.warning("batches_session_ended", error=f"{type(exc).__name__}: {exc}", reconnect_in_s=pause_s)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), pause_s)
                pause_s = min(pause_s * 2, RECONNECT_S[1])
                self.beat_s = time.monotonic()
            except SettingsError:
                raise
            except Exception:
                log.exception("batches_failed", next="exiting, so that the supervisor starts it again")
                return 1
        log.info("batches_stopped")
        return 0

    def _check(self, batches: Mapping[int, Mapping[str, Batch]]) -> None:
        """Raises: SettingsError for an open batch at a target that the settings don't have."""
        try:
            for of_partition in batches.values():
                for batch in of_partition.values():
                    self._batching.target_of(batch.target)
        except ValueError as exc:
            raise SettingsError(str(exc)) from exc

    def _give_back(self, spend: SharedSpend, batches: Mapping[int, Mapping[str, Batch]]) -> None:
        """Settle what was set aside for batches whose commit failed in the session before, and that have no record."""
        open_ = {t.reservation for of_partition in batches.values() for b in of_partition.values() for t in b.tickets}
        for reservation in self._uncommitted.keys() - open_:
            spend.settle(Reservation(reservation, self._uncommitted[reservation].micro_usd), 0)
        self._uncommitted.clear()

    async def _live(
        self, partitions: Sequence[BatchPartition], desk: Desk, batches: Mapping[int, Mapping[str, Batch]]
    ) -> None:
        """One life of the clients. Raises: whatever ends a lane."""
        self.lanes = [BatchLane(p, desk, batches.get(p.at.partition, {})) for p in partitions]
        tasks = [asyncio.create_task(lane.run(self.stopping)) for lane in self.lanes]
        try:
            while not self.stopping.is_set() and not any(task.done() for task in tasks):
                self.beat_s = time.monotonic()
                _show(self.lanes)
                await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if self.stopping.is_set():
                # A submission that is cut off has to be looked for at the next start.
                await asyncio.wait(tasks, timeout=self._kafka.drain_s)
        finally:
            self.lanes = ()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error


def _show(lanes: Sequence[BatchLane]) -> None:
    batches = [batch for lane in lanes for batch in lane.batches.values()]
    OPEN.set(len(batches))
    TICKETS.labels("waiting").set(sum(len(lane.collector) for lane in lanes))
    TICKETS.labels("submitting").set(sum(len(batch.tickets) for batch in batches if not batch.id))
    TICKETS.labels("submitted").set(sum(len(batch.tickets) for batch in batches if batch.id))


@asynccontextmanager
async def _opened(
    kafka: KafkaSettings,
) -> AsyncIterator[tuple[Sequence[BatchPartition], Mapping[int, Mapping[str, Batch]]]]:
    """The slow lane's partitions, and the open batches of each by key. Former owners are fenced first: only then is
    their last commit final. Raises: KafkaError; TopicsError."""
    topic, of_group = kafka.topic_prefix + TIER2.name + BACKFILL, f"{kafka.topic_prefix}headgate-tier2"
    counts = await partition_counts(kafka, [topic])
    all_at = [TopicPartition(topic, number) for number in range(counts[topic])]
    deliveries = {at: ExactlyOnce(kafka, of_group, at) for at in all_at}
    consumers = {at: _consumer(kafka) for at in all_at}
    admin = AIOKafkaAdminClient(**connection(kafka), client_id="headgate-tier2-batch-admin")
    try:
        for delivery in deliveries.values():
            await delivery.start()
        await admin.start()
        for at, consumer in consumers.items():
            await consumer.start()
            consumer.assign([at])
        await abort_hanging(admin, of_group, deliveries, outputs("tier2", kafka.topic_prefix))
        starts = await group.starts(admin, next(iter(consumers.values())), of_group, all_at)
        yield (
            [BatchPartition(at, deliveries[at], consumers[at], starts[at]) for at in all_at],
            await _open_batches(kafka),
        )
    finally:
        clients = [*(d.close for d in deliveries.values()), *(c.stop for c in consumers.values()), admin.close]
        await asyncio.gather(*map(closed, clients))


def _consumer(kafka: KafkaSettings) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **connection(kafka),
        client_id="headgate-tier2-batch",
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )


async def _open_batches(kafka: KafkaSettings) -> Mapping[int, Mapping[str, Batch]]:
    """By partition, then by key. Raises: TopicsError; KafkaError."""
    found: dict[str, Batch] = {}
    async with reader(kafka, [raw(BATCHES)]) as source:
        async for received in source.until_end():
            key = (received.key or b"").decode(errors="replace")
            found.pop(key, None)
            if received.raw is not None:
                try:
                    found[key] = decode(Batch, received.raw)
                except PoisonError as exc:
                    log.error(
                        "batch_unreadable", batch=key, error=exc.reason, next="they wait for a version that can read it"
                    )
    batches: defaultdict[int, dict[str, Batch]] = defaultdict(dict)
    for key, batch in found.items():
        batches[batch.partition][key] = batch
    return batches
