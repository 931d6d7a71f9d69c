"""`/api/spend`: what tier-2 and the judge have spent in the periods that are open, against their limits."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.codec import PoisonError, decode
from schemas.spend import Limit, Pending, Period, SpendEntry, SpendSnapshot
from schemas.topics import SPEND, SPEND_SNAPSHOTS
from streams.connection import connection
from streams.runtime.closing import closed
from streams.scoreboard.views import LimitView, SpendView
from streams.settings import KafkaSettings, Settings
from streams.tier2 import spend_limits
from streams.topics import TopicsError, partition_counts
from workers.tier2.spend import SpendLimits, limits_of
from workers.tier2.spend_book import PERIODS, SpendBook, window_s

READ_LIMIT_S = 20.0
"""For the ledger since its last snapshot: some thousand records."""


async def read_spend(settings: Settings) -> SpendView:
    """From the ledger's last snapshot and what was written since.

    Raises: TopicsError if the broker can't be reached or a topic is not there; TimeoutError.
    """
    book = await asyncio.wait_for(_read_book(settings.kafka), READ_LIMIT_S)
    return spend_view(book, spend_limits(settings.tier2.spend), time.time())


def spend_view(book: SpendBook, limits: SpendLimits, now_s: float) -> SpendView:
    """All tenants' minute, day and month; then the tenants' that have limits, those who spent most of it first."""
    known = book.snapshot(0)
    tenants = sorted({w.tenant for w in known.windows if w.tenant is not None} | set(limits.tenants))
    # A tenant's reservations are held against the limits of all, too.
    of_all = {limit.period: limit for limit in limits_of(limits, "") if limit.scope == "all"}
    everyone = [_view(book, known.pending, None, period, of_all.get(period), now_s) for period in PERIODS]
    of_tenants = [
        _view(book, known.pending, tenant, limit.period, limit, now_s)
        for tenant in tenants
        for limit in limits_of(limits, tenant)
        if limit.scope == "tenant"
    ]
    return SpendView(limits=(*everyone, *sorted(of_tenants, key=_share, reverse=True)))


def _view(
    book: SpendBook, pending: tuple[Pending, ...], tenant: str | None, period: Period, limit: Limit | None, now_s: float
) -> LimitView:
    start_s, end_s = window_s(period, now_s)
    reserved = sum(p.micro_usd for p in pending if start_s <= p.at_s < end_s and tenant in (None, p.tenant))
    return LimitView(
        tenant=tenant,
        period=period,
        spent_usd=book.counted_micro_usd(tenant, period, now_s) / 1e6,
        reserved_usd=reserved / 1e6,
        limit_usd=limit.micro_usd / 1e6 if limit else None,
        resets_in_s=end_s - now_s,
    )


def _share(view: LimitView) -> float:
    return view.spent_usd / view.limit_usd if view.limit_usd else float("inf")


async def _read_book(kafka: KafkaSettings) -> SpendBook:
    """The book at the end of the log. Read only: nothing is written, as a process that spends would."""
    spend = TopicPartition(kafka.topic_prefix + SPEND.name, 0)
    snapshots = TopicPartition(kafka.topic_prefix + SPEND_SNAPSHOTS.name, 0)
    await partition_counts(kafka, (spend.topic, snapshots.topic))
    consumer = AIOKafkaConsumer(**connection(kafka), client_id="headgate-read", enable_auto_commit=False)
    try:
        await consumer.start()
        ends = await consumer.end_offsets([spend, snapshots])
        starts = await consumer.beginning_offsets([spend])
        book, offset = SpendBook(), 0
        # The topic's last record, which no compaction takes away.
        async for _, value in _records(consumer, snapshots, ends[snapshots] - 1, ends[snapshots]):
            with suppress(PoisonError):
                snapshot = decode(SpendSnapshot, value)
                book, offset = SpendBook.restored(snapshot), snapshot.offset
        # A snapshot of more than there is: the log was made anew.
        offset = max(starts[spend], offset if offset <= ends[spend] else 0)
        async for at_s, value in _records(consumer, spend, offset, ends[spend]):
            # Whoever spends has said in its log which step can't be read.
            with suppress(PoisonError):
                book.apply(decode(SpendEntry, value).step, at_s)
        return book
    except (KafkaError, OSError) as exc:
        raise TopicsError(f"could not read {spend.topic}: {exc or type(exc).__name__}") from exc
    finally:
        await closed(consumer.stop)


async def _records(
    consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int, end: int
) -> AsyncIterator[tuple[float, bytes | None]]:
    """Times (seconds since the epoch) and values from `offset` up to `end`."""
    if end <= max(offset, 0):
        return
    consumer.assign([partition])
    consumer.seek(partition, max(offset, 0))
    while await consumer.position(partition) < end:
        polled = await consumer.getmany(partition, timeout_ms=500)
        for record in polled.get(partition, ()):
            yield record.timestamp / 1000, record.value
