"""Whose turn it is: live records first, then parked ones that are due, and the slow lane with what is left over."""

import asyncio
import time

import pytest

from schemas.topics import BACKFILL, RETRY
from streams.runtime import offsets
from streams.runtime.lanes import LATE_LOOP_S, Lane
from tests.dispatching import QUICK_RETRY, Worker, polled, processing, settled_down, until, worked_off
from workers.errors import RetryableError


async def test_backfill_takes_spare_slots_and_leaves_some_free() -> None:
    """A live record that comes now begins at once."""
    worker = Worker()
    async with processing(worker, max_in_flight=8) as process:
        slow = process.open(twin=BACKFILL)
        process.poll(slow, *(polled(o, f"slow{o}", slow.id) for o in range(20)))
        await settled_down()
        assert (len(worker.begun), process.slots) == (6, 6)
        process.names(process.open(), "a", "b")
        await until(lambda: worker.begun[6:] == ["a", "b"])


async def test_backfill_waits_while_live_records_wait() -> None:
    """Slots that come free are theirs, whatever the slow lane has waiting."""
    worker = Worker()
    async with processing(worker, max_in_flight=8) as process:
        slow, live = process.open(twin=BACKFILL), process.open()
        process.poll(slow, *(polled(o, f"slow{o}", slow.id) for o in range(20)))
        process.poll(live, *(polled(o, f"live{o}") for o in range(10)))
        await until(lambda: len(worker.open) == 8)
        for number in range(8):
            worker.open[0].end()
            await until(lambda number=number: len(worker.begun) == 9 + number)  # type: ignore[misc]
        assert [n for n in worker.begun if n.startswith("live")] == [f"live{o}" for o in range(10)]
        assert len([n for n in worker.begun if n.startswith("slow")]) == 6


async def test_backfill_waits_while_a_live_partition_stands_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are free slots, and live records wait all the same: what they wait for needs the worker to itself."""
    monkeypatch.setattr(offsets, "MAX_DISTANCE", 4)
    monkeypatch.setattr(offsets, "SLOW_FROM", 3)
    worker = Worker()
    async with processing(worker, max_in_flight=8) as process:
        live, slow = process.open(), process.open(twin=BACKFILL)
        process.poll(live, *(polled(o, f"live{o}") for o in range(9)))
        process.poll(slow, polled(0, "slow", slow.id))
        for _ in range(9):
            await settled_down()
            for call in worker.open:
                if call.names != ["live0"]:
                    call.end()
        assert live.waiting
        assert "slow" not in worker.begun
        worker.call_of("live0").end()
        await worked_off(worker, lambda: "slow" in worker.begun)
        assert len(worker.begun) == 10


async def test_backfill_waits_while_a_live_record_is_late() -> None:
    """One that has been worked on for longer than the objective means that the worker is behind; it ends, and the
    slow lane goes on."""
    worker = Worker()
    async with processing(worker, max_in_flight=8) as process:
        slow, live = process.open(twin=BACKFILL), process.open()
        process.poll(live, polled(0, "late", written_s=time.time() - process.dispatcher.settings.live_objective_s - 1))
        process.poll(slow, polled(0, "slow", slow.id))
        await settled_down()
        assert worker.begun == ["late"]
        worker.call_of("late").end()
        await until(lambda: worker.begun == ["late", "slow"])


async def test_backfill_waits_while_the_loop_is_late() -> None:
    """Processor time is what there is too little of then; live records begin all the same, and so does the slow lane
    once there is some to spare."""
    worker = Worker()
    async with processing(worker, max_in_flight=8) as process, asyncio.TaskGroup() as tasks:
        ticking = tasks.create_task(process.dispatcher.tick())
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - what holds up a loop
        await until(lambda: process.dispatcher.loop_late_s > LATE_LOOP_S)
        slow, live = process.open(twin=BACKFILL), process.open()
        process.poll(slow, polled(0, "slow", slow.id))
        process.poll(live, polled(0, "live"))
        assert process.slots == 1
        await until(lambda: worker.begun == ["live", "slow"])
        ticking.cancel()


async def test_backfill_waits_while_others_wait_in_the_worker() -> None:
    """Live records begin all the same; and the slow lane goes on though nothing else happens."""
    worker, others_wait = Worker(), True
    async with processing(worker, max_in_flight=8, no_backfill=lambda: others_wait) as process:
        slow, live = process.open(twin=BACKFILL), process.open()
        process.poll(slow, polled(0, "slow", slow.id))
        process.poll(live, polled(0, "live"))
        await settled_down()
        assert worker.begun == ["live"]
        others_wait = False
        await until(lambda: worker.begun == ["live", "slow"])


async def test_the_slow_lane_has_its_own_batches_and_never_the_last_call() -> None:
    """A batch is all live or all backfill: a slow record must not wait in a live one's commit, nor the other way."""
    worker = Worker()
    async with processing(worker, batch_size=4, max_in_flight=16) as process:
        live, slow = process.open(), process.open(twin=BACKFILL)
        process.dispatcher.arrived(
            {
                live.id: [polled(0, "live")],
                slow.id: [polled(o, f"slow{o}", slow.id) for o in range(40)],
            }
        )
        await settled_down()
        # As the session does once a second: a dispatch that begins live records may leave the slow lane to the next.
        process.dispatcher.dispatch()
        await settled_down()
        assert worker.calls[0].names == ["live"]
        assert [len(call.names) for call in worker.calls[1:]] == [4, 4]
        assert all(name.startswith("slow") for call in worker.calls[1:] for name in call.names)


async def test_parked_records_take_turns_with_live_ones_and_come_before_backfill() -> None:
    """When they are due: neither a flood of live records nor one of parked ones may starve the other."""
    worker = Worker()
    async with processing(worker, max_in_flight=4) as process:
        partitions = [process.open(twin=twin) for twin in (BACKFILL, RETRY, "")]
        process.dispatcher.arrived({p.id: [polled(0, p.lane, p.id), polled(1, p.lane, p.id)] for p in partitions})
        await until(lambda: len(worker.begun) == 4)
        assert sorted(worker.begun) == [Lane.LIVE, Lane.LIVE, Lane.RETRY, Lane.RETRY]


async def test_a_flood_of_live_records_does_not_starve_parked_ones() -> None:
    """One slot, taken by one partition after the other."""
    worker = Worker()
    async with processing(worker, max_in_flight=1) as process:
        live, parked = process.open(), process.open(twin=RETRY)
        process.dispatcher.arrived(
            {
                live.id: [polled(o, f"live{o}") for o in range(100)],
                parked.id: [polled(0, "parked", parked.id)],
            }
        )
        await worked_off(worker, lambda: "parked" in worker.begun)
        assert len(worker.begun) <= 3


async def test_backfill_in_a_back_off_does_not_hold_back_live_records() -> None:
    """A provider that refuses the slow lane's calls must not make the live one wait out those back-offs."""
    worker = Worker()
    async with processing(worker, max_in_flight=4) as process:
        slow = process.open(twin=BACKFILL)
        process.poll(slow, *(polled(o, f"slow{o}", slow.id) for o in range(20)))
        for _ in range(20):
            await settled_down()
            for call in worker.open:
                call.end(RetryableError("busy"))
        assert process.slots == 0
        process.names(process.open(), "live")
        await settled_down()
        assert worker.begun[-1] == "live"


async def test_backfill_that_is_due_again_leaves_live_records_their_turn() -> None:
    """What was begun once on the slow lane is still on it."""
    worker = Worker()
    async with processing(worker, max_in_flight=4, retry=QUICK_RETRY) as process:
        slow, live = process.open(twin=BACKFILL), process.open()
        process.poll(slow, *(polled(o, f"slow{o}", slow.id) for o in range(3)))
        await until(lambda: len(worker.open) == 3)
        process.poll(live, *(polled(o, f"live{o}") for o in range(9)))
        for name in ("slow0", "slow1", "slow2"):
            worker.call_of(name).end(RetryableError("busy"))
        await until(lambda: len(worker.open) == 4 and not slow.resting)
        begun = len(worker.begun)
        worker.open[0].end()
        await until(lambda: len(worker.begun) > begun)
        assert worker.begun[begun].startswith("live")
