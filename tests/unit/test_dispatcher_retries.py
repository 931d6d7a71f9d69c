"""What fails and may go better: back-offs that hold no slot and are bounded, and records parked out of the way."""

import time
from typing import Any

import pytest
from aiokafka import TopicPartition

from schemas.topics import RETRY
from streams.runtime import offsets
from streams.runtime.dispatcher import PARK_S
from streams.runtime.headers import Parked, parked_headers, read_parked
from streams.runtime.offsets import CommitPoint
from streams.runtime.seen import SeenTickets
from streams.runtime.stage import Origin
from tests.dispatching import (
    QUICK_RETRY,
    FakeDelivery,
    Process,
    Worker,
    duplicate,
    polled,
    processing,
    settled_down,
    until,
    worked_off,
)
from workers.errors import HeldError, RetryableError, WorkerDiedError
from workers.retry import RetryLimits

BUSY = RetryableError("busy")
ORIGIN = Origin("tickets", 3, 42)
RETRIES = TopicPartition("tickets" + RETRY, 0)


def parked(offset: int, name: str, *, due_s: float, attempts: int = 2) -> Any:
    """A record of the retry topic, as a poll returns it."""
    now_s = time.time()
    life = Parked(ORIGIN, written_s=now_s - 50, attempts=attempts, first_failed_s=now_s - 40, due_s=due_s)
    return polled(offset, name, RETRIES, headers=[("own", b"1"), *parked_headers(life, ())])


async def rests(process: Process, worker: Worker, name: str) -> None:
    """The call for that ticket fails, and its back-off begins."""
    worker.call_of(name).end(BUSY)
    await until(lambda: any(w.source.key == name.encode() for p in process.opened for w, _ in p.resting.values()))


async def test_a_back_off_holds_no_slot() -> None:
    """Others use it meanwhile, and the commit point waits."""
    worker = Worker()
    async with processing(worker, max_in_flight=2) as process:
        delivery = process.names(process.open(), "a", "b", "c")
        await until(lambda: worker.begun == ["a", "b"])
        await rests(process, worker, "a")
        await until(lambda: worker.begun == ["a", "b", "c"])
        for name in ("b", "c"):
            worker.call_of(name).end()
        await until(lambda: sorted(delivery.names()) == ["b", "c"])
        assert (delivery.point, process.slots) == (CommitPoint(0, 3, b"\x06"), 0)


async def test_a_record_comes_back_after_its_back_off() -> None:
    """Until it is done, or its attempts are used up; the tries are told."""
    worker = Worker()
    async with processing(worker, retry=QUICK_RETRY) as process:
        delivery = process.names(process.open(), "a", "b")
        for number in (2, 4, 6):
            await until(lambda number=number: len(worker.calls) == number)  # type: ignore[misc]
            worker.call_of("a").end(BUSY)
            worker.call_of("b").end(*([BUSY] if number < 6 else []))
        await until(lambda: bool(delivery.commits) and delivery.point == CommitPoint(2))
        (letter,) = [m for m in delivery.messages if m.topic_name == "dead-letters"]
        assert (letter.key, dict(letter.headers)["headgate-attempts"]) == (b"a", b"3")
        assert delivery.names() == ["b"]
        assert process.slots == 0


async def test_a_record_that_is_due_goes_before_new_ones() -> None:
    """It is the older one, and the commit point may be waiting for it."""
    worker = Worker()
    async with processing(worker, max_in_flight=2, retry=QUICK_RETRY) as process:
        partition = process.open()
        process.names(partition, *"abcde")
        await until(lambda: worker.begun == ["a", "b"])
        await rests(process, worker, "a")
        await until(lambda: worker.begun == ["a", "b", "c"] and not partition.resting)
        worker.call_of("b").end()
        await until(lambda: len(worker.begun) == 4)
        assert worker.begun == ["a", "b", "c", "a"]


async def test_records_in_a_back_off_are_bounded() -> None:
    """Unbounded retry queue: when everything fails, a process stops taking records, and does not hoard them."""
    worker = Worker()
    async with processing(worker, max_in_flight=4) as process:
        partition = process.open()
        process.poll(partition, *(polled(offset) for offset in range(50)))
        for _ in range(50):
            await settled_down()
            for call in worker.open:
                call.end(BUSY)
        assert 4 <= len(partition.resting) < 8
        assert len(partition.waiting) == 50 - len(partition.resting)


@pytest.fixture
def early_parking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions slow down, and park, at a distance of 6 records."""
    monkeypatch.setattr(offsets, "SLOW_FROM", 6)
    monkeypatch.setattr(offsets, "MAX_DISTANCE", 40)


async def parking(process: Process, worker: Worker, **memory: Any) -> FakeDelivery:
    """Of ten tickets the first fails, and its back-off goes on until it is in the way."""
    delivery = process.names(process.open(**memory), *"abcdefghij")
    await until(lambda: bool(worker.open))
    await rests(process, worker, "a")
    ((_, timer),) = process.opened[0].resting.values()
    await worked_off(worker, lambda: bool(delivery.names("tickets.retry")))
    assert timer.cancelled(), "it would come back here as well"
    return delivery


@pytest.mark.usefixtures("early_parking")
async def test_a_resting_record_that_blocks_the_commit_point_is_parked() -> None:
    """On the retry topic, with its life so far and a time when it is due; its own outputs are still to come."""
    worker, started_s = Worker(), time.time()
    async with processing(worker) as process:
        delivery = await parking(process, worker)
        await until(lambda: delivery.point.offset > 0)
        (message,) = [m for m in delivery.messages if m.topic_name == "tickets.retry"]
        life = read_parked(message.headers)
        assert life is not None
        assert (message.key, life.origin, life.attempts) == (b"a", Origin("tickets", 0, 0), 1)
        assert started_s <= life.first_failed_s <= time.time()
        assert life.due_s >= started_s + 500, "no earlier than its back-off would have ended"
        assert "a" not in delivery.names("answers") + delivery.names("events")
        await worked_off(worker, lambda: delivery.point == CommitPoint(10))
        assert (worker.begun, process.slots) == ([*"abcdefghij"], 0)


@pytest.mark.usefixtures("early_parking")
async def test_a_parked_record_rests_for_a_while_at_least() -> None:
    """However short its back-off was: the partition must get away from it."""
    worker, started_s = Worker(), time.time()
    brief = RetryLimits(attempts=9, age_s=1e6, first_delay_s=10.0, longest_delay_s=10.0)
    async with processing(worker, retry=brief) as process:
        delivery = await parking(process, worker)
        life = read_parked(next(m for m in delivery.messages if m.topic_name == "tickets.retry").headers)
        assert life is not None
        assert started_s + PARK_S <= life.due_s <= time.time() + PARK_S


@pytest.mark.usefixtures("early_parking")
async def test_a_parked_ticket_counts_as_taken_in() -> None:
    """It will be answered, so that its helpdesk's repeat is a duplicate; on the retry topic it is none of itself."""
    worker = Worker()
    seen = SeenTickets(window_s=3600.0, limit=100)
    limits: dict[str, Any] = {"identity": lambda t: t.ticket_id, "duplicate": duplicate}
    async with processing(worker, **limits) as process:
        delivery = await parking(process, worker, seen=seen)
        assert "a" in delivery.names("seen")
        process.names(process.opened[0], "a", first=10)
        await worked_off(worker, lambda: "a" in delivery.names("events"))
        again = process.open(twin=RETRY)
        its_delivery = process.poll(again, parked(0, "a", due_s=time.time() - 1))
        await until(lambda: worker.begun.count("a") == 2)
        worker.call_of("a").end()
        await until(lambda: its_delivery.names() == ["a"])


async def test_a_call_that_takes_long_is_not_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may end at any moment; parked, it would be paid for twice."""
    monkeypatch.setattr(offsets, "SLOW_FROM", 6)
    worker = Worker()
    async with processing(worker) as process:
        delivery = process.names(process.open(), *"abcdefghijklmn")
        for _ in range(10):
            await settled_down()
            for call in worker.open:
                if call.names != ["a"]:
                    call.end()
        assert delivery.point.offset == 0
        assert delivery.names("tickets.retry") == []


async def test_a_parked_record_waits_until_it_is_due() -> None:
    """And what stands behind it waits with it; then it begins by itself."""
    worker, due_s = Worker(), time.time() + 0.2
    async with processing(worker) as process:
        process.poll(process.open(twin=RETRY), parked(0, "a", due_s=due_s), parked(1, "b", due_s=due_s))
        await settled_down()
        assert worker.begun == []
        process.names(process.open(1), "live")
        await until(lambda: worker.begun == ["live", "a", "b"])
        assert time.time() >= due_s


async def test_a_parked_record_goes_on_with_its_life() -> None:
    """Its place, its time and its tries are those from before, whoever works on it now."""
    worker = Worker()
    limits = RetryLimits(attempts=4, age_s=1e6, first_delay_s=0.001)
    async with processing(worker, retry=limits) as process:
        delivery = process.poll(process.open(twin=RETRY), parked(0, "a", due_s=time.time() - 1))
        for number in (1, 2):
            await until(lambda number=number: len(worker.calls) == number)  # type: ignore[misc]
            (record,) = worker.calls[-1].records
            assert record.origin == ORIGIN
            assert 49 < time.time() - record.timestamp_s < 80
            worker.calls[-1].end(BUSY)
        await until(lambda: bool(delivery.commits))
        (letter,) = [m for m in delivery.messages if m.topic_name == "dead-letters"]
        headers = dict(letter.headers)
        assert (headers["headgate-attempts"], headers["headgate-origin"]) == (b"4", b"tickets/3/42")
        assert letter.headers[0] == ("own", b"1")
        assert delivery.point == CommitPoint(1), "which is a place on the retry topic"


async def test_a_parked_record_ages_from_its_first_failure() -> None:
    """Parking must not make a record immortal."""
    worker = Worker()
    async with processing(worker, retry=RetryLimits(attempts=99, age_s=30.0, first_delay_s=0.001)) as process:
        delivery = process.poll(process.open(twin=RETRY), parked(0, "a", due_s=time.time() - 1))
        await until(lambda: bool(worker.open))
        worker.call_of("a").end(BUSY)
        await until(lambda: delivery.names("dead-letters") == ["a"])


async def test_a_record_that_is_held_has_not_been_tried() -> None:
    """However often: where one attempt is all there is, it comes back, and is done as in its first try."""
    worker = Worker()
    async with processing(worker, retry=RetryLimits(attempts=1)) as process:
        delivery = process.names(process.open(), "a")
        for number in (1, 2, 3):
            await until(lambda number=number: len(worker.calls) == number)  # type: ignore[misc]
            worker.call_of("a").end(HeldError("no money", after_s=0.001))
        await until(lambda: len(worker.calls) == 4)
        worker.call_of("a").end()
        await until(lambda: delivery.names() == ["a"])
        assert process.slots == 0


async def test_a_long_hold_is_spent_on_the_retry_topic() -> None:
    """Many held tickets must not keep others from beginning: they are parked until they are due."""
    worker, started_s = Worker(), time.time()
    async with processing(worker, max_in_flight=2) as process:
        delivery = process.names(process.open(), *"abcdef")
        await worked_off(worker, lambda: len(delivery.names("tickets.retry")) == 6, HeldError("no money", 600.0))
        lives = [read_parked(m.headers) for m in delivery.messages if m.topic_name == "tickets.retry"]
        assert all(life and life.attempts == 0 and life.due_s >= started_s + 600 for life in lives)
        process.names(process.opened[0], "g", first=6)
        await worked_off(worker, lambda: delivery.names() == ["g"])


async def test_a_dead_worker_ends_the_process_and_fails_no_record() -> None:
    """Its supervisor starts it again, and the record is done then."""
    worker = Worker()
    async with processing(worker) as process:
        delivery = process.names(process.open(), "a")
        await until(lambda: bool(worker.open))
        worker.call_of("a").ended.set_exception(WorkerDiedError("the engine is dead"))
        await until(lambda: bool(process.failures))
        assert isinstance(process.failures[0], WorkerDiedError)
        assert delivery.commits == []
