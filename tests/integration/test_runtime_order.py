"""Out of order on a real broker: what a restart does again, what is parked, what is a duplicate, and the slow lane."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata

from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import ANSWERS, TICKETS, TIER1
from streams.local.embedded_kafka import EmbeddedKafka
from streams.router import identity
from streams.runtime import dispatcher, offsets
from streams.runtime.clock import utc_now
from streams.runtime.loop import StageLoop
from streams.runtime.offset_metadata import decode
from streams.runtime.stage import Done, Output, Record, Stage, singly
from streams.settings import KafkaSettings
from tests.kafka import committed_records, group_offsets, ticket, until, write, write_tickets
from workers.errors import RetryableError
from workers.retry import RetryLimits

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0)


def done(record: Record[Ticket], outcome: Any = "answered") -> Done:
    key = record.value.ticket_id
    event = Event(event_id=f"router/{record.origin}", at=utc_now(), stage="router", outcome=outcome, ticket_id=key)
    return Done((Output(ANSWERS, key, record.value),) if outcome == "answered" else (), event)


class Worker:
    """Answers every ticket, the held ones once they are let go; keeps what it was asked for."""

    def __init__(self, *held: str) -> None:
        self.asked: list[str] = []
        self.gates = {name: asyncio.Event() for name in held}
        self.failing: set[str] = set()

    async def handle(self, record: Record[Ticket]) -> Done:
        name = record.value.ticket_id
        self.asked.append(name)
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.failing:
            raise RetryableError("busy")
        return done(record)

    def stage(self, **limits: Any) -> Stage[Ticket]:
        return Stage("router", TICKETS, Ticket, singly(self.handle), batch_size=1, **limits)


@asynccontextmanager
async def running(stage: Stage[Ticket], settings: KafkaSettings) -> AsyncIterator[StageLoop[Ticket]]:
    """The stage at work; stopped, and waited for, when the block ends."""
    loop = StageLoop(stage, settings)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        loop.stop()
        await asyncio.wait_for(task, 30)


async def answers(settings: KafkaSettings, wanted: int) -> Counter[str]:
    """How often each ticket was answered."""
    records = await committed_records(settings.bootstrap_servers, settings.topic_prefix + "answers", wanted)
    return Counter((r.key or b"").decode() for r in records)


async def metadata(settings: KafkaSettings) -> tuple[int, str]:
    """The committed offset of the tickets' partition 0, and the text beside it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(f"{settings.topic_prefix}headgate-router")
    finally:
        await admin.close()
    committed = found[TopicPartition(settings.topic_prefix + "tickets", 0)]
    return committed.offset, committed.metadata


async def test_a_restart_does_only_unfinished_records_again(settings: KafkaSettings) -> None:
    """The slow ones hold back the commit point and nothing else: who comes next does them, and no finished one."""
    ids = [f"t{i}" for i in range(10)]
    await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ids, partition=0)
    first = Worker("t0", "t4")
    async with running(first.stage(), settings.model_copy(update={"drain_s": 0.1})):
        assert len(await answers(settings, 8)) == 8
    offset, text = await metadata(settings)
    point = decode(offset, text)
    assert offset == 0
    assert [i for i in range(10) if not point.is_finished(i)] == [0, 4]
    second = Worker()
    async with running(second.stage(), settings):
        assert await answers(settings, 10) == Counter(ids)
    assert sorted(second.asked) == ["t0", "t4"]
    assert (await group_offsets(settings.bootstrap_servers, settings.topic_prefix))[0] == 10


async def test_metadata_that_cannot_be_read_is_done_again(settings: KafkaSettings) -> None:
    """Rather twice than never: a foreign client that commits by itself leaves text that says nothing."""
    ids = ["a", "b", "c"]
    await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ids, partition=0)
    first = Worker("a")
    async with running(first.stage(), settings.model_copy(update={"drain_s": 0.1})):
        assert len(await answers(settings, 2)) == 2
    await _commit_text(settings, TopicPartition(settings.topic_prefix + "tickets", 0), 0, "somebody else's")
    second = Worker()
    async with running(second.stage(), settings):
        assert await answers(settings, 5) == Counter({"a": 1, "b": 2, "c": 2})


async def _commit_text(settings: KafkaSettings, partition: TopicPartition, offset: int, text: str) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        group_id=f"{settings.topic_prefix}headgate-router",
        enable_auto_commit=False,
    )
    await consumer.start()
    consumer.assign([partition])
    await consumer.commit({partition: OffsetAndMetadata(offset, text)})
    await consumer.stop()


async def test_a_record_that_rests_too_long_is_parked_and_comes_back(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves to the retry topic so that the commit point can follow, and is answered when it is due."""
    monkeypatch.setattr(offsets, "SLOW_FROM", 20)
    monkeypatch.setattr(dispatcher, "PARK_S", 1.0)
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    worker = Worker()
    worker.failing.add("slow")
    await write_tickets(servers, prefix, ["slow", *(f"t{i}" for i in range(40))], partition=0)
    patient = RetryLimits(attempts=20, age_s=600, first_delay_s=4, longest_delay_s=4)
    async with running(worker.stage(retry=patient, max_in_flight=8), settings):
        assert len(await answers(settings, 40)) == 40
        parked: list[ConsumerRecord] = await committed_records(servers, prefix + "tickets.retry", 1)
        worker.failing.clear()
        assert (await answers(settings, 41))["slow"] == 1
        events = await committed_records(servers, prefix + "events", 41)
        await until(lambda: _offset_is(settings, 41))
    (record,) = parked
    assert record.value == ticket("slow")
    assert dict(record.headers)["headgate-parked-attempts"] == b"1"
    # The event names the place that the ticket came in at, as for every other.
    event_ids = {msgspec.json.decode(r.value)["event_id"] for r in events}
    assert event_ids == {f"router/{prefix}tickets/0/{offset}" for offset in range(41)}


async def _offset_is(settings: KafkaSettings, offset: int) -> bool:
    return (await group_offsets(settings.bootstrap_servers, settings.topic_prefix)).get(0) == offset


async def test_a_ticket_published_again_is_answered_once(settings: KafkaSettings) -> None:
    """While the first is worked on, right after it, and by the process that comes next; another tenant's is another."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    stage: dict[str, Any] = {"identity": identity, "duplicate": lambda record: done(record, "duplicate")}
    worker = Worker("a")
    theirs = msgspec.json.encode({"ticket_id": "a", "body": "x", "tenant": "other"})
    async with running(worker.stage(**stage), settings):
        await write_tickets(servers, prefix, ["a", "a", "b", "b"], partition=0)
        await until(lambda: "b" in worker.asked)
        worker.gates["a"].set()
        assert await answers(settings, 2) == Counter("ab")
    again = Worker()
    async with running(again.stage(**stage), settings):
        await write_tickets(servers, prefix, ["a", "c"], partition=0)
        await write(servers, prefix + "tickets", [(b"a", theirs)], partition=0)
        assert await answers(settings, 4) == Counter({"a": 2, "b": 1, "c": 1})
        events = await committed_records(servers, prefix + "events", 7)
    assert Counter(msgspec.json.decode(r.value)["outcome"] for r in events) == {"answered": 4, "duplicate": 3}
    assert sorted(again.asked) == ["a", "c"]


async def test_a_ticket_outside_the_window_is_a_new_one(settings: KafkaSettings) -> None:
    """What the helpdesk publishes days later under the same id is answered again."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    short = settings.model_copy(update={"dedupe_window_s": 0.001})
    stage: dict[str, Any] = {"identity": identity, "duplicate": lambda record: done(record, "duplicate")}
    async with running(Worker().stage(**stage), short):
        await write_tickets(servers, prefix, ["a"], partition=0)
        assert await answers(settings, 1) == Counter("a")
        await write_tickets(servers, prefix, ["a"], partition=0)
        assert await answers(settings, 2) == Counter("aa")


async def test_backfill_takes_spare_slots_and_stays_in_its_lane(settings: KafkaSettings) -> None:
    """Past tickets fill three quarters of the slots and leave room for live ones; what they become stays slow."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    past = [f"past{i}" for i in range(12)]
    worker = Worker(*past)

    async def forward(record: Record[Ticket]) -> Done:
        answered = await worker.handle(record)
        return Done((Output(TIER1, record.value.ticket_id, record.value),), answered.event)

    stage = Stage("router", TICKETS, Ticket, singly(forward), batch_size=1, max_in_flight=8)
    await write(servers, prefix + "tickets.backfill", [(p.encode(), ticket(p)) for p in past], partition=0)
    async with running(stage, settings):
        await until(lambda: len(worker.asked) == 6)
        await write_tickets(servers, prefix, ["now"], partition=0)
        assert [r.key for r in await committed_records(servers, prefix + "tier1", 1)] == [b"now"]
        assert len(worker.asked) == 7
        for gate in worker.gates.values():
            gate.set()
        slow = await committed_records(servers, prefix + "tier1.backfill", 12)
    assert sorted((r.key or b"").decode() for r in slow) == sorted(past)


async def test_a_saturated_worker_gets_nothing_more(settings: KafkaSettings) -> None:
    """Its partitions wait, the process stays in its group, and work goes on when it says so."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    worker, busy = Worker("a"), False
    stage = worker.stage(saturated=lambda: busy)
    async with running(stage, settings) as loop:
        await write_tickets(servers, prefix, ["a"], partition=0)
        await until(lambda: worker.asked == ["a"])
        busy = True
        await write_tickets(servers, prefix, ["b"], partition=0)
        worker.gates["a"].set()
        assert await answers(settings, 1) == Counter("a")
        assert worker.asked == ["a"]
        assert loop.joined
        busy = False
        assert await answers(settings, 2) == Counter("ab")


async def test_at_least_once_commits_outputs_and_offsets_without_a_transaction(settings: KafkaSettings) -> None:
    """The same results by a plain producer, and the commit point is kept the same way."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    plain = settings.model_copy(update={"delivery": "at_least_once", "drain_s": 0.1})
    worker = Worker("t1")
    async with running(worker.stage(), plain):
        await write_tickets(servers, prefix, ["t0", "t1", "t2"], partition=0)
        assert await answers(settings, 2) == Counter(["t0", "t2"])
        await until(lambda: _offset_is(settings, 1))
    next_worker = Worker()
    async with running(next_worker.stage(), plain):
        assert await answers(settings, 3) == Counter(["t0", "t1", "t2"])
        await until(lambda: _offset_is(settings, 3))
    assert next_worker.asked == ["t1"]


async def test_a_topic_made_anew_is_read_from_its_start(settings: KafkaSettings, topics: str) -> None:
    """A committed offset past the end belongs to a topic that is no more."""
    partition = TopicPartition(settings.topic_prefix + "tickets", 0)
    await _commit_text(settings, partition, 1000, "")
    async with running(Worker().stage(), settings):
        await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ["a"], partition=0)
        assert await answers(settings, 1) == Counter("a")
