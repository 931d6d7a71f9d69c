"""The runtime in this process on a real broker: what becomes of a record, and how a stage starts and ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import ANSWERS, TICKETS
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime import closing, delivery, session
from streams.runtime import loop as runtime
from streams.runtime.clock import utc_now
from streams.runtime.loop import StageLoop
from streams.runtime.stage import Done, Output, Record, Stage, singly
from streams.settings import KafkaSettings
from tests.fakes import raw_server
from tests.kafka import committed_records, group_offsets, ticket, until, write, write_tickets
from workers.errors import PermanentError, RetryableError
from workers.retry import RetryLimits

pytestmark = pytest.mark.integration

Handle = Callable[[Record[Ticket]], Awaitable[Done]]


def answered(record: Record[Ticket]) -> Done:
    key = record.value.ticket_id
    event = Event(event_id=f"router/{record.origin}", at=utc_now(), stage="router", outcome="answered", ticket_id=key)
    return Done((Output(ANSWERS, key, record.value),), event)


def stage(handle: Handle, **limits: Any) -> Stage[Ticket]:
    return Stage("router", TICKETS, Ticket, singly(handle), batch_size=1, **limits)


async def answer(record: Record[Ticket]) -> Done:
    return answered(record)


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0)


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


async def test_a_record_leaves_as_output_event_and_offset(settings: KafkaSettings) -> None:
    """One finished record is one output under the ticket's key, one event, and the offset behind it."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    async with running(stage(answer), settings):
        await write_tickets(servers, prefix, ["a", "b", "c"], partition=0)
        answers = await committed_records(servers, prefix + "answers", 3)
        events = await committed_records(servers, prefix + "events", 3)
    assert sorted(r.key for r in answers) == [b"a", b"b", b"c"]
    assert {msgspec.json.decode(r.value)["ticket_id"] for r in events} == {"a", "b", "c"}
    assert (await group_offsets(servers, prefix))[0] == 3


async def test_poison_goes_to_the_dead_letters_as_it_came_and_the_partition_goes_on(settings: KafkaSettings) -> None:
    """What can't be read keeps its bytes, key and headers; the tickets around it are answered."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    poison: list[tuple[bytes | None, bytes | None]] = [
        (b"\xff\x00key", b'{"ticket_id": "x"'),
        (b"tombstone", None),
        (None, b"\xff\xfe no text"),
        (b"deep", b"[" * 100_000),
    ]
    headers = [("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"), ("own", b"\x00\xff"), ("own", b"2")]
    async with running(stage(answer), settings):
        await write_tickets(servers, prefix, ["before"], partition=0)
        await write(servers, prefix + "tickets", poison, headers, partition=0)
        await write_tickets(servers, prefix, ["after"], partition=0)
        answers = await committed_records(servers, prefix + "answers", 2)
        dead = await committed_records(servers, prefix + "dead-letters", 4)
    assert sorted(r.key for r in answers) == [b"after", b"before"]
    assert sorted((r.key or b"", r.value or b"") for r in dead) == sorted((k or b"", v or b"") for k, v in poison)
    assert next(r for r in dead if r.key == b"tombstone").value is None
    for record in dead:
        assert list(record.headers[:3]) == headers
        assert dict(record.headers)["headgate-stage"] == b"router"
    assert (await group_offsets(servers, prefix))[0] == 6


async def write_nothing(servers: str, topic: str) -> None:
    """Publish a record with neither key nor value, and with a header without a value, as other clients can."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        batch = producer.create_batch()
        assert batch.append(key=None, value=None, timestamp=int(time.time() * 1000), headers=[("none", None)])
        batch.close()
        await producer.partitions_for(topic)
        await (await producer.send_batch(batch, topic, partition=0))


async def test_a_record_of_nothing_at_all_does_not_wedge_its_partition(settings: KafkaSettings) -> None:
    """aiokafka refuses to send a message with neither key nor value; one that came in still has to leave."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    await write_nothing(servers, prefix + "tickets")
    await write_tickets(servers, prefix, ["after"], partition=0)
    async with running(stage(answer), settings):
        dead = await committed_records(servers, prefix + "dead-letters", 1)
        answers = await committed_records(servers, prefix + "answers", 1)
    assert [(r.key, r.value) for r in dead] == [(b"", None)]
    assert dead[0].headers[0] == ("none", None)
    assert [r.key for r in answers] == [b"after"]


async def test_an_output_too_large_for_its_topic_does_not_wedge_its_partition(settings: KafkaSettings) -> None:
    """The ticket becomes a dead letter, since no attempt would ever send the output."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix

    async def swollen(record: Record[Ticket]) -> Done:
        done = answered(record)
        if record.value.ticket_id == "large":
            value = msgspec.structs.replace(record.value, body="x" * ANSWERS.max_message_bytes)
            return Done((Output(ANSWERS, "large", value),), done.event)
        return done

    async with running(stage(swollen), settings):
        await write_tickets(servers, prefix, ["large", "after"], partition=0)
        dead = await committed_records(servers, prefix + "dead-letters", 1)
        answers = await committed_records(servers, prefix + "answers", 1)
    assert [(r.key, r.value) for r in dead] == [(b"large", ticket("large"))]
    assert b"too large" in dict(dead[0].headers)["headgate-reason"]
    assert [r.key for r in answers] == [b"after"]


@pytest.mark.parametrize("over_bytes", [-2048, 2 << 20], ids=["as large as topics take", "compressed below the limit"])
async def test_poison_of_any_size_can_be_buried(settings: KafkaSettings, over_bytes: int) -> None:
    """The largest record still fits with the headers that say why it is dead; a larger one is cut, and says so."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    poison = b"x" * (ANSWERS.max_message_bytes + over_bytes)
    async with AIOKafkaProducer(
        bootstrap_servers=servers, max_request_size=8 << 20, compression_type="gzip"
    ) as producer:
        await producer.send_and_wait(prefix + "tickets", poison, key=b"k", partition=0)
    async with running(stage(answer), settings):
        dead = await committed_records(servers, prefix + "dead-letters", 1)
    (record,) = dead
    assert poison.startswith(record.value)
    assert (record.value == poison) == (over_bytes < 0)
    assert dict(record.headers).get("headgate-cut-from-bytes") == (
        str(len(poison)).encode() if over_bytes > 0 else None
    )


async def test_a_retryable_failure_is_tried_again_and_then_given_up(settings: KafkaSettings) -> None:
    """Attempts are bounded; a permanent failure and a bug get one."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    calls: list[str] = []

    async def failing(record: Record[Ticket]) -> Done:
        calls.append(record.value.ticket_id)
        match record.value.ticket_id, calls.count(record.value.ticket_id):
            case "busy", _:
                raise RetryableError("busy")
            case "rejected", _:
                raise PermanentError("rejected")
            case "bug", _:
                raise KeyError("the ticket's own words")
            case "recovers", 1:
                raise RetryableError("busy")
        return answered(record)

    limits = RetryLimits(attempts=3, first_delay_s=0.01)
    async with running(stage(failing, retry=limits), settings):
        await write_tickets(servers, prefix, ["busy", "rejected", "bug", "recovers"], partition=0)
        dead = {r.key: dict(r.headers) for r in await committed_records(servers, prefix + "dead-letters", 3)}
        answers = await committed_records(servers, prefix + "answers", 1)
    assert [r.key for r in answers] == [b"recovers"]
    assert {k.decode(): h["headgate-attempts"] for k, h in dead.items()} == {
        "busy": b"3",
        "rejected": b"1",
        "bug": b"1",
    }
    assert b"own words" not in b"".join(b"".join(h.values()) for h in dead.values())


async def test_a_stop_commits_what_is_in_flight(settings: KafkaSettings) -> None:
    """A stage told to stop finishes the batch that it has begun."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(record: Record[Ticket]) -> Done:
        begun.set()
        await go_on.wait()
        return answered(record)

    await write_tickets(servers, prefix, ["a"], partition=0)
    async with running(stage(slow), settings) as loop:
        await asyncio.wait_for(begun.wait(), 30)
        loop.stop()
        go_on.set()
    assert [r.key for r in await committed_records(servers, prefix + "answers", 1)] == [b"a"]
    assert (await group_offsets(servers, prefix))[0] == 1


async def test_work_that_outlasts_the_drain_time_is_left_undone(settings: KafkaSettings) -> None:
    """What is not finished in time is cancelled and not committed; whoever comes next does it."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    begun = asyncio.Event()

    async def endless(record: Record[Ticket]) -> Done:
        begun.set()
        await asyncio.Event().wait()
        return answered(record)

    await write_tickets(servers, prefix, ["a"], partition=0)
    async with running(stage(endless), settings.model_copy(update={"drain_s": 0.2})):
        await asyncio.wait_for(begun.wait(), 30)
    async with running(stage(answer), settings):
        assert [r.key for r in await committed_records(servers, prefix + "answers", 1)] == [b"a"]


async def test_a_stop_ends_a_stage_whose_broker_never_answers() -> None:
    """Joining may take long; a stop does not wait for it."""
    started = time.monotonic()
    async with raw_server(None) as broker:
        async with running(stage(answer), KafkaSettings(bootstrap_servers=f"127.0.0.1:{broker.port}")):
            await asyncio.wait_for(broker.met.wait(), 10)
        assert time.monotonic() - started < 15


async def test_a_partition_that_fails_to_open_leaves_nothing_behind(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends and the next one opens all partitions: no lane is left that nobody drains."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    made: list[AIOKafkaProducer] = []

    class FailsOnce(AIOKafkaProducer):  # type: ignore[misc]
        async def start(self) -> None:
            made.append(self)
            if len(made) == 1:
                raise KafkaError("no coordinator")
            await super().start()

    monkeypatch.setattr(delivery, "AIOKafkaProducer", FailsOnce)
    monkeypatch.setattr(runtime, "RECONNECT_S", (0.05, 0.1))
    await write_tickets(servers, prefix, ["a"], partition=0)
    await write_tickets(servers, prefix, ["b"], partition=1)
    async with running(stage(answer), settings):
        answers = await committed_records(servers, prefix + "answers", 2)
    assert sorted(r.key for r in answers) == [b"a", b"b"]
    assert all(producer._closed for producer in made)
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("router-")]


async def test_a_handler_that_cancels_itself_ends_the_stage(settings: KafkaSettings) -> None:
    """A partition whose work died by a stray cancellation must not fall silent."""

    async def cancelled(record: Record[Ticket]) -> Done:
        raise asyncio.CancelledError

    await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ["a"])
    with pytest.raises(RuntimeError, match="cancelled its own"):
        await asyncio.wait_for(StageLoop(stage(cancelled), settings).run(), 30)


async def test_a_spare_process_waits_ready_and_takes_over(settings: KafkaSettings) -> None:
    """More processes than partitions: the spare ones are members in good standing, and one steps in."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    loops = [StageLoop(stage(answer), settings) for _ in range(3)]
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    await until(lambda: all(loop.joined for loop in loops))
    for number, loop in enumerate(loops, 1):
        await write_tickets(servers, prefix, [f"a{number}"], partition=0)
        await write_tickets(servers, prefix, [f"b{number}"], partition=1)
        assert len(await committed_records(servers, prefix + "answers", 2 * number)) == 2 * number
        loop.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)


async def test_a_stage_without_partitions_learns_of_its_groups_errors(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka stops coordinating until somebody polls and takes the error; then the session is built anew."""
    told: list[TopicPartition] = []

    class FailsOnce(AIOKafkaConsumer):  # type: ignore[misc]
        async def getmany(self, *partitions: TopicPartition, **limits: Any) -> Any:
            if not told and partitions not in ((p,) for p in self.assignment()):
                told.extend(partitions)
                raise KafkaError("the group is broken")
            return await super().getmany(*partitions, **limits)

    monkeypatch.setattr(session, "AIOKafkaConsumer", FailsOnce)
    monkeypatch.setattr(runtime, "RECONNECT_S", (0.05, 0.1))
    async with running(stage(answer), settings) as loop:
        await until(lambda: bool(told))
        await until(lambda: loop.joined)
        await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ["a"])
        assert len(await committed_records(settings.bootstrap_servers, settings.topic_prefix + "answers", 1)) == 1


async def test_a_client_that_ends_with_a_stray_cancellation_is_closed() -> None:
    """aiokafka's consumer does so when its broker is gone; it must not read as the stage's own cancellation."""

    class Client:
        async def stop(self) -> None:
            raise asyncio.CancelledError

    await closing.closed(Client().stop)


async def test_a_rebalance_under_load_does_not_wait_for_idle_partitions(settings: KafkaSettings) -> None:
    """An idle partition's poll that other records wake up would wait for the assignment that waits for it."""
    servers, prefix = settings.bootstrap_servers, settings.topic_prefix
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(record: Record[Ticket]) -> Done:
        begun.set()
        await go_on.wait()
        return answered(record)

    patient = settings.model_copy(update={"drain_s": 30.0})
    async with running(stage(slow), patient) as first:
        await write_tickets(servers, prefix, [f"t{i}" for i in range(5)], partition=0)
        await asyncio.wait_for(begun.wait(), 30)
        async with running(stage(answer), patient) as second:
            # The first is asked to hand over; its partition 0 is busy, and partition 1 gets records to wake up for.
            await write_tickets(servers, prefix, [f"u{i}" for i in range(20)], partition=1)
            go_on.set()
            started = time.monotonic()
            await until(lambda: second.joined, 28)
            answers = await committed_records(servers, prefix + "answers", 25)
            assert time.monotonic() - started < 28
    assert len(answers) == 25
    assert first.joined
