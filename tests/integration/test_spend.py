"""The spend limits on a real broker: shared by processes, held across kills, restarts and outages."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from schemas.codec import encode
from schemas.spend import Reserve, SpendEntry
from streams import spend as module
from streams import topics as topic_admin
from streams.local.embedded_kafka import EmbeddedKafka
from streams.settings import KafkaSettings
from streams.spend import SharedSpend
from tests.kafka import kafka_settings, until
from tests.spend_process import Job, hammer, read_to_the_end
from workers.errors import RetryableError, WorkerDiedError
from workers.tier2.spend import Reservation, SpendLimitError, SpendLimits

pytestmark = pytest.mark.integration

PATIENCE_S = 30.0
DOLLAR = SpendLimits(day_usd=1.0)


def settings_of(kafka: EmbeddedKafka, prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=prefix)


def counted(spend: SharedSpend) -> int:
    return spend.book.counted_micro_usd(None, "day", spend.now_s())


async def test_two_processes_share_one_limit(kafka: EmbeddedKafka, topics: str) -> None:
    """What one has spent the other has not, what one gives back the other can have, and a third learns of both."""
    settings = settings_of(kafka, topics)
    async with SharedSpend(settings, DOLLAR) as one, SharedSpend(settings, DOLLAR) as other:
        first = await one.reserve("acme", 600_000, PATIENCE_S)
        with pytest.raises(RetryableError):
            await other.reserve("acme", 600_000, 0.2)
        waiting = asyncio.create_task(other.reserve("umbrella", 600_000, PATIENCE_S))
        one.settle(first, 250_000)
        other.settle(await waiting, 600_000)
        await read_to_the_end(one)
        with pytest.raises(SpendLimitError) as refused:
            await one.reserve("acme", 600_000, PATIENCE_S)
        assert 0 < refused.value.resets_in_s <= 86_400
    async with SharedSpend(settings, DOLLAR) as third:
        await read_to_the_end(third)
        assert counted(third) == 850_000


async def test_the_period_is_the_brokers_not_the_writers(kafka: EmbeddedKafka, topics: str) -> None:
    """A process whose clock is wrong spends today's money all the same."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        step = Reserve(id="elsewhere", tenant="acme", micro_usd=400_000)
        await producer.send_and_wait(f"{topics}spend", encode(SpendEntry(step=step)), timestamp_ms=1_000)
        await producer.send_and_wait(f"{topics}spend", b"not a step")
    async with SharedSpend(settings_of(kafka, topics), DOLLAR) as spend:
        await read_to_the_end(spend)
        assert counted(spend) == 400_000
        assert abs(spend.now_s() - datetime.now(UTC).timestamp()) < 60


async def test_cancelled_callers_leave_nothing_behind(kafka: EmbeddedKafka, topics: str) -> None:
    """Whatever they were waiting for: what was granted to nobody is given back, before the process ends."""
    rng = random.Random(3)
    settings = settings_of(kafka, topics)
    async with SharedSpend(settings, DOLLAR) as spend:
        await read_to_the_end(spend)
        for _ in range(10):
            calls = [asyncio.create_task(spend.reserve("acme", 100_000, PATIENCE_S)) for _ in range(20)]
            await asyncio.sleep(rng.uniform(0, 0.01))
            for call in calls:
                call.cancel()
            for done in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(done, Reservation):
                    spend.settle(done, 1)
    async with SharedSpend(settings, DOLLAR) as spend:
        await read_to_the_end(spend)
        assert counted(spend) < 200
        assert [pending for pending in spend.book.snapshot(0).pending if pending.tenant == "acme"] == []


async def test_a_start_needs_nothing_of_the_log_before_the_snapshot(
    kafka: EmbeddedKafka, topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot's money is counted on, and reading goes on where it ends."""
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 50)
    settings = settings_of(kafka, topics)
    async with SharedSpend(settings, DOLLAR) as spend:
        for _ in range(60):
            spend.settle(await spend.reserve("acme", 1_000, PATIENCE_S), 700)
        left_open = await spend.reserve("acme", 500, PATIENCE_S)
        await read_to_the_end(spend)
    partition = TopicPartition(f"{topics}spend", 0)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.delete_records({partition: RecordsToDelete(before_offset=100)})
    await admin.close()
    async with SharedSpend(settings, DOLLAR) as restarted:
        await read_to_the_end(restarted)
        assert counted(restarted) == 60 * 700 + 500
        assert restarted.book.is_pending(left_open.id)


async def test_a_snapshot_that_cannot_be_read_is_passed_over(kafka: EmbeddedKafka, topics: str) -> None:
    """The log says the same, only slower."""
    settings = settings_of(kafka, topics)
    async with SharedSpend(settings, DOLLAR) as spend:
        spend.settle(await spend.reserve("acme", 1_000, PATIENCE_S), 700)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        await producer.send_and_wait(f"{topics}spend-snapshots", b"{}", key=b"book")
    async with SharedSpend(settings, DOLLAR) as restarted:
        await read_to_the_end(restarted)
        assert counted(restarted) == 700


async def test_a_log_that_was_made_anew_goes_on_counting_what_the_snapshot_counts(
    kafka: EmbeddedKafka, topics: str
) -> None:
    """Whoever deletes the topic gives nobody a second day's money."""
    settings = settings_of(kafka, topics)
    async with SharedSpend(settings, DOLLAR) as spend:
        spend.settle(await spend.reserve("acme", 1_000, PATIENCE_S), 700)
        await read_to_the_end(spend)
        snapshot = spend.book.snapshot(offset=10_000)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        await producer.send_and_wait(f"{topics}spend-snapshots", encode(snapshot), key=b"book")
    async with SharedSpend(settings, DOLLAR) as restarted:
        await read_to_the_end(restarted)
        assert counted(restarted) == 2 * 700


async def test_a_reader_that_fails_ends_the_process(
    kafka: EmbeddedKafka, topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours: nobody waits for an answer that will not come."""

    def fail(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(SharedSpend, "apply", fail)
    async with SharedSpend(settings_of(kafka, topics), DOLLAR) as spend:
        with pytest.raises(WorkerDiedError, match="LookupError"):
            await spend.reserve("acme", 1, PATIENCE_S)


async def test_without_its_topics_nothing_is_granted(kafka: EmbeddedKafka) -> None:
    """The error is retryable: whoever creates them may be late."""
    async with SharedSpend(settings_of(kafka, "never-applied-"), DOLLAR) as spend:
        with pytest.raises(RetryableError, match="can't be reached"):
            await spend.reserve("acme", 1, 1.0)


async def test_it_goes_on_after_a_broker_outage(tmp_path: Path) -> None:
    """Killed in the middle of everything and started again: not a cent is passed, lost or counted twice."""
    broker = EmbeddedKafka(tmp_path / "kafka").start()
    try:
        await topic_admin.apply(kafka_settings(broker.bootstrap_servers, partitions=1))
        settings = settings_of(broker, "")
        async with SharedSpend(settings, DOLLAR) as one, SharedSpend(settings, DOLLAR) as other:
            paid = [0]
            stopping = asyncio.Event()

            async def work(spend: SharedSpend, rng: random.Random) -> None:
                while not stopping.is_set():
                    try:
                        reservation = await spend.reserve("acme", 100, PATIENCE_S)
                    except RetryableError:
                        continue
                    cost = rng.randrange(101)
                    paid[0] += cost
                    await asyncio.sleep(rng.uniform(0, 0.02))
                    spend.settle(reservation, cost)

            async with asyncio.TaskGroup() as workers:
                for n in range(16):
                    workers.create_task(work((one, other)[n % 2], random.Random(n)))
                for _ in range(2):
                    before = paid[0]
                    await until(lambda before=before: paid[0] > before + 2_000)
                    await asyncio.to_thread(broker.kill)
                    await asyncio.to_thread(broker.start)
                before = paid[0]
                await until(lambda: paid[0] > before + 2_000)
                stopping.set()
            for spend in (one, other):
                await read_to_the_end(spend)
            await until(lambda: counted(one) == counted(other) == paid[0], limit_s=10)
            assert paid[0] <= 1_000_000
    finally:
        broker.kill()


async def test_killed_processes_pass_no_limit(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> None:
    """Four processes of eight workers, killed at random moments: the calls that were really made cost no more than
    the limits, and what is counted on top of them is what was in flight at the kills."""
    job = Job(
        servers=kafka.bootstrap_servers,
        prefix=topics,
        calls="",
        workers=8,
        day_micro_usd=200_000,
        small_day_micro_usd=20_000,
    )
    today = datetime.now(UTC).date()
    outcome = await hammer(tmp_path, job, processes=4, seconds=20.0, seed=6)
    if datetime.now(UTC).date() != today:
        pytest.skip("midnight came in between: two days' limits were spent")
    assert outcome.kills >= 5
    assert outcome.overrun_micro_usd == 0
    assert outcome.small_paid_micro_usd <= outcome.small_limit_micro_usd
    assert 0 <= outcome.exposure_micro_usd <= outcome.in_flight_at_kills_micro_usd
