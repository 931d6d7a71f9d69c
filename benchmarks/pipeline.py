"""The whole chain on simulated models: what Headgate adds to a ticket's time, how much it carries, what it leaks.

    make bench NAME=pipeline
    make bench NAME=pipeline ARGS="--soak-minutes 5"

Router, tier-1, tier-2 and checker, a process each, on a real broker with 8 partitions; a provider over HTTP; one
process that publishes and reads. The models wait, and compute nothing (pipeline_stages.py). `added` is the time from
publishing a ticket until a read_committed reader has its answer, less what its models take.

1. Rates: 1 to 1,000 tickets a second are offered to stages with slots for all of them. Where they are more than the
   machine carries, the rate at which they end is what it carries (tickets_per_s, of the last); added_p50_ms and
   added_p99_ms are those at 10 a second.
2. A backfill: live tickets at a rate that a deployment's slots are sized for, first alone, then the same ones while
   `headgate backfill` takes what the slots have left over; and both once more with slots for everything, where the
   machine's processors are what is short.
3. A soak: memory of all stages, a line through it after a fifth of the time.

Beside the rates stands what the simulation of the stages' queues (benchmarks/network.py) says of the same chain. The
last line is JSON; `lost` counts tickets of all parts, and an answer that came twice stops the benchmark.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from benchmarks.load import BenchmarkError
from benchmarks.pipeline_chain import STAGES, Chain, Slots, StageCounts, running, start_backfill
from benchmarks.pipeline_simulated import simulated
from benchmarks.pipeline_traffic import Latency, Traffic, helpdesk
from schemas.topics import ANSWERS
from streams import topics
from streams.local.embedded_kafka import EmbeddedKafka
from streams.settings import KafkaSettings

FOLDER = Path(".headgate/bench/pipeline").resolve()
PARTITIONS = 8
WIDE = Slots(tier1=2_000, tier2=1_000)
"""For 1,000 tickets a second and more."""
SIZED = Slots(tier1=48, tier2=32)
"""For the live tickets at half of them and less: 20 a second are 16 in tier-1, and 15 in tier-2."""
LIVE_PER_S, LIVE_S = 20.0, 90.0
RATES = {1.0: 120.0, 10.0: 60.0, 30.0: 40.0, 100.0: 40.0, 1000.0: 20.0}
"""Tickets a second, and for how many seconds they are offered."""
USUAL_PER_S = 10.0
"""The rate whose added times stand for the others': 864,000 tickets a day."""
OUTPUTS = ("sized-again", "wide-again")
"""Topics for what the backfills answer."""
IDLE_S = 10.0
FILLING_S = 10.0
"""Until a backfill has filled them."""
SAMPLE_S = 5.0

console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate's run."""

    offered_per_s: float
    ended_per_s: float
    latency: Latency
    cpu_ms: dict[str, float]
    """Processor time a ticket, by stage, without what the stage uses while there are no tickets."""
    transaction_ms: dict[str, float]
    """By stage."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Live tickets alone, and the same ones beside a backfill."""

    alone: Latency
    beside: Latency
    backfilled_per_s: float

    @property
    def p99_ratio(self) -> float:
        return self.beside.p99_ms / self.alone.p99_ms


@dataclass
class Bench:
    """A broker, a helpdesk, and what was measured with them."""

    kafka: KafkaSettings
    traffic: Traffic
    rates: list[Rate] = field(default_factory=list)

    @asynccontextmanager
    async def chain(self, slots: Slots) -> AsyncIterator[Chain]:
        """The chain with these slots, once every stage has moved every partition."""
        async with running(self.kafka, slots, FOLDER) as chain:
            await self._ended(chain, f"warm-{time.monotonic():.0f}", 50.0, 5.0)
            yield chain

    async def _ended(self, chain: Chain, name: str, per_s: float, for_s: float, seed: int = 0) -> list[str]:
        ids = await self.traffic.offer(name, per_s, for_s, seed)
        await self.traffic.drained(chain, ids)
        return ids

    async def idle(self, chain: Chain) -> dict[str, float]:
        """Processor seconds a second that each stage uses while there are no tickets."""
        before = await chain.counts()
        await asyncio.sleep(IDLE_S)
        after = await chain.counts()
        return {name: (after[name].cpu_s - before[name].cpu_s) / IDLE_S for name in STAGES}

    async def rate(self, chain: Chain, per_s: float, for_s: float, idle: Mapping[str, float]) -> None:
        """Offer tickets at a rate."""
        before, began = await chain.counts(), time.monotonic()
        ids = await self._ended(chain, f"rate-{per_s:g}", per_s, for_s)
        took_s, after = time.monotonic() - began, await chain.counts()
        cpu_ms = {
            name: 1000 * (after[name].cpu_s - before[name].cpu_s - idle[name] * took_s) / len(ids) for name in STAGES
        }
        made = Rate(per_s, self.traffic.rate(ids), self.traffic.latency(ids), cpu_ms, transaction_ms(before, after))
        self.rates.append(made)
        print(
            f"{per_s:g} a second: {made.ended_per_s:.1f} ended, added p50 {made.latency.added_p50_ms:.0f} ms",
            flush=True,
        )

    async def backfill(self, chain: Chain, name: str, until: datetime) -> Beside:
        """Live tickets alone, then beside a backfill of all tickets written until then."""
        alone = await self._ended(chain, f"{name}-alone", LIVE_PER_S, LIVE_S, seed=1)
        output = f"{name}-again"
        since = until - timedelta(hours=6)
        working = start_backfill(self.kafka, f"{since:%FT%TZ}", f"{until:%FT%TZ}", output, FOLDER)
        try:
            await asyncio.sleep(FILLING_S)
            working.check()
            began, had = time.monotonic(), self.traffic.again[output]
            beside = await self._ended(chain, f"{name}-beside", LIVE_PER_S, LIVE_S, seed=1)
            working.check()
            per_s = (self.traffic.again[output] - had) / (time.monotonic() - began)
        finally:
            working.stop(signal.SIGINT)
        return Beside(self.traffic.latency(alone), self.traffic.latency(beside), per_s)

    async def soak(self, chain: Chain, for_s: float) -> tuple[float, float]:
        """MiB an hour that the stages' memory grows by, and what they have at the end."""
        samples: list[tuple[float, float]] = []

        async def sample() -> None:
            while True:
                samples.append((time.monotonic(), chain.rss_mib()))
                await asyncio.sleep(SAMPLE_S)

        sampling = asyncio.create_task(sample())
        await self._ended(chain, "soak", LIVE_PER_S, for_s, seed=2)
        sampling.cancel()
        return growth(samples), samples[-1][1]


def transaction_ms(before: Mapping[str, StageCounts], after: Mapping[str, StageCounts]) -> dict[str, float]:
    """Milliseconds of a transaction, by stage."""
    return {
        name: 1000
        * (after[name].transactions_s - before[name].transactions_s)
        / max(1.0, after[name].transactions - before[name].transactions)
        for name in STAGES
    }


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """MiB an hour, by a line through samples of seconds and MiB; of the first fifth nothing counts."""
    times_s, mib = np.array(samples[len(samples) // 5 :]).T
    return float(3600 * np.polyfit(times_s, mib, 1)[0])


async def create_outputs(kafka: KafkaSettings) -> None:
    """Topics of one's own for the backfills' answers."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        limits = {"max.message.bytes": str(ANSWERS.max_message_bytes)}
        await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=limits) for name in OUTPUTS])
    finally:
        await admin.close()


def rates_table(rates: Sequence[Rate]) -> Table:
    """A row a rate."""
    made = Table("offered/s", "ended/s", "added p50", "p99, ms", "simulated p50", "p99, ms", *STAGES, title="Rates")
    for rate in rates:
        said = simulated(rate.offered_per_s, WIDE, PARTITIONS, rate.cpu_ms, rate.transaction_ms)
        made.add_row(
            f"{rate.offered_per_s:g}",
            f"{rate.ended_per_s:.1f}",
            f"{rate.latency.added_p50_ms:.0f}",
            f"{rate.latency.added_p99_ms:.0f}",
            f"{1000 * said.p50_s:.0f}",
            f"{1000 * said.p99_s:.0f}",
            *(f"{rate.cpu_ms[name]:.2f} ms" for name in STAGES),
        )
    return made


def backfill_table(runs: Mapping[str, Beside]) -> Table:
    """A row a run."""
    made = Table(
        "slots", "backfilled/s", "live p99", "beside", "ratio", "added p50", "beside", "added p99", "beside, ms"
    )
    made.title = f"A backfill beside {LIVE_PER_S:g} live tickets a second"
    for name, run in runs.items():
        alone, beside = run.alone, run.beside
        made.add_row(
            name,
            f"{run.backfilled_per_s:.1f}",
            f"{alone.p99_ms:.0f}",
            f"{beside.p99_ms:.0f}",
            f"{run.p99_ratio:.3f}",
            f"{alone.added_p50_ms:.0f}",
            f"{beside.added_p50_ms:.0f}",
            f"{alone.added_p99_ms:.0f}",
            f"{beside.added_p99_ms:.0f}",
        )
    return made


async def measure(bench: Bench, soak_s: float) -> dict[str, float]:
    """All three parts."""
    async with bench.chain(WIDE) as chain:
        idle = await bench.idle(chain)
        for per_s, for_s in RATES.items():
            await bench.rate(chain, per_s, for_s, idle)
        console.print(rates_table(bench.rates))
        # The last moment whose tickets were all answered: a backfill of them is no ticket's first answer.
        until = datetime.now(UTC)
    async with bench.chain(SIZED) as chain:
        beside = {"sized": await bench.backfill(chain, "sized", until)}
    async with bench.chain(WIDE) as chain:
        beside["wide"] = await bench.backfill(chain, "wide", until)
    console.print(backfill_table(beside))
    async with bench.chain(SIZED) as chain:
        grown, rss_mib = await bench.soak(chain, soak_s)
    console.print(f"memory of the four stages after {soak_s / 60:g} minutes: {rss_mib:.0f} MiB")
    if bench.traffic.doubled or bench.traffic.handed_off:
        raise BenchmarkError(f"{bench.traffic.doubled} answers came twice, {bench.traffic.handed_off} were handoffs")
    usual = next(rate.latency for rate in bench.rates if rate.offered_per_s == USUAL_PER_S)
    return {
        "tickets_per_s": bench.rates[-1].ended_per_s,
        "added_p50_ms": usual.added_p50_ms,
        "added_p99_ms": usual.added_p99_ms,
        **{f"added_p50_ms_at_{rate.offered_per_s:g}": rate.latency.added_p50_ms for rate in bench.rates},
        **{f"added_p99_ms_at_{rate.offered_per_s:g}": rate.latency.added_p99_ms for rate in bench.rates},
        "live_p99_ratio_under_backfill": beside["sized"].p99_ratio,
        "live_p99_ratio_without_spare_processors": beside["wide"].p99_ratio,
        "lost": bench.traffic.lost,
        "rss_growth_mb_per_hour": grown * 2**20 / 1e6,
    }


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak-minutes", type=float, default=60.0)
    args = parser.parse_args()
    # Its retries are expected here (a new partition's first leader), and it logs each.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    busy = os.getloadavg()[0]
    shutil.rmtree(FOLDER, ignore_errors=True)
    with EmbeddedKafka(FOLDER / "kafka", load=True) as broker:
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers, partitions=PARTITIONS)
        await topics.apply(kafka)
        await create_outputs(kafka)
        async with helpdesk(kafka, OUTPUTS) as traffic:
            figures = await measure(Bench(kafka, traffic), 60 * args.soak_minutes)
    shutil.rmtree(FOLDER / "kafka")
    print(f"{os.cpu_count()} processors, which broker, stages, provider and helpdesk share; load before: {busy:.1f}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    asyncio.run(main())
