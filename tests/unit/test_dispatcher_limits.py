"""When a partition gets no more: the worker is saturated, much waits already, or its metadata would not hold it."""

import pytest

from streams.runtime import offset_metadata, offsets, partition
from streams.runtime.offsets import CommitPoint
from streams.runtime.partition import FETCH_AHEAD
from tests.dispatching import Worker, polled, processing, settled_down, until, worked_off
from tests.kafka import ticket


async def test_a_saturated_worker_gets_nothing_until_it_is_ready_again() -> None:
    """Its partitions stop being fetched; what it has goes on; and it is asked again though nothing else happens."""
    worker, saturated = Worker(), False
    async with processing(worker, saturated=lambda: saturated) as process:
        owned = process.open()
        delivery = process.names(owned, "a")
        await until(lambda: worker.begun == ["a"])
        saturated = True
        process.poll(owned, *(polled(offset) for offset in range(1, FETCH_AHEAD + 1)))
        worker.call_of("a").end()
        await until(lambda: len(delivery.commits) == 1)
        await settled_down()
        assert (worker.begun, process.dispatcher.wanted()) == (["a"], [])
        process.dispatcher.fetch_wanted.clear()
        saturated = False
        await until(lambda: len(worker.begun) == 5)
        assert process.dispatcher.wanted() == [owned.id]
        assert process.dispatcher.fetch_wanted.is_set()


async def test_fetching_stops_for_a_partition_with_much_waiting_and_goes_on_when_it_has_room() -> None:
    """Whoever fetches is told, so that the room is used at once."""
    worker = Worker()
    async with processing(worker) as process:
        full, empty = process.open(0), process.open(1)
        process.poll(full, *(polled(offset) for offset in range(FETCH_AHEAD + 4)))
        assert process.dispatcher.wanted() == [empty.id]
        process.dispatcher.fetch_wanted.clear()
        await until(lambda: len(worker.begun) == 4)
        worker.call_of("0").end()
        await until(process.dispatcher.fetch_wanted.is_set)
        assert sorted(process.dispatcher.wanted()) == sorted([full.id, empty.id])


async def test_fetching_is_bounded_by_bytes_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what waits now: what has begun makes room."""
    monkeypatch.setattr(partition, "FETCH_AHEAD_BYTES", 3 * len(ticket("a")))
    worker = Worker()
    async with processing(worker, max_in_flight=4) as process:
        owned = process.open()
        for round_ in range(3):
            process.names(owned, *"abcdefg", first=10 * round_)
            assert process.dispatcher.wanted() == []
            for call in worker.open:
                call.end()
            await until(lambda round_=round_: len(worker.begun) >= 4 + 4 * round_)  # type: ignore[misc]
            await worked_off(worker, lambda: not owned.waiting)
            assert process.dispatcher.wanted() == [owned.id]


@pytest.mark.parametrize("batch_size", [1, 8])
async def test_the_distance_from_the_oldest_to_the_newest_is_bounded(
    monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """A record that takes for ever stops its partition in the end, and no other."""
    monkeypatch.setattr(offsets, "MAX_DISTANCE", 20)
    monkeypatch.setattr(offsets, "SLOW_FROM", 15)
    worker = Worker()
    async with processing(worker, batch_size=batch_size, max_in_flight=4 * batch_size) as process:
        owned = process.open()
        process.poll(owned, polled(0))
        process.poll(owned, *(polled(offset) for offset in range(1, 40)))
        for _ in range(40):
            await settled_down()
            for call in worker.open:
                if call.names != ["0"]:
                    call.end()
        assert 15 <= owned.offsets.distance <= 20
        assert worker.open[0].names == ["0"]
        process.names(process.open(1), "elsewhere")
        await until(lambda: "elsewhere" in worker.begun)
        worker.call_of("0").end()
        await until(lambda: len(worker.begun) > 22)


async def test_a_gap_in_the_offsets_does_not_make_metadata_too_long_to_commit() -> None:
    """Compacted topics: the record after a gap waits for the one before it, when the gap is longer than the bound."""
    worker = Worker()
    async with processing(worker) as process:
        owned = process.open()
        delivery = process.poll(owned, polled(0, "a"), polled(1, "b"), polled(2 * offsets.MAX_DISTANCE, "c"))
        await until(lambda: len(worker.begun) >= 2)
        worker.call_of("b").end()
        await until(lambda: bool(delivery.commits))
        assert len(offset_metadata.encode(delivery.point)) <= offset_metadata.MAX_BYTES
        assert len(offset_metadata.encode(owned.offsets.commit_point())) <= offset_metadata.MAX_BYTES
        worker.call_of("a").end()
        await until(lambda: "c" in worker.begun)


@pytest.mark.parametrize(("begun", "owed"), [(offsets.MAX_DISTANCE, 1), (offsets.SLOW_FROM + 100, 20)])
async def test_a_partition_near_its_bound_goes_on_after_a_restart(begun: int, owed: int) -> None:
    """What a former owner had begun needs no room: the distance does not grow by it, and only it can shrink it."""
    finished = (1 << begun) - (1 << owed)
    start = CommitPoint(0, begun, finished.to_bytes((begun + 7) // 8, "little"))
    worker = Worker()
    async with processing(worker) as process:
        delivery = process.poll(process.open(start=start), *(polled(offset) for offset in range(begun + 1)))
        for _ in range(owed):
            await settled_down()
            assert worker.open, f"stands still with {owed - len(delivery.names())} records owed"
            worker.open[0].end()
        await until(lambda: worker.begun[-1] == str(begun))
