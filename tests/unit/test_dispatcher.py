"""What begins and what is committed: slots, bytes, batches, completion in any order, and a handler's own bugs."""

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka.errors import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tickets import Ticket
from streams.runtime import partition
from streams.runtime.offsets import CommitPoint
from streams.runtime.seen import SeenTickets
from streams.runtime.stage import Done, Record
from streams.settings import KafkaSettings
from tests.dispatching import QUICK_RETRY, Worker, polled, processing, settled_down, until, worked_off
from tests.kafka import ticket
from workers.errors import PermanentError, RetryableError


async def test_a_slot_is_free_only_when_its_commit_is_through() -> None:
    """Slots bound what a crash does again, so a finished call that is not committed still holds one."""
    worker = Worker()
    async with processing(worker, max_in_flight=4) as process:
        delivery = process.names(process.open(), *"abcdefg")
        delivery.flowing.clear()
        await until(lambda: worker.begun == [*"abcd"])
        worker.call_of("b").end()
        worker.call_of("c").end()
        await settled_down()
        assert (worker.begun, process.slots) == ([*"abcd"], 4)
        delivery.flowing.set()
        await until(lambda: worker.begun == [*"abcdef"])
        assert process.slots == 4


async def test_a_process_holds_no_more_bytes_than_it_may() -> None:
    """Of the records that it works on; a single one that is larger than that is worked on by itself."""
    worker, size_bytes = Worker(), len(ticket("a"))
    async with processing(worker, settings=KafkaSettings(max_in_flight_bytes=2 * size_bytes - 1)) as process:
        delivery = process.poll(
            process.open(), polled(0, value=ticket("0", "long " * size_bytes)), polled(1), polled(2)
        )
        process.names(process.open(1), "x", "y")
        await settled_down()
        assert len(worker.begun) == 1
        worker.open[0].end()
        await until(lambda: len(delivery.commits) == 1)
        await settled_down()
        assert len(worker.begun) == 3


async def test_a_batch_holds_no_more_bytes_than_a_process_may() -> None:
    """The bound counts while a batch fills: 32 of the largest tickets at once would be half of the default limit."""
    worker, size_bytes = Worker(), len(ticket("a"))
    limit = KafkaSettings(max_in_flight_bytes=3 * size_bytes)
    async with processing(worker, settings=limit, batch_size=8, max_in_flight=8) as process:
        process.names(process.open(), *"abcdefgh")
        await until(lambda: bool(worker.calls))
        assert worker.calls[0].names == ["a", "b", "c"]


async def test_a_batch_is_of_one_partition_as_far_as_that_goes() -> None:
    """So that its records share a commit; what is missing at its end is filled up from the next."""
    worker = Worker()
    async with processing(worker, batch_size=3, max_in_flight=12) as process:
        a, b = process.open(0), process.open(1)
        records = {p.id: [polled(i, f"{name}{i}", p.id) for i in range(4)] for p, name in ((a, "a"), (b, "b"))}
        process.dispatcher.arrived(records)
        await until(lambda: len(worker.begun) == 8)
        assert [len(call.names) for call in worker.calls] == [3, 3, 2]
        assert [len({name[0] for name in call.names}) for call in worker.calls].count(2) == 1


async def test_partitions_take_turns() -> None:
    """A batch each: one with much waiting does not keep the others from beginning."""
    worker = Worker()
    async with processing(worker, batch_size=2, max_in_flight=4) as process:
        a, b = process.open(0), process.open(1)
        records = {p.id: [polled(i, f"{name}{i}", p.id) for i in range(9)] for p, name in ((a, "a"), (b, "b"))}
        process.dispatcher.arrived(records)
        await until(lambda: len(worker.begun) == 4)
        assert worker.begun == ["a0", "a1", "b0", "b1"]


async def test_few_calls_at_a_time_so_that_batches_fill_up() -> None:
    """Records that come one by one don't each become a call: past the first calls they gather."""
    worker = Worker()
    async with processing(worker, batch_size=4, max_in_flight=8) as process:
        owned = process.open()
        for offset, name in enumerate("abcdef"):
            process.names(owned, name, first=offset)
            await settled_down()
        assert [call.names for call in worker.calls] == [["a"], ["b"]]
        worker.call_of("a").end()
        await until(lambda: len(worker.calls) == 3)
        assert worker.calls[2].names == ["c", "d", "e", "f"]


async def test_completion_out_of_order_commits_a_prefix_and_marks() -> None:
    """Each result with the commit that marks it, and the prefix as soon as it is whole."""
    worker = Worker()
    async with processing(worker) as process:
        delivery = process.names(process.open(), *"abcd")
        await until(lambda: len(worker.calls) == 4)
        for name, point in (
            ("c", CommitPoint(0, 4, b"\x04")),
            ("a", CommitPoint(1, 3, b"\x02")),
            ("b", CommitPoint(3, 1)),
            ("d", CommitPoint(4)),
        ):
            worker.call_of(name).end()
            await until(lambda name=name: name in delivery.names())  # type: ignore[misc]
            assert delivery.point == point
        assert delivery.names() == [*"cabd"]


async def test_a_result_that_comes_during_a_commit_belongs_to_the_next() -> None:
    """Dirty read at commit: a point never counts a record whose outputs are not in its own or an earlier commit."""
    worker = Worker()
    async with processing(worker) as process:
        delivery = process.names(process.open(), "a", "b")
        delivery.flowing.clear()
        await until(lambda: len(worker.calls) == 2)
        worker.call_of("b").end()
        await until(lambda: delivery.begun == 1)
        worker.call_of("a").end()
        await settled_down()
        assert delivery.begun == 1, "commits follow one another"
        delivery.flowing.set()
        await until(lambda: len(delivery.commits) == 2)
        assert [point for _, point in delivery.commits] == [CommitPoint(0, 2, b"\x02"), CommitPoint(2)]
        assert delivery.names() == ["b", "a"]


@pytest.mark.parametrize(("limit", "value"), [("COMMIT_RECORDS", 2), ("COMMIT_BYTES", 2 * len(ticket("a")))])
async def test_a_commit_is_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """What has finished beyond it follows in the next one, and is not counted before."""
    monkeypatch.setattr(partition, limit, value)
    worker = Worker()
    async with processing(worker, max_in_flight=8) as process:
        delivery = process.names(process.open(), *"abcdef")
        delivery.flowing.clear()
        await until(lambda: len(worker.open) == 6)
        for name in "abcdef":
            worker.call_of(name).end()
        await settled_down()
        delivery.flowing.set()
        await until(lambda: bool(delivery.commits) and delivery.point == CommitPoint(6))
        assert delivery.names() == [*"abcdef"]
        done = 0
        for messages, point in delivery.commits:
            answers = [m for m in messages if m.topic_name == "answers"]
            assert len(answers) <= 2
            done += len(answers)
            assert point.offset == done


async def test_a_commit_that_fails_ends_the_session_and_frees_nothing() -> None:
    """The messages may or may not have arrived: only a new owner's fence settles it, so nothing follows it here."""
    worker = Worker()
    async with processing(worker) as process:
        owned = process.open()
        delivery = process.names(owned, *"abcdef")
        delivery.error = KafkaError("away")
        await until(lambda: len(worker.calls) == 4)
        worker.call_of("a").end()
        await until(lambda: process.failures == [delivery.error])
        worker.call_of("b").end()
        await settled_down()
        assert (delivery.begun, delivery.commits, process.slots) == (1, [], 4)
        assert len(worker.begun) == 4
        process.revoke(owned)
        assert process.slots == 2, "the finished are dropped, the others still run"


async def test_poison_is_buried_without_a_call() -> None:
    """It takes its turn and its slot as everything does, and the partition goes on."""
    worker = Worker()
    async with processing(worker, batch_size=2, max_in_flight=2) as process:
        owned = process.open()
        delivery = process.poll(owned, polled(0, value=b"junk"), polled(1, "a"), polled(2, value=b"\xff"))
        await until(lambda: bool(worker.open))
        worker.call_of("a").end()
        await until(lambda: delivery.commits != [] and delivery.point == CommitPoint(3))
        assert [m.value for m in delivery.messages if m.topic_name == "dead-letters"] == [b"junk", b"\xff"]
        assert worker.begun == ["a"]
        await until(lambda: process.slots == 0)


@pytest.mark.parametrize("results", [0, 1, 3])
async def test_a_handler_with_another_number_of_results_ends_the_session(results: int) -> None:
    """A bug of ours: nothing of that call is committed."""
    worker = Worker()
    async with processing(worker, batch_size=2) as process:
        delivery = process.names(process.open(), "a", "b")
        await until(lambda: bool(worker.open))
        worker.calls[0].ended.set_result([PermanentError("no")] * results)
        await until(lambda: bool(process.failures))
        await settled_down()
        assert f"returned {results} results for 2 records" in str(process.failures[0])
        assert delivery.commits == []


async def test_a_handler_that_cancels_its_own_call_ends_the_session() -> None:
    """Nobody asked for it, so it is a bug and no drain; its record stays unfinished."""
    worker = Worker()
    async with processing(worker) as process:
        delivery = process.names(process.open(), "a")
        await until(lambda: bool(worker.open))
        worker.calls[0].ended.cancel()
        await until(lambda: bool(process.failures))
        assert "cancelled its own call" in str(process.failures[0])
        assert (delivery.commits, process.slots) == ([], 0)


async def test_a_bug_of_a_stage_ends_the_session_whenever_it_is_met() -> None:
    """Also where no call is running: a record that has begun and is in nobody's hands would hold its partition for
    ever, and nobody would know."""
    worker, seen = Worker(), SeenTickets(window_s=3600.0, limit=10)

    def duplicate(record: Record[Ticket]) -> Done:
        raise ValueError("a bug")

    async with processing(worker, identity=lambda t: t.ticket_id, duplicate=duplicate) as process:
        process.names(process.open(seen=seen), "a", "a")
        await until(lambda: bool(worker.open))
        worker.call_of("a").end()
        await settled_down()
        assert [str(error) for error in process.failures] == ["a bug"]
        process.unhandled.clear()


@given(st.integers(1, 4), st.integers(1, 6), st.lists(st.integers(0, 999), min_size=150, max_size=150))
@settings(max_examples=40, deadline=None)
def test_whatever_happens_every_record_is_settled_once_and_slots_are_kept(
    batch_size: int, max_in_flight: int, choices: list[int]
) -> None:
    """Calls end in any order and in any way while commits are slow, and two partitions share the slots."""
    asyncio.run(_random_history(batch_size, max_in_flight, iter(choices)))


async def _random_history(batch_size: int, max_in_flight: int, choices: Iterator[int]) -> None:
    worker = Worker()
    async with processing(worker, batch_size=batch_size, max_in_flight=max_in_flight, retry=QUICK_RETRY) as process:
        partitions = [process.open(number) for number in range(2)]
        deliveries = [process.poll(p, *(polled(o, "", p.id) for o in range(0, 24, 2))) for p in partitions]
        for choice in choices:
            if choice % 5 == 0:
                delivery = deliveries[choice % 2]
                (delivery.flowing.clear if delivery.flowing.is_set() else delivery.flowing.set)()
            elif worker.open:
                call = worker.open[choice % len(worker.open)]
                kinds = (None, None, RetryableError("busy"), PermanentError("no"))
                kind = kinds[choice % 4]
                call.end(*([kind] * len(call.names) if kind else []))
            for _ in range(choice % 7):
                await asyncio.sleep(0)
            assert process.slots <= max_in_flight
        for delivery in deliveries:
            delivery.flowing.set()
        await worked_off(worker, lambda: all(d.commits and d.point == CommitPoint(23) for d in deliveries))
        for delivery in deliveries:
            settled = delivery.names() + delivery.names("dead-letters")
            assert sorted(settled, key=int) == [str(o) for o in range(0, 24, 2)]
            assert [p.offset for _, p in delivery.commits] == sorted(p.offset for _, p in delivery.commits)
        assert (process.slots, process.failures) == (0, [])
