"""What operators see of a stage's work: the true backlog, ages, exposure."""

import time

from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from schemas.topics import BACKFILL
from streams.runtime import gauges
from streams.runtime.lanes import Lane
from tests.dispatching import Worker, polled, processing, until
from workers.errors import RetryableError


class FakeConsumer:
    """The two things that the gauges ask a consumer."""

    def __init__(self, highwaters: dict[TopicPartition, int]) -> None:
        self.highwaters = highwaters

    def assignment(self) -> set[TopicPartition]:
        return set(self.highwaters)

    def highwater(self, partition: TopicPartition) -> int:
        return self.highwaters[partition]


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"stage": "router", **labels})


async def test_the_gauges_say_what_is_unfinished_exposed_and_old() -> None:
    """Counted by lane: in flight, begun, waiting, written and not fetched; one that rests is unfinished, too."""
    worker = Worker()
    async with processing(worker, max_in_flight=2) as process:
        live, slow = process.open(), process.open(twin=BACKFILL)
        process.poll(live, *(polled(o, f"t{o}", written_s=time.time() - 100) for o in range(5)))
        await until(lambda: len(worker.open) == 2)
        worker.call_of("t0").end(RetryableError("busy"))
        await until(lambda: bool(live.resting) and len(worker.begun) == 3)
        gauges.update("router", process.dispatcher, FakeConsumer({live.id: 12, slow.id: 0}))
        assert value("headgate_records_in_flight", lane=Lane.LIVE) == 2
        assert value("headgate_calls_exposed") == 2
        # Three begun, two waiting, and seven of the twelve not fetched.
        assert value("headgate_records_unfinished", lane=Lane.LIVE) == 12
        assert value("headgate_records_unfinished", lane=Lane.BACKFILL) == 0
        oldest_s = value("headgate_oldest_record_seconds", lane=Lane.LIVE)
        assert oldest_s is not None
        assert 99 < oldest_s < 160
        assert (value("headgate_commit_metadata_bytes") or 0) > 0
        gauges.clear("router")
        assert value("headgate_records_unfinished", lane=Lane.LIVE) == 0
        assert value("headgate_calls_exposed") == 0


async def test_a_partition_that_is_no_longer_assigned_has_nothing_unfetched() -> None:
    """Between a revocation and the next assignment the consumer knows nothing of it."""
    worker = Worker()
    async with processing(worker) as process:
        process.names(process.open(), "a")
        await until(lambda: bool(worker.open))
        gauges.update("router", process.dispatcher, FakeConsumer({}))
        assert value("headgate_records_unfinished", lane=Lane.LIVE) == 1
