"""The tier-1 stage at work: `headgate run tier1` in a process of its own, on real Kafka, looked at from its topics.

What counts is what a read_committed reader of drafts gets, and when.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.load import BenchmarkError, Client
from schemas.codec import encode
from schemas.drafts import Draft
from schemas.tickets import Routed, TicketId
from schemas.topics import DRAFTS, TIER1
from streams import topics
from streams.local.spawn import spawn
from streams.read import Reader, reader
from streams.settings import CONFIG, PREFIX, KafkaSettings

PARTITIONS = 4
LIMIT_S = 600.0
"""A stage that has not drafted its tickets after this long never will."""
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Setup:
    """Which engine and models, on which broker."""

    servers: str
    config: Path
    """The configuration file; what is set below wins over it."""
    base_url: str
    models: Path
    folder: Path
    """Where the stage's log goes."""


@dataclass(frozen=True, slots=True)
class Done:
    """An answer that was made."""

    at_s: float
    """time.monotonic"""
    tokens: int


@dataclass(frozen=True, slots=True)
class TierOneStage:
    """A running stage, with a producer of its tickets and a reader of its drafts."""

    producer: AIOKafkaProducer
    reader: Reader
    client: Client
    topic: str

    async def draft(self, tickets: Sequence[Routed], name: str) -> list[Done]:
        """Publish the tickets, under ids that begin with `name`; wait for their drafts.

        Raises: BenchmarkError if the stage ends, drafts a ticket twice, or takes too long.
        """
        ids = [TicketId(f"{name}-{number:05}") for number in range(len(tickets))]
        values = [encode(_called(routed, ticket_id)) for routed, ticket_id in zip(tickets, ids, strict=True)]
        sends = [await self.producer.send(self.topic, v, key=i.encode()) for i, v in zip(ids, values, strict=True)]
        await asyncio.gather(*sends)
        done: dict[str, Done] = {}
        deadline = time.monotonic() + LIMIT_S
        while len(done) < len(ids):
            for received in await self.reader.poll(LOOK_S):
                if not isinstance(received.value, Draft) or (key := received.value.routed.ticket.ticket_id) in done:
                    raise BenchmarkError("the stage drafted a ticket twice")
                done[key] = Done(time.monotonic(), received.value.usage.completion_tokens)
            self.client.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{len(done)} of {len(ids)} tickets drafted after {LIMIT_S:.0f} s")
        return list(done.values())


def _called(routed: Routed, ticket_id: TicketId) -> Routed:
    return msgspec.structs.replace(routed, ticket=msgspec.structs.replace(routed.ticket, ticket_id=ticket_id))


@asynccontextmanager
async def running(setup: Setup, in_flight: int) -> AsyncIterator[TierOneStage]:
    """The stage with so many tickets in flight, on topics of its own."""
    prefix = f"in-flight-{in_flight}-"
    kafka = KafkaSettings(bootstrap_servers=setup.servers, topic_prefix=prefix, partitions=PARTITIONS)
    await topics.apply(kafka)
    producer = AIOKafkaProducer(bootstrap_servers=setup.servers, linger_ms=5)
    async with producer, reader(kafka, [DRAFTS]) as drafts:
        client = _start(setup, kafka, in_flight)
        try:
            yield TierOneStage(producer, drafts, client, prefix + TIER1.name)
        finally:
            await asyncio.to_thread(client.stop)


def _start(setup: Setup, kafka: KafkaSettings, in_flight: int) -> Client:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        CONFIG: str(setup.config),
        "HEADGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "HEADGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "HEADGATE_TIER1__BASE_URL": setup.base_url,
        "HEADGATE_TIER1__MODELS": str(setup.models),
        "HEADGATE_TIER1__IN_FLIGHT": str(in_flight),
        "HEADGATE_TIER1__TIMEOUT_S": str(LIMIT_S),
    }
    log_path = setup.folder / f"tier1-{in_flight}.log"
    argv = [str(Path(sys.executable).with_name("headgate")), "run", "tier1"]
    with log_path.open("ab") as log:
        process = spawn(argv, log.fileno(), signal.SIGKILL, environment=environment)
    return Client("tier1", process, log_path)
