"""The router stage at work: `headgate run router` in a process of its own, on real Kafka, looked at from its topics.

What counts is what a read_committed reader of tier1 and tier2 gets, and when.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.load import PARTITIONS, BenchmarkError, Client
from schemas.codec import encode
from schemas.tickets import Routed, Ticket, TicketId
from schemas.topics import TICKETS, TIER1, TIER2
from streams import topics
from streams.local.spawn import spawn
from streams.read import Reader, reader
from streams.settings import CONFIG, PREFIX, KafkaSettings

LIMIT_S = 120.0
"""A stage that has not routed its tickets after this long never will."""
LOOK_S = 0.5
WARM = 50
"""Tickets before the latency is measured, so that the stage has joined and each partition has moved once or more."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Which router, on which broker."""

    servers: str
    config: Path
    """The configuration file; the model and the threads below win over it."""
    model: Path
    threads: int
    folder: Path
    """Where the stage's log goes."""


@dataclass(frozen=True, slots=True)
class StageRun:
    """The stage's way through tickets that were there before it."""

    tickets_per_s: float
    """From the first that could be read to the last."""
    cpu_us_per_ticket: float
    """Processor time of its process meanwhile."""
    waited_us_per_ticket: float
    """How long its threads were ready meanwhile and had no core."""
    rss_mib: float
    """Its memory at the end."""
    start_s: float
    """From the start of its process until the first ticket could be read."""


@dataclass
class _Arrivals:
    """What a read_committed reader has got, and when."""

    reader: Reader
    client: Client
    at_s: dict[str, float] = field(default_factory=dict)
    """By ticket_id, time.monotonic."""

    async def read(self, wanted: int) -> None:
        """Read on until so many tickets are there.

        Raises: BenchmarkError if the stage ends, sends a ticket twice, or takes too long.
        """
        deadline = time.monotonic() + LIMIT_S
        while len(self.at_s) < wanted:
            received = await self.reader.poll(LOOK_S)
            now = time.monotonic()
            for each in received:
                if not isinstance(each.value, Routed) or each.value.ticket.ticket_id in self.at_s:
                    raise BenchmarkError(f"the router sent a record twice, or a strange one: {each.topic.name}")
                self.at_s[each.value.ticket.ticket_id] = now
            self.client.check()
            if now > deadline:
                raise BenchmarkError(f"{len(self.at_s)} of {wanted} tickets routed after {LIMIT_S:.0f} s")


async def measure_rate(setup: Setup, prefix: str, tickets: Sequence[Ticket]) -> StageRun:
    """Publish the tickets, start the stage on them, follow it to their end."""
    kafka = await _topics(setup, prefix)
    async with AIOKafkaProducer(bootstrap_servers=setup.servers, max_batch_size=256 * 1024, linger_ms=5) as producer:
        await asyncio.gather(*[await _send(producer, kafka, number, t) for number, t in enumerate(tickets)])
    started_s = time.monotonic()
    async with _running(setup, kafka) as arrivals:
        await arrivals.read(1)
        first_s, ahead = max(arrivals.at_s.values()), len(arrivals.at_s)
        first_cpu_s, first_waited_s = arrivals.client.cpu_s, _waited_s(arrivals.client)
        await arrivals.read(len(tickets))
        last_s, counted = max(arrivals.at_s.values()), len(tickets) - ahead
        cpu_s, waited_s = arrivals.client.cpu_s - first_cpu_s, _waited_s(arrivals.client) - first_waited_s
        rss_mib = arrivals.client.rss_mib
    us = 1e6 / counted
    return StageRun(counted / (last_s - first_s), cpu_s * us, waited_s * us, rss_mib, first_s - started_s)


def _waited_s(client: Client) -> float:
    """Seconds that the process's threads have stood ready without a core. Source: kernel.org, sched-stats."""
    threads = Path(f"/proc/{client.process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[1]) for thread in threads) / 1e9


async def measure_latency(
    setup: Setup, prefix: str, tickets: Sequence[Ticket], per_s: float, count: int
) -> list[float]:
    """Publish `count` tickets at an even rate through the stage: milliseconds from publishing each until it can be read
    on tier1 or tier2. Publisher and reader share this process and its clock; what they cost is part of the figure."""
    kafka = await _topics(setup, prefix)
    producer = AIOKafkaProducer(bootstrap_servers=setup.servers)
    async with producer, _running(setup, kafka) as arrivals:
        published_s: dict[str, float] = {}

        async def publish(numbers: range) -> None:
            started = time.monotonic()
            for number in numbers:
                due = started + (number - numbers.start) / per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                published_s[_id(number)] = time.monotonic()
                await _send(producer, kafka, number, tickets[number % len(tickets)])

        for number in range(WARM):
            await _send(producer, kafka, number, tickets[number % len(tickets)])
        await arrivals.read(WARM)
        async with asyncio.TaskGroup() as both:
            both.create_task(publish(range(WARM, WARM + count)))
            both.create_task(arrivals.read(WARM + count))
    return [(arrivals.at_s[ticket_id] - at_s) * 1000 for ticket_id, at_s in published_s.items()]


async def _topics(setup: Setup, prefix: str) -> KafkaSettings:
    """All topics, under a prefix of their own."""
    kafka = KafkaSettings(bootstrap_servers=setup.servers, topic_prefix=prefix, partitions=PARTITIONS)
    await topics.apply(kafka)
    return kafka


@asynccontextmanager
async def _running(setup: Setup, kafka: KafkaSettings) -> AsyncIterator[_Arrivals]:
    """The stage's process, and a reader of what it sends."""
    async with reader(kafka, [TIER1, TIER2]) as tiers:
        client = _start(setup, kafka)
        try:
            yield _Arrivals(tiers, client)
        finally:
            client.stop()


def _start(setup: Setup, kafka: KafkaSettings) -> Client:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        CONFIG: str(setup.config),
        "HEADGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "HEADGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "HEADGATE_ROUTER__MODEL": str(setup.model),
        "HEADGATE_ROUTER__THREADS": str(setup.threads),
    }
    log_path = setup.folder / "router.log"
    argv = [str(Path(sys.executable).with_name("headgate")), "run", "router"]
    with log_path.open("ab") as log:
        process = spawn(argv, log.fileno(), signal.SIGKILL, environment=environment)
    return Client("router", process, log_path)


def _id(number: int) -> str:
    return f"{number:09d}"


async def _send(
    producer: AIOKafkaProducer, kafka: KafkaSettings, number: int, ticket: Ticket
) -> "asyncio.Future[object]":
    """Send a ticket under an id of its own: the same text may come more than once."""
    value = encode(msgspec.structs.replace(ticket, ticket_id=TicketId(_id(number))))
    sent: asyncio.Future[object] = await producer.send(
        kafka.topic_prefix + TICKETS.name, value, key=_id(number).encode()
    )
    return sent
