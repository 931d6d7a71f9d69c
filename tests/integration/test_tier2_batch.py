"""Tier-2's slow lane by batches, on a real broker before the recorded frontier: whatever is killed when, every ticket
is submitted once and comes back once."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from pydantic import SecretStr

from schemas.batches import Batch
from schemas.codec import decode, encode
from schemas.drafts import Draft
from schemas.events import Event
from schemas.tickets import Routed, TicketId
from streams import batch_lane, tier2, tier2_batch
from streams.batch_lane import BatchLane
from streams.batch_partition import BatchPartition
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime import offsets
from streams.runtime.delivery import ExactlyOnce
from streams.runtime.headers import read_parked
from streams.runtime.loop import StageLoop
from streams.runtime.messages import Message
from streams.runtime.offsets import CommitPoint
from streams.settings import (
    KafkaSettings,
    Settings,
    SettingsError,
    SpendSettings,
    TenantSpendSettings,
    Tier2Settings,
)
from streams.spend import SharedSpend
from streams.tier2 import frontier_config, spend_limits
from tests.frontier_faults import frontier, ledger, recordings
from tests.kafka import committed_records, until, write
from tests.records import a_decision, a_routed, a_ticket
from tests.spend_process import read_to_the_end
from tests.tier2_client import KEY, MODELS
from workers.tier2 import wire
from workers.tier2.batching import Batching
from workers.tier2.recorded_batches import BatchFault, End
from workers.tier2.recorded_frontier import no_faults
from workers.tier2.wire import Provider

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ANSWERS = {f"What is fee number {n}?": f"Fee {n} is ${n}." for n in range(6)}
IDS = [f"t{n}" for n in range(len(ANSWERS))]


class Provided:
    """The recorded frontier, with faults for the next submissions in their order."""

    def __init__(self, base_url: str, faults: list[BatchFault]) -> None:
        self.base_url, self.faults = base_url, faults

    async def books(self) -> dict[str, Any]:
        return await ledger(self.base_url)

    async def assert_nothing_is_kept(self) -> None:
        async with httpx.AsyncClient(base_url=self.base_url, trust_env=False) as http:
            for name, path in (("anthropic", "v1/messages/batches"), ("openai", "v1/files")):
                listed = await http.get(path, headers=wire.auth(name, KEY))
                assert listed.raise_for_status().json()["data"] == []

    async def assert_asked_once(self, batches: int = 1, answered: int = len(IDS)) -> None:
        books = await self.books()
        assert (books["batches"], books["charged"]) == (batches, answered)


@asynccontextmanager
async def provided(batch_s: float = 0.1) -> AsyncIterator[Provided]:
    faults: list[BatchFault] = []

    def next_fault(_: Provider) -> BatchFault | None:
        return faults.pop(0) if faults else None

    async with frontier(recordings(ANSWERS), no_faults, batch_s=batch_s, batch_faults=next_fault) as base_url:
        yield Provided(base_url, faults)


@pytest.fixture
async def provider() -> AsyncIterator[Provided]:
    async with provided() as server:
        yield server


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str, provider: Provided, tmp_path: Path) -> Settings:
    return settings_for(kafka, topics, provider, tmp_path)


def settings_for(
    kafka: EmbeddedKafka, topics: str, provider: Provided, folder: Path, name: Provider = "anthropic", **changes: Any
) -> Settings:
    """A batch is made, submitted and looked at as soon as may be."""
    (folder / "knowledge.toml").write_text('[[passage]]\nid = "a.b"\ntext = "A fee is a fee."\n')
    values: dict[str, Any] = {
        "provider": name,
        "base_url": provider.base_url,
        "model": MODELS[name],
        "api_key": SecretStr(KEY),
        "timeout_s": 2.0,
        "backfill": "batch",
        "batch_wait_s": 0.3,
        "batch_poll_s": 0.2,
    }
    return Settings.model_construct(
        **{
            **Settings().__dict__,
            "knowledge": folder / "knowledge.toml",
            "kafka": KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0),
            "tier2": Tier2Settings(**values | changes),
        }
    )


async def publish(settings: Settings, ids: Sequence[str] = IDS, tenant: str = "default") -> None:
    """Tickets on the slow lane, all in one partition."""
    bodies = dict(zip(IDS, ANSWERS, strict=True))
    routed = [
        a_routed(a_ticket(bodies[i], ticket_id=TicketId(i), tenant=tenant), decision=a_decision("tier2")) for i in ids
    ]
    topic = f"{settings.kafka.topic_prefix}tier2.backfill"
    records = [(r.ticket.ticket_id.encode(), encode(r)) for r in routed]
    await write(settings.kafka.bootstrap_servers, topic, records, partition=0)


async def read(settings: Settings, name: str, wanted: int) -> list[Any]:
    records = await committed_records(
        settings.kafka.bootstrap_servers, settings.kafka.topic_prefix + name, wanted, 60.0
    )
    assert len(records) >= wanted, f"{len(records)} of {wanted} on {name}"
    return records


async def assert_drafted_once(settings: Settings, ids: Sequence[str] = IDS) -> list[Draft]:
    """Each ticket has one draft, its own, on the slow lane, and one event; and no batch is open."""
    records = await read(settings, "drafts.backfill", len(ids))
    drafts = [decode(Draft, record.value) for record in records]
    answers = dict(zip(IDS, ANSWERS.values(), strict=True))
    assert {d.routed.ticket.ticket_id: d.text for d in drafts} == {i: answers[i] for i in ids}
    assert Counter(r.key.decode() for r in records) == Counter(ids)
    events = [decode(Event, record.value) for record in await read(settings, "events", len(ids))]
    assert Counter(e.ticket_id for e in events) == Counter(ids)
    assert {(e.stage, e.outcome) for e in events} == {("tier2", "drafted")}
    assert await batches(settings) == {}
    return drafts


async def batches(settings: Settings) -> dict[str, Batch]:
    found = await tier2_batch._open_batches(settings.kafka)
    return {key: batch for of_partition in found.values() for key, batch in of_partition.items()}


class Crash(BaseException):
    """The process is gone: nothing may be done on the way out, as with SIGKILL."""


async def work(
    settings: Settings, done: Callable[[Sequence[BatchLane]], Awaitable[bool]] | None = None, code: int = 0
) -> None:
    """The process's work in this one, until `done` or until it ends by itself, with that exit code. Raises: Crash."""
    process = tier2_batch._Work(settings, Batching(frontier_config(settings, "tier2")))
    async with (
        SharedSpend(settings.kafka, spend_limits(settings.tier2.spend)) as spend,
        tier2_batch._apis(process._batching, settings.tier2.timeout_s) as apis,
    ):
        working = asyncio.create_task(process.run(spend, apis))

        async def is_over() -> bool:
            return working.done() or (done is not None and await done(process.lanes))

        await until(is_over, limit_s=60.0)
        process.stopping.set()
        assert await working == code


def answered(provider: Provided, wanted: int = len(IDS)) -> Callable[[Sequence[BatchLane]], Awaitable[bool]]:
    """Until the provider has answered so many, and no batch is open."""

    async def is_answered(lanes: Sequence[BatchLane]) -> bool:
        quiet = bool(lanes) and not any(lane.batches or len(lane.collector) for lane in lanes)
        return quiet and int((await provider.books())["charged"]) >= wanted

    return is_answered


async def test_tickets_come_back_as_drafts_at_half_the_price(settings: Settings, provider: Provided) -> None:
    """In one batch, of which the provider keeps nothing; their money is settled at what it charged."""
    await publish(settings)
    await work(settings, answered(provider))
    drafts = await assert_drafted_once(settings)
    await provider.assert_asked_once()
    await provider.assert_nothing_is_kept()
    charged_micro_usd = (await provider.books())["cost_micro_usd"]
    assert sum(round(d.cost_usd * 1e6) for d in drafts) == charged_micro_usd > 0
    assert {(d.provider, d.calls) for d in drafts} == {("anthropic", 1)}
    async with SharedSpend(settings.kafka, spend_limits(settings.tier2.spend)) as spend:
        await read_to_the_end(spend)
        assert spend.book.counted_micro_usd(None, "month", spend.now_s()) == charged_micro_usd


def crash_at_the_first_commit(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The process dies before or after the first commit that says something."""
    commit = BatchPartition.commit

    async def crashing(partition: BatchPartition, ends: Any, batches: Any, taken_out: Any = ()) -> None:
        if (ends or batches) and when == "before":
            raise Crash
        await commit(partition, ends, batches, taken_out)
        if ends or batches:
            raise Crash

    monkeypatch.setattr(BatchPartition, "commit", crashing)


@pytest.mark.parametrize("name", ["anthropic", "openai"])
async def test_crashes_around_every_commit_submit_and_answer_nothing_twice(
    name: Provider,
    kafka: EmbeddedKafka,
    topics: str,
    provider: Provided,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Collected, submitted, ended: the process dies before each and after each. In the third life the batch is made
    and nobody has written down its id: the fourth finds it."""
    settings = settings_for(kafka, topics, provider, tmp_path, name)
    await publish(settings, IDS[:-1])
    made = []
    for when in ("before", "after") * 3:
        with monkeypatch.context() as patched:
            crash_at_the_first_commit(patched, when)
            with pytest.raises(Crash):
                await work(settings)
        made.append((await provider.books())["batches"])
    assert made == [0, 0, 1, 1, 1, 1]
    # Whoever comes then goes on behind them.
    await publish(settings, IDS[-1:])
    await work(settings, answered(provider))
    await assert_drafted_once(settings)
    await provider.assert_asked_once(batches=2)


async def test_a_process_that_was_fenced_submits_nothing(
    settings: Settings, provider: Provided, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one came while it made its requests: what it has collected is the other one's to submit."""
    read_again = BatchPartition.read_again

    async def taken_over(partition: BatchPartition, offsets: Collection[int]) -> dict[int, ConsumerRecord]:
        other = ExactlyOnce(settings.kafka, f"{settings.kafka.topic_prefix}headgate-tier2", partition.at)
        await other.start()
        await other.close()
        return await read_again(partition, offsets)

    await publish(settings)
    with monkeypatch.context() as patched:
        patched.setattr(BatchPartition, "read_again", taken_over)
        await work(settings, code=1)
    await provider.assert_asked_once(batches=0, answered=0)
    await work(settings, answered(provider))
    await assert_drafted_once(settings)
    await provider.assert_asked_once()


def ends(*how: End) -> BatchFault:
    """The requests of a batch end so, one after the other."""
    return BatchFault(end_of=lambda number: how[number])


async def test_what_has_no_answer_is_in_one_more_batch_and_then_goes_by_calls(
    settings: Settings, provider: Provided
) -> None:
    """The others are not held up. What goes by calls is parked as the ordinary process parks: it stays in its lane."""
    provider.faults += [ends("answered", "expired", "errored", "answered", "expired", "answered")]
    provider.faults += [ends("answered", "expired", "answered")]
    await publish(settings)
    await work(settings, answered(provider, 5))
    assert {d.routed.ticket.ticket_id: d.calls for d in await assert_drafted_once(settings, [*IDS[:2], *IDS[3:]])} == {
        "t0": 1,
        "t1": 2,
        "t3": 1,
        "t4": 2,
        "t5": 1,
    }
    [parked] = await read(settings, "tier2.retry", 1)
    assert decode(Routed, parked.value).ticket.ticket_id == "t2"
    life = read_parked(parked.headers)
    assert life is not None
    assert (life.origin.topic, life.origin.offset) == (f"{settings.kafka.topic_prefix}tier2.backfill", 2)
    await provider.assert_asked_once(batches=2, answered=5)
    await assert_settled(settings, provider)


async def test_a_batch_that_its_provider_has_lost_is_waited_for_two_days(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, its tickets stay where they are; then they go by calls, and their worst case stays counted."""
    await publish(settings)
    async with provided(batch_s=3600.0) as forgetful:
        elsewhere = settings.tier2.model_copy(update={"base_url": forgetful.base_url})
        asking = settings.model_copy(update={"tier2": elsewhere})

        async def is_submitted(lanes: Sequence[BatchLane]) -> bool:
            return any(batch.id for lane in lanes for batch in lane.batches.values())

        await work(asking, is_submitted)
    [before] = (await batches(settings)).values()
    looks: list[float] = []

    async def is_looked_at_twice(lanes: Sequence[BatchLane]) -> bool:
        looks.extend(due for lane in lanes for due in lane._due_s.values())
        return len(set(looks)) > 2

    await work(settings, is_looked_at_twice)
    assert list((await batches(settings)).values()) == [before]
    monkeypatch.setattr(batch_lane, "UNKNOWN_S", 0.0)

    async def is_over(lanes: Sequence[BatchLane]) -> bool:
        return bool(lanes) and not any(lane.batches for lane in lanes)

    await work(settings, is_over)
    parked = await read(settings, "tier2.retry", len(IDS))
    assert Counter(record.key.decode() for record in parked) == Counter(IDS)
    async with SharedSpend(settings.kafka, spend_limits(settings.tier2.spend)) as spend:
        await read_to_the_end(spend)
        counted_micro_usd = spend.book.counted_micro_usd(None, "month", spend.now_s())
    assert counted_micro_usd == sum(ticket.micro_usd for ticket in before.tickets) > 0


async def test_a_process_that_is_killed_before_it_hears_of_its_batch_does_not_submit_again(
    kafka: EmbeddedKafka, topics: str, provider: Provided, tmp_path: Path
) -> None:
    """SIGKILL between the request and its answer, of the command as it is run; SIGTERM ends the next one in order."""
    settings = settings_for(kafka, topics, provider, tmp_path)
    provider.faults += [BatchFault(is_told=False)]
    await publish(settings)
    with command(settings) as first:
        await until(lambda: is_made(provider, 1))
        first.kill()
        first.wait()
    assert [batch.id for batch in (await batches(settings)).values()] == [""]
    with command(settings) as second:
        await assert_drafted_once(settings)
        second.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 20.0) == 0
    await provider.assert_asked_once()


async def test_what_retention_takes_from_a_batch_is_neither_submitted_nor_left_unsettled(
    kafka: EmbeddedKafka, topics: str, provider: Provided, tmp_path: Path
) -> None:
    """Two tickets are gone before their batch is submitted, one more before its results come: of that one the ledger
    counts what it has cost, of the two nothing. A batch of the size that its record says can be found."""
    provider.faults += [BatchFault(is_made=False)] * 1000
    settings = settings_for(kafka, topics, provider, tmp_path)
    await publish(settings)

    async def is_turned_away(_: Sequence[BatchLane]) -> bool:
        return len(provider.faults) < 1000

    await work(settings, is_turned_away)
    await delete_before(settings, 2)
    provider.faults[:] = [BatchFault(is_told=False)]
    await work(settings, lambda _: is_made(provider, 1))
    assert [len(batch.tickets) for batch in (await batches(settings)).values()] == [4]
    await delete_before(settings, 3)
    await work(settings, answered(provider, 4))
    await assert_drafted_once(settings, IDS[3:])
    await provider.assert_asked_once(answered=4)
    await assert_settled(settings, provider)


async def test_a_batch_whose_commit_fails_leaves_no_money_set_aside(
    settings: Settings, provider: Provided, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process goes on with new clients, and collects the same tickets anew."""
    commit, failures = ExactlyOnce.commit, [KafkaError("the broker is gone")]

    async def failing(delivery: ExactlyOnce, messages: Sequence[Message], point: CommitPoint) -> None:
        if messages and failures:
            raise failures.pop()
        await commit(delivery, messages, point)

    monkeypatch.setattr(ExactlyOnce, "commit", failing)
    await publish(settings)
    await work(settings, answered(provider))
    await assert_drafted_once(settings)
    await assert_settled(settings, provider)


async def delete_before(settings: Settings, offset: int) -> None:
    """As retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    at = TopicPartition(f"{settings.kafka.topic_prefix}tier2.backfill", 0)
    await admin.delete_records({at: RecordsToDelete(before_offset=offset)})
    await admin.close()


async def assert_settled(settings: Settings, provider: Provided) -> None:
    """The ledger has what the provider has charged, and no worst case."""
    async with SharedSpend(settings.kafka, spend_limits(settings.tier2.spend)) as spend:
        await read_to_the_end(spend)
        counted_micro_usd = spend.book.counted_micro_usd(None, "month", spend.now_s())
    assert counted_micro_usd == (await provider.books())["cost_micro_usd"]


async def test_no_more_is_taken_in_than_a_commit_can_tell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ticket that waits for money holds the commit point, while others go: far above it nothing begins, else Kafka
    would refuse the metadata."""
    monkeypatch.setattr(offsets, "MAX_DISTANCE", 4)
    monkeypatch.setattr(offsets, "SLOW_FROM", 4)
    await publish(settings)
    at = TopicPartition(f"{settings.kafka.topic_prefix}tier2.backfill", 0)
    delivery = ExactlyOnce(settings.kafka, f"{settings.kafka.topic_prefix}headgate-tier2", at)
    consumer = tier2_batch._consumer(settings.kafka)
    await delivery.start()
    await consumer.start()
    consumer.assign([at])
    partition = BatchPartition(at, delivery, consumer, CommitPoint(0))

    async def taken_in() -> list[int]:
        return [source.offset for source in await partition.take_in(100)]

    found: list[int] = []

    async def come(wanted: int) -> bool:
        found.extend(await taken_in())
        return len(found) >= wanted

    await until(lambda: come(4))
    await partition.commit([], [], [1, 2, 3])
    assert (found, await taken_in()) == ([0, 1, 2, 3], [])
    await partition.commit([], [], [0])
    await until(lambda: come(6))
    await consumer.stop()
    await delivery.close()
    assert found == [*range(6)]


async def is_made(provider: Provided, wanted: int) -> bool:
    return int((await provider.books())["batches"]) >= wanted


@contextmanager
def command(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """`headgate run tier2-batch` with these settings; killed at the end if it still runs."""
    kafka, configured = settings.kafka, settings.tier2
    variables = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "KNOWLEDGE": str(settings.knowledge),
        "TIER2__API_KEY": KEY,
        **{
            f"TIER2__{name.upper()}": str(getattr(configured, name))
            for name in ("provider", "base_url", "model", "timeout_s", "backfill", "batch_wait_s", "batch_poll_s")
        },
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "run", "tier2-batch"],
        env={**os.environ, **{f"HEADGATE_{name}": value for name, value in variables.items()}},
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_batches_go_on_where_calls_stopped(
    kafka: EmbeddedKafka, topics: str, provider: Provided, tmp_path: Path
) -> None:
    """The setting may change at any time: the place in the slow lane is one for both ways. A tenant without money goes
    the ordinary way."""
    by_calls = settings_for(kafka, topics, provider, tmp_path, backfill="calls")
    await publish(by_calls, IDS[:2])
    async with tier2.stage(by_calls) as stage:
        loop = StageLoop(stage, by_calls.kafka)
        running = asyncio.create_task(loop.run())
        await read(by_calls, "drafts.backfill", 2)
        loop.stop()
        await running
    spend = SpendSettings(tenants={"poor": TenantSpendSettings(day_usd=0)})
    settings = settings_for(kafka, topics, provider, tmp_path, spend=spend)
    await write(kafka.bootstrap_servers, f"{topics}tier2.backfill", [(b"x", b"no ticket")], partition=0)
    await publish(settings, ["t2"], tenant="poor")
    await publish(settings, IDS[3:])
    await work(settings, answered(provider, 5))
    drafts = [decode(Draft, record.value) for record in await read(settings, "drafts.backfill", 5)]
    assert Counter(d.routed.ticket.ticket_id for d in drafts) == Counter(["t0", "t1", "t3", "t4", "t5"])
    [parked] = await read(settings, "tier2.retry", 1)
    assert parked.key == b"t2"
    assert [letter.value for letter in await read(settings, "dead-letters", 1)] == [b"no ticket"]
    await provider.assert_asked_once(answered=5)


async def test_the_ordinary_process_leaves_the_lane_alone(settings: Settings) -> None:
    """It reads what is parked, from which it gets what batches can't settle."""
    async with tier2.stage(settings) as stage:
        assert stage.topic.twins == (".retry",)


async def test_the_process_does_not_start_beside_calls(
    kafka: EmbeddedKafka, topics: str, provider: Provided, tmp_path: Path
) -> None:
    """Both would answer the same tickets."""
    with pytest.raises(SettingsError, match=r"tier2\.backfill"):
        await tier2_batch.run(settings_for(kafka, topics, provider, tmp_path, backfill="calls"))
