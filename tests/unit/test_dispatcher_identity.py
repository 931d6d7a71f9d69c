"""Records about the same thing: one at a time in their order, and the ones that a helpdesk repeats answered once."""

from typing import Any

from aiokafka import TopicPartition

from schemas.codec import encode
from schemas.tickets import Ticket
from schemas.topics import BACKFILL
from streams.runtime.headers import REPLAY_ID, REQUEUE_OF
from streams.runtime.offsets import CommitPoint
from streams.runtime.seen import SeenTickets, _remember, mark
from tests.dispatching import (
    QUICK_RETRY,
    FakeDelivery,
    Process,
    Worker,
    done,
    duplicate,
    polled,
    processing,
    settled_down,
    until,
)
from workers.errors import PermanentError, RetryableError


def by_id(ticket: Ticket) -> str:
    return ticket.ticket_id


ORDERED: dict[str, Any] = {"identity": by_id}
ONCE: dict[str, Any] = {"identity": by_id, "duplicate": duplicate}


def memory() -> SeenTickets:
    return SeenTickets(window_s=3600.0, limit=100)


def answered(delivery: FakeDelivery) -> list[str]:
    return delivery.names("answers")


async def all_settled(process: Process, delivery: FakeDelivery, end: int) -> None:
    await until(lambda: bool(delivery.commits) and delivery.point == CommitPoint(end))
    assert (process.slots, process.failures) == (0, [])


async def test_records_of_one_identity_are_worked_on_one_at_a_time() -> None:
    """In their order, while those of others pass by; the next begins when the one before it has its result."""
    worker = Worker()
    async with processing(worker, max_in_flight=8, **ORDERED) as process:
        delivery = process.names(process.open(), "a", "a", "b", "a")
        await until(lambda: worker.begun == ["a", "b"])
        for begun in (["a", "b", "a"], ["a", "b", "a", "a"]):
            await settled_down()
            worker.call_of("a").end()
            await until(lambda begun=begun: worker.begun == begun)  # type: ignore[misc]
        offsets = [call.records[0].origin.offset for call in worker.calls]
        assert offsets == [0, 2, 1, 3]
        worker.call_of("a").end()
        worker.call_of("b").end()
        await all_settled(process, delivery, 4)


async def test_a_record_that_is_tried_again_keeps_its_place() -> None:
    """A back-off is no gap to slip through: what is behind it waits until it has its result."""
    worker = Worker()
    async with processing(worker, retry=QUICK_RETRY, **ORDERED) as process:
        delivery = process.names(process.open(), "a", "a")
        for call in range(3):
            await until(lambda call=call: len(worker.calls) == call + 1)  # type: ignore[misc]
            assert worker.calls[call].records[0].origin.offset == 0
            worker.calls[call].end(RetryableError("busy"))
        await until(lambda: len(worker.calls) == 4)
        assert worker.calls[3].records[0].origin.offset == 1
        worker.calls[3].end()
        await all_settled(process, delivery, 2)
        assert (delivery.names("dead-letters"), answered(delivery)) == (["a"], ["a"])


async def test_one_batch_has_one_record_of_an_identity() -> None:
    """The second of them may depend on what becomes of the first."""
    worker = Worker()
    async with processing(worker, batch_size=4, max_in_flight=8, **ORDERED) as process:
        process.names(process.open(), "a", "a", "b")
        await until(lambda: bool(worker.calls))
        assert worker.calls[0].names == ["a", "b"]


async def test_identities_are_a_partitions_own() -> None:
    """Another partition may be another process's, so that nothing could be promised over both."""
    worker = Worker()
    async with processing(worker, **ORDERED) as process:
        for number in range(2):
            process.names(process.open(number), "a")
        await until(lambda: worker.begun == ["a", "a"])


async def test_a_ticket_that_is_repeated_while_it_is_worked_on_is_answered_once() -> None:
    """The repeats wait for its result, and then are duplicates: an event each, no call and no answer."""
    worker = Worker()
    async with processing(worker, max_in_flight=8, **ONCE) as process:
        delivery = process.names(process.open(seen=memory()), "a", "b", "a", "a")
        await until(lambda: worker.begun == ["a", "b"])
        worker.call_of("a").end()
        worker.call_of("b").end()
        await all_settled(process, delivery, 4)
        assert (worker.begun, answered(delivery)) == (["a", "b"], ["a", "b"])
        assert sorted(delivery.names("events")) == ["a", "a", "a", "b"]
        assert delivery.names("seen") == ["a", "b"], "a repeat does not make the window longer"


async def test_a_ticket_that_was_taken_in_by_a_former_owner_is_not_answered_again() -> None:
    """Within the window; a ticket from after it is a new one."""
    worker, seen = Worker(), memory()
    seen.add("a", 10_000.0)
    async with processing(worker, **ONCE) as process:
        repeat, later = polled(0, "a", written_s=10_100.0), polled(1, "a", written_s=14_000.0)
        delivery = process.poll(process.open(seen=seen), repeat, later)
        await until(lambda: len(worker.calls) == 1)
        assert worker.calls[0].records[0].origin.offset == 1
        worker.calls[0].end()
        await all_settled(process, delivery, 2)
        assert answered(delivery) == ["a"]


async def test_a_ticket_that_was_given_up_is_not_taken_in() -> None:
    """Its repeat is the customer's second chance, and no duplicate."""
    worker = Worker()
    async with processing(worker, **ONCE) as process:
        delivery = process.names(process.open(seen=memory()), "a", "a", "a")
        await until(lambda: len(worker.calls) == 1)
        worker.calls[0].end(PermanentError("rejected"))
        await until(lambda: len(worker.calls) == 2)
        worker.calls[1].end()
        await all_settled(process, delivery, 3)
        assert (delivery.names("dead-letters"), answered(delivery), len(worker.calls)) == (["a"], ["a"], 2)


async def test_a_ticket_whose_answer_no_topic_takes_is_not_taken_in() -> None:
    """It became a dead letter like any other, so its repeat is no duplicate."""
    worker, partition_memory = Worker(), memory()
    async with processing(worker, **ONCE) as process:
        partition = process.open(seen=partition_memory)
        delivery = process.names(partition, "a")
        await until(lambda: len(worker.calls) == 1)
        worker.calls[0].end(done(worker.calls[0].records[0], body="x" * (5 << 20)))
        await all_settled(process, delivery, 1)
        assert (delivery.names("dead-letters"), delivery.names("seen")) == (["a"], [])
        process.names(partition, "a", first=1)
        await settled_down()
        assert len(worker.calls) == 2


async def test_a_requeued_ticket_is_done_again() -> None:
    """An operator asked for it. It is remembered like any other: a helpdesk's repeat of it is a duplicate."""
    worker, seen = Worker(), memory()
    seen.add("a", 10_000.0)
    async with processing(worker, **ONCE) as process:
        requeued = polled(0, "a", written_s=10_100.0, headers=[(REQUEUE_OF, b"0/7")])
        delivery = process.poll(process.open(seen=seen), requeued, polled(1, "a", written_s=10_200.0))
        await until(lambda: len(worker.calls) == 1)
        assert worker.calls[0].records[0].origin.offset == 0
        worker.calls[0].end()
        await all_settled(process, delivery, 2)
        assert (len(worker.calls), delivery.names("seen")) == (1, ["a"])


async def test_a_backfilled_ticket_is_done_again_on_the_slow_lane_only() -> None:
    """A backfill takes care by itself; a helpdesk that writes its header on a live ticket gains nothing."""
    header = [(REPLAY_ID, b"b-1")]
    for twin, answers in ((BACKFILL, ["a"]), ("", [])):
        worker, seen, at = Worker(), memory(), TopicPartition("tickets" + twin, 0)
        seen.add("a", 10_000.0)
        async with processing(worker, **ONCE) as process:
            record = polled(0, "a", at, written_s=10_100.0, headers=header)
            delivery = process.poll(process.open(twin=twin, seen=seen), record)
            await until(lambda worker=worker, delivery=delivery: bool(worker.calls or delivery.commits))  # type: ignore[misc]
            for call in worker.calls:
                call.end()
            await all_settled(process, delivery, 1)
            assert answered(delivery) == answers


async def test_without_a_memory_nothing_is_a_duplicate() -> None:
    """As where the window is set to 0; the order is kept all the same."""
    worker = Worker()
    async with processing(worker, **ONCE) as process:
        delivery = process.names(process.open(), "a", "a")
        for number in range(2):
            await until(lambda number=number: len(worker.calls) == number + 1)  # type: ignore[misc]
            worker.calls[number].end()
        await all_settled(process, delivery, 2)
        assert answered(delivery) == ["a", "a"]


async def test_a_ticket_is_no_duplicate_of_itself() -> None:
    """At least once: a crash after the mark arrived and before the answer did must not lose the answer. The mark says
    which record it is of, and that one is done again."""
    worker, seen = Worker(), memory()
    _remember(seen, b"a", encode(mark(10_000.0, "tickets/0/0")))
    async with processing(worker, **ONCE) as process:
        redone, repeat = (polled(offset, "a", written_s=10_000.0) for offset in (0, 1))
        delivery = process.poll(process.open(seen=seen, start=CommitPoint(0, 1)), redone, repeat)
        await settled_down()
        assert [call.records[0].origin.offset for call in worker.calls] == [0]
        worker.calls[0].end()
        await all_settled(process, delivery, 2)
        assert answered(delivery) == ["a"]


async def test_duplicates_take_no_more_slots_than_there_are() -> None:
    """Many repeats behind one ticket are free at once; what a crash does again stays within its bound."""
    worker = Worker()
    async with processing(worker, max_in_flight=4, **ONCE) as process:
        delivery = process.names(process.open(seen=memory()), *(["a"] * 12))
        await until(lambda: worker.begun == ["a"])
        delivery.flowing.clear()
        worker.call_of("a").end()
        await until(lambda: delivery.begun == 1)
        await settled_down()
        assert process.slots <= 4
        delivery.flowing.set()
        await all_settled(process, delivery, 12)
        assert answered(delivery) == ["a"]
