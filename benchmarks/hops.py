"""The latency of one hop: from publishing a ticket until a read_committed reader has its answer."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.load import BenchmarkError, Client
from benchmarks.payload import ticket
from schemas.codec import encode
from schemas.topics import ANSWERS, TICKETS

START_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Hops:
    """The distribution of a hop's latency."""

    records: int
    p50_ms: float
    p99_ms: float
    longest_ms: float


@dataclass
class _Clock:
    """When each ticket was published, and how long its answer took."""

    published: dict[str, float] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        """Note the answers as they come, for ever."""
        async for record in consumer:
            ticket_id = record.key.decode()
            self.took_s.setdefault(ticket_id, time.monotonic() - self.published[ticket_id])

    async def publish(self, producer: AIOKafkaProducer, prefix: str, numbers: range, per_s: float) -> None:
        """Publish tickets at an even rate; one that is late does not delay those after it."""
        started = time.monotonic()
        sent = []
        for number in numbers:
            due = started + (number - numbers.start) / per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            value = ticket(number)
            self.published[value.ticket_id] = time.monotonic()
            sent.append(await producer.send(prefix + TICKETS.name, encode(value), key=value.ticket_id.encode()))
        await asyncio.gather(*sent)

    async def wait_for(self, numbers: range, client: Client, limit_s: float) -> None:
        """Wait until the answers to these tickets are there."""
        deadline = time.monotonic() + limit_s
        ids = {ticket(number).ticket_id for number in numbers}
        while missing := ids - self.took_s.keys():
            client.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{client.name}: {len(missing)} of {len(ids)} answers missing")
            await asyncio.sleep(0.05)


async def measure_hops(client: Client, servers: str, prefix: str, per_s: float, warm_s: float, for_s: float) -> Hops:
    """Publish `per_s` tickets a second through a client on empty topics, first for `warm_s`, then for `for_s`.

    Publisher and reader share this process and its clock; what they cost is part of the figure.
    """
    clock = _Clock()
    reader = AIOKafkaConsumer(
        prefix + ANSWERS.name,
        bootstrap_servers=servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    async with reader, AIOKafkaProducer(bootstrap_servers=servers) as producer:
        reading = asyncio.create_task(clock.read(reader))
        try:
            # One ticket a partition and more: the client has joined, and every lane has moved once.
            first, warm = range(100), range(100, 100 + int(per_s * warm_s))
            measured = range(warm.stop, warm.stop + int(per_s * for_s))
            await clock.publish(producer, prefix, first, per_s)
            await clock.wait_for(first, client, START_LIMIT_S)
            await clock.publish(producer, prefix, range(warm.start, measured.stop), per_s)
            await clock.wait_for(measured, client, START_LIMIT_S)
        finally:
            reading.cancel()
    return _summed_up([clock.took_s[ticket(number).ticket_id] * 1000 for number in measured])


def _summed_up(took_ms: Sequence[float]) -> Hops:
    cuts = quantiles(took_ms, n=100, method="inclusive")
    return Hops(len(took_ms), cuts[49], cuts[98], max(took_ms))
