"""The helpdesk of benchmarks/pipeline.py: publishes tickets at a rate, reads answers, and knows what is missing."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.load import BenchmarkError
from benchmarks.pipeline_chain import Chain
from benchmarks.pipeline_tickets import Script, scripts
from schemas.codec import encode
from schemas.topics import ANSWERS, HANDOFFS, TICKETS
from streams.settings import KafkaSettings

DRAIN_LIMIT_S = 300.0
"""Tickets that have not ended so long after the last was published are lost."""
LOOK_S = 0.05
ENDS = (ANSWERS.name, HANDOFFS.name)


@dataclass(frozen=True, slots=True)
class Latency:
    """Of some tickets, milliseconds: from publishing one until a read_committed reader has its answer."""

    tickets: int
    p50_ms: float
    p99_ms: float
    added_p50_ms: float
    """Without what the models took."""
    added_p99_ms: float


@dataclass
class Traffic:
    """Of the whole run."""

    producer: AIOKafkaProducer
    reader: AIOKafkaConsumer
    scripts: dict[str, Script] = field(default_factory=dict)
    published_s: dict[str, float] = field(default_factory=dict)
    """By ticket_id, time.monotonic."""
    ended_s: dict[str, float] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    handed_off: int = 0
    again: Counter[str] = field(default_factory=Counter)
    """What backfills have answered, by topic."""

    async def read(self) -> None:
        """Note ends as they come, for ever."""
        async for record in self.reader:
            if record.topic not in ENDS:
                self.again[record.topic] += 1
                continue
            ticket_id = record.key.decode()
            self.ended_s.setdefault(ticket_id, time.monotonic())
            self.handed_off += record.topic == HANDOFFS.name
            self.ends[ticket_id] += 1

    async def offer(self, name: str, per_s: float, for_s: float, seed: int = 0) -> list[str]:
        """Publish at a rate; arrivals are a Poisson process, and one that is late delays none after it. Returns the
        ids, which begin with `name`. The same seed gives the same tickets at the same moments."""
        rng, drawn = random.Random(seed), scripts(seed)
        due_s, started = rng.expovariate(per_s), time.monotonic()
        ids: list[str] = []
        while due_s < for_s:
            if (wait_s := started + due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            ids.append(ticket_id := f"{name}-{len(ids):06}")
            await self._publish(ticket_id, next(drawn))
            due_s += rng.expovariate(per_s)
        return ids

    async def _publish(self, ticket_id: str, script: Script) -> None:
        self.scripts[ticket_id] = script
        self.published_s[ticket_id] = time.monotonic()
        await self.producer.send(TICKETS.name, encode(script.ticket(ticket_id)), key=ticket_id.encode())

    async def drained(self, chain: Chain, ids: Sequence[str]) -> None:
        """Wait until these have ended.

        Raises: BenchmarkError if a process ends. Whatever is still missing after the limit is counted as lost.
        """
        deadline = time.monotonic() + DRAIN_LIMIT_S
        while time.monotonic() < deadline and not all(ticket_id in self.ended_s for ticket_id in ids):
            chain.check()
            await asyncio.sleep(LOOK_S)

    def latency(self, ids: Sequence[str]) -> Latency:
        """Of those that have ended. Raises: BenchmarkError if hardly any has."""
        took = {i: self.ended_s[i] - self.published_s[i] for i in ids if i in self.ended_s}
        if len(took) < 2:
            raise BenchmarkError(f"{len(took)} of {len(ids)} tickets have ended")
        whole = quantiles((1000 * took_s for took_s in took.values()), n=100, method="inclusive")
        added = quantiles(
            (1000 * (took_s - self.scripts[i].model_s) for i, took_s in took.items()), n=100, method="inclusive"
        )
        return Latency(len(took), whole[49], whole[98], added[49], added[98])

    def rate(self, ids: Sequence[str]) -> float:
        """Tickets that ended a second, in the middle eight tenths of them."""
        ends = sorted(self.ended_s[i] for i in ids if i in self.ended_s)
        first, last = len(ends) // 10, len(ends) * 9 // 10
        return (last - first) / (ends[last] - ends[first])

    @property
    def lost(self) -> int:
        """Published and not ended."""
        return sum(ticket_id not in self.ended_s for ticket_id in self.published_s)

    @property
    def doubled(self) -> int:
        """Ended more than once."""
        return sum(count > 1 for count in self.ends.values())


@asynccontextmanager
async def helpdesk(kafka: KafkaSettings, outputs: Sequence[str]) -> AsyncIterator[Traffic]:
    """Connected to topics that are there and hold nothing yet; `outputs` are those of backfills."""
    servers = kafka.bootstrap_servers
    reader = AIOKafkaConsumer(
        *ENDS,
        *outputs,
        bootstrap_servers=servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    async with reader, AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True) as producer:
        traffic = Traffic(producer, reader)
        reading = asyncio.create_task(traffic.read())
        try:
            yield traffic
        finally:
            reading.cancel()
