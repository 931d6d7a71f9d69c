"""The gauges of a stage, read off its partitions once a second."""

import time
from typing import Any

from aiokafka import AIOKafkaConsumer

from streams.runtime import metrics, offset_metadata
from streams.runtime.dispatcher import Dispatcher
from streams.runtime.lanes import Lane
from streams.runtime.partition import Partition


def update(stage: str, dispatcher: Dispatcher[Any], consumer: AIOKafkaConsumer) -> None:
    """Set the gauges to what is now."""
    now = time.time()
    partitions = list(dispatcher.partitions.values())
    for lane in Lane:
        of_lane = [p for p in partitions if p.lane is lane]
        oldest_s = [p.oldest_s for p in of_lane if p.oldest_s is not None]
        metrics.IN_FLIGHT.labels(stage, lane).set(sum(p.in_flight for p in of_lane))
        metrics.UNFINISHED.labels(stage, lane).set(sum(_unfinished(p, consumer) for p in of_lane))
        metrics.OLDEST_SECONDS.labels(stage, lane).set(max((now - s for s in oldest_s), default=0.0))
    metrics.EXPOSED.labels(stage).set(dispatcher.slots.held)
    metrics.LATE_SECONDS.labels(stage).set(dispatcher.loop_late_s)
    metrics.METADATA_BYTES.labels(stage).set(
        max((len(offset_metadata.encode(p.offsets.commit_point())) for p in partitions), default=0)
    )


def clear(stage: str) -> None:
    """Nothing is ours any more."""
    for lane in Lane:
        for gauge in (metrics.IN_FLIGHT, metrics.UNFINISHED, metrics.OLDEST_SECONDS):
            gauge.labels(stage, lane).set(0)
    metrics.EXPOSED.labels(stage).set(0)
    metrics.LATE_SECONDS.labels(stage).set(0)
    metrics.METADATA_BYTES.labels(stage).set(0)


def _unfinished(partition: Partition[Any], consumer: AIOKafkaConsumer) -> int:
    """Begun and unfinished, waiting, and not yet fetched. The last counts offsets, transactions' markers included."""
    end = consumer.highwater(partition.id) if partition.id in consumer.assignment() else None
    fetched_to = partition.offsets.arrived_to
    not_fetched = max(0, end - fetched_to) if end is not None else 0
    return len(partition.offsets) + len(partition.waiting) + not_fetched
