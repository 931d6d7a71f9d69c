"""Partitions that go: nothing new begins, what runs may finish, and what comes too late touches nobody else."""

import pytest

from streams.runtime.offsets import CommitPoint
from tests.dispatching import QUICK_RETRY, Worker, polled, processing, settled_down, until, worked_off
from workers.errors import RetryableError


async def test_a_partition_that_leaves_begins_nothing_and_commits_what_runs() -> None:
    """Draining: its results still count, its waiting records are whoever's who comes next."""
    worker = Worker()
    async with processing(worker, max_in_flight=2) as process:
        partition = process.open()
        delivery = process.names(partition, *"abcd")
        await until(lambda: worker.begun == ["a", "b"])
        process.dispatcher.leave([partition])
        worker.call_of("b").end()
        process.names(partition, *"cdef", first=2)
        assert not partition.waiting
        await until(lambda: delivery.names() == ["b"])
        assert delivery.point == CommitPoint(0, 2, b"\x02")
        assert not partition.quiet
        worker.call_of("a").end()
        await until(lambda: partition.quiet)
        assert (worker.begun, delivery.point) == (["a", "b"], CommitPoint(2))
        assert process.slots == 0


async def test_while_one_partition_drains_the_others_are_fetched_and_worked_on() -> None:
    """A draining consumer stops polling: it must not, or the partitions that it keeps stand still."""
    worker = Worker()
    async with processing(worker) as process:
        leaving, staying = process.open(0), process.open(1)
        process.names(leaving, "a")
        await until(lambda: worker.begun == ["a"])
        process.dispatcher.leave([leaving])
        assert process.dispatcher.wanted() == [staying.id]
        delivery = process.names(staying, "b")
        await until(lambda: worker.begun == ["a", "b"])
        worker.call_of("b").end()
        await until(lambda: delivery.names() == ["b"])


async def test_a_partition_that_leaves_forgets_its_back_offs() -> None:
    """They are tried again by whoever comes next, and hold nothing back here meanwhile."""
    worker = Worker()
    async with processing(worker, max_in_flight=4, retry=QUICK_RETRY, identity=lambda t: t.ticket_id) as process:
        leaving, staying = process.open(0), process.open(1)
        process.names(leaving, "a", "b", "c", "a", "a", "a")
        await until(lambda: worker.begun == [*"abc"])
        worker.call_of("a").end(RetryableError("busy"))
        await until(lambda: bool(leaving.resting))
        process.dispatcher.leave([leaving])
        worker.call_of("b").end(RetryableError("busy"))
        worker.call_of("c").end()
        await until(lambda: leaving.quiet)
        assert not leaving.resting
        process.names(staying, *"efghi")
        await until(lambda: worker.begun[3:] == [*"efgh"])
        for name in "fgh":
            worker.call_of(name).end()
        for tries in (2, 3):
            worker.call_of("e").end(RetryableError("busy"))
            await until(lambda tries=tries: worker.begun.count("e") == tries)  # type: ignore[misc]
        assert process.failures == []


@pytest.mark.parametrize(("names", "results"), [("abcd", [RetryableError("busy")]), ("aaaaa", [])])
async def test_what_a_partition_had_set_aside_does_not_count_after_it_left(
    names: str, results: list[RetryableError]
) -> None:
    """Records in a back-off, and records behind their identity: as many as there may be, and then none."""
    worker = Worker()
    async with processing(worker, max_in_flight=4, identity=lambda t: t.ticket_id) as process:
        leaving, staying = process.open(0), process.open(1)
        process.names(leaving, *names)
        await until(lambda: {*worker.begun} == {*names})
        for call in worker.open if results else ():
            call.end(*results)
        await settled_down()
        assert len(leaving.resting) + sum(map(len, leaving.behind.values())) == 4
        process.dispatcher.leave([leaving])
        await worked_off(worker, lambda: leaving.quiet)
        process.names(staying, *"efgh")
        await until(lambda: sorted(worker.begun[-4:]) == [*"efgh"])


async def test_a_record_whose_back_off_is_over_does_not_begin_for_a_partition_that_left() -> None:
    """It was waiting for a slot when its partition left; the slot goes to somebody else."""
    worker = Worker()
    async with processing(worker, max_in_flight=2, retry=QUICK_RETRY) as process:
        leaving, staying = process.open(0), process.open(1)
        process.names(leaving, *"abc")
        await until(lambda: worker.begun == ["a", "b"])
        worker.call_of("a").end(RetryableError("busy"))
        await until(lambda: worker.begun == [*"abc"] and not leaving.resting)
        process.dispatcher.leave([leaving])
        process.names(staying, *"xyz")
        worker.call_of("b").end()
        worker.call_of("c").end()
        await until(lambda: worker.begun == [*"abcxy"])
        assert process.slots == 2


async def test_a_result_of_an_earlier_assignment_is_dropped() -> None:
    """Stale work after a re-assignment: neither does it swallow the fresh record, nor is it committed for it."""
    worker = Worker()
    async with processing(worker) as process:
        first = process.open()
        process.names(first, "a", "b")
        await until(lambda: worker.begun == ["a", "b"])
        process.revoke(first)
        second = process.open()
        delivery = process.names(second, "a", "b")
        await until(lambda: worker.begun == ["a", "b", "a", "b"])
        stale, fresh = worker.calls[0], worker.calls[2]
        stale.end()
        await settled_down()
        assert (delivery.commits, process.slots, len(second.offsets)) == ([], 3, 2)
        fresh.end()
        await until(lambda: delivery.names() == ["a"])
        assert delivery.point == CommitPoint(1, 1)
        worker.calls[1].end(RetryableError("busy"))
        worker.calls[3].end()
        await until(lambda: delivery.point == CommitPoint(2))
        assert (process.slots, process.failures) == (0, [])
        assert process.deliveries[first].commits == []


async def test_records_of_a_partition_that_is_not_ours_are_nobodys() -> None:
    """A poll that was on its way when the partition went."""
    worker = Worker()
    async with processing(worker) as process:
        partition = process.open()
        process.revoke(partition)
        process.names(partition, "a")
        await settled_down()
        assert (worker.begun, process.dispatcher.wanted()) == ([], [])


async def test_results_that_were_not_committed_when_the_partition_closed_free_their_slots() -> None:
    """Also those whose commit was on its way: the next owner finds out whether it came through."""
    worker = Worker()
    async with processing(worker) as process:
        partition = process.open()
        delivery = process.names(partition, *"abc")
        await until(lambda: len(worker.begun) == 3)
        delivery.flowing.clear()
        worker.call_of("a").end()
        await until(lambda: delivery.begun == 1)
        worker.call_of("b").end()
        await settled_down()
        process.revoke(partition)
        assert process.slots == 1
        delivery.flowing.set()
        worker.call_of("c").end()
        await until(lambda: process.slots == 0)
        await until(partition.task.done)
        assert (delivery.commits, process.failures) == ([], [])


async def test_only_calls_for_nobody_else_are_cancelled() -> None:
    """A call that also works for a partition that stays goes on, and only the other's result is dropped."""
    worker = Worker()
    async with processing(worker, batch_size=2, max_in_flight=8) as process:
        leaving, staying = process.open(0), process.open(1)
        process.dispatcher.arrived(
            {
                leaving.id: [polled(o, f"leaving{o}", leaving.id) for o in range(3)],
                staying.id: [polled(0, "staying", staying.id)],
            }
        )
        await until(lambda: len(worker.calls) == 2)
        whole, mixed = worker.calls
        assert (whole.names, set(mixed.names)) == (["leaving0", "leaving1"], {"leaving2", "staying"})
        process.dispatcher.leave([leaving])
        process.dispatcher.cancel_calls([leaving])
        await until(lambda: whole.cancelled)
        await settled_down()
        assert (process.slots, leaving.in_flight, mixed.cancelled) == (2, 1, False)
        process.revoke(leaving)
        mixed.end()
        await until(lambda: process.deliveries[staying].names() == ["staying"])
        assert process.deliveries[leaving].commits == []
        assert (process.slots, process.failures) == (0, [])
