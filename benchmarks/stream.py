"""Our stream runtime beside raw aiokafka loops, Faust and FastStream: rates, processor time, latency, memory.

    make bench NAME=stream

One run on one fresh broker with 8 partitions. Every subject runs in a process
of its own and finds its own topic of 1 KiB tickets, published before it
starts. It decodes each ticket and writes an answer and an event with equal
keys, values and headers (benchmarks/payload.py; FastStream's batches carry no
headers), and what it wrote is read back and counted. Rates run from the first
output that a read_committed reader can see to the last. The raw transactional
loop and the runtime's two handlers take turns for --rounds, and medians are
compared. Both raw loops, Faust and FastStream write no log line a record; the
runtime's is off, too, except where its row says so. The last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.hops import Hops, measure_hops
from benchmarks.load import (
    BenchmarkError,
    Run,
    committed_ids,
    create_topics,
    follow,
    preload,
    start_client,
    watching,
)
from benchmarks.payload import CALLS_IN_FLIGHT
from schemas.topics import ANSWERS, EVENTS
from streams.local.embedded_kafka import EmbeddedKafka

FOLDER = Path(".headgate/bench/stream").resolve()
OURS, PEERS = "benchmarks.stream_clients", "benchmarks.stream_peers"
HOP = "hop"
HOP_PER_S, HOP_WARM_S, HOP_S = 200.0, 5.0, 20.0
CALL_S = 2.0
CALL_ROUNDS = 10
"""How often all slots of the long calls are filled."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A client to measure."""

    name: str
    title: str
    module: str
    share: float = 0.0
    """Its tickets as a share of --records: so many that it takes seconds, and not minutes."""
    exactly: int = 0
    """Its tickets where --records is not to change them."""


PLAIN = Subject("plain", "raw loop, no transactions", OURS, 0.75)
TRANSACTIONAL = Subject("transactional", "raw loop, transactions", OURS, 1.0)
BATCH = Subject("batch", "Headgate, batches of 64", OURS, 1.0)
SINGLE = Subject("single", "Headgate, single records", OURS, 1.0)
LOGGED = Subject("batch_logged", "Headgate, batches of 64, a log line a record", OURS, 0.75)
CALLS_50MS = Subject("calls_50ms", "Headgate, 50 ms calls, 2,000 in flight", OURS, 0.75)
CALLS_2S = Subject("calls_2s", "Headgate, 2 s calls, 2,000 in flight", OURS, exactly=CALLS_IN_FLIGHT * CALL_ROUNDS)
FAUST = Subject("faust", "Faust, take(500), no transactions", PEERS, 0.2)
FASTSTREAM = Subject("faststream", "FastStream, batches of 500, no transactions", PEERS, 1.0)
FASTSTREAM_SINGLE = Subject("faststream_single", "FastStream, single records, no transactions", PEERS, 0.03)
SUBJECTS = (PLAIN, LOGGED, CALLS_50MS, FAUST, FASTSTREAM, FASTSTREAM_SINGLE, CALLS_2S)
"""What is measured once; before it come those that are compared most closely, in turns."""
CLOSEST = (TRANSACTIONAL, BATCH, SINGLE)
HOPS = (BATCH, TRANSACTIONAL)


class Bench:
    """A broker and the subjects that were measured on it."""

    def __init__(self, servers: str, records: int) -> None:
        self.servers = servers
        self.records = records
        self.runs: dict[Subject, list[Run]] = {}
        self.hops: dict[Subject, Hops] = {}
        self._taken = 0

    async def _topics(self, name: str) -> str:
        self._taken += 1
        prefix = f"{name.replace('_', '-')}-{self._taken}-"
        await create_topics(self.servers, prefix)
        return prefix

    async def measure(self, subject: Subject) -> Run:
        """Run a subject over a topic of its own.

        Raises: BenchmarkError if it ends, is not done in time, or lost or repeated a ticket.
        """
        records = subject.exactly or max(1, round(self.records * subject.share / 500)) * 500
        prefix = await self._topics(subject.name)
        await preload(self.servers, prefix, range(records))
        async with watching(self.servers, [prefix + ANSWERS.name, prefix + EVENTS.name]) as watch:
            client = start_client(subject.module, subject.name, [self.servers, prefix], FOLDER)
            try:
                run = await follow(client, watch, records, limit_s=120.0)
            finally:
                client.stop(limit_s=5.0)
        ids = await committed_ids(self.servers, prefix + ANSWERS.name)
        if len(ids) != records or len(set(ids)) != records:
            raise BenchmarkError(f"{subject.name}: {len(ids)} answers to {len(set(ids))} of {records} tickets")
        self.runs.setdefault(subject, []).append(run)
        print(f"{subject.title:48} {run.records_per_s:9,.0f} records/s {run.cpu_us_per_record:6.0f} us", flush=True)
        return run

    async def measure_hop(self, subject: Subject) -> None:
        """The latency of a hop through a subject."""
        prefix = await self._topics(f"hop-{subject.name}")
        client = start_client(subject.module, subject.name, [self.servers, prefix], FOLDER)
        try:
            hops = await measure_hops(client, self.servers, prefix, HOP_PER_S, HOP_WARM_S, HOP_S)
        finally:
            client.stop(limit_s=5.0)
        self.hops[subject] = hops
        print(f"{subject.title:48} a hop: p50 {hops.p50_ms:.1f} ms, p99 {hops.p99_ms:.1f} ms", flush=True)

    def rate(self, subject: Subject) -> float:
        """Records a second, the median of its runs."""
        return median(run.records_per_s for run in self.runs[subject])

    def cpu_us(self, subject: Subject) -> float:
        """Processor time a record, the median of its runs."""
        return median(run.cpu_us_per_record for run in self.runs[subject])


async def measure_all(bench: Bench, rounds: int, only: Sequence[str]) -> None:
    """Every subject, or those named, and the latency of a hop."""

    def wanted(subjects: Sequence[Subject]) -> list[Subject]:
        return [subject for subject in subjects if not only or subject.name in only]

    # The broker's compilers and page cache warm up on a run that doesn't count.
    print("to warm the broker up:")
    await bench.measure(TRANSACTIONAL)
    bench.runs.clear()
    print("measured:")
    for _ in range(rounds):
        for subject in wanted(CLOSEST):
            await bench.measure(subject)
    for subject in wanted(SUBJECTS):
        await bench.measure(subject)
    for subject in HOPS if not only or HOP in only else ():
        await bench.measure_hop(subject)


def call_efficiency(run: Run) -> float:
    """Achieved over ideal rate of the long calls: the ideal fills every slot anew the moment it is free.

    The first output comes one call after the first call began, so that the ramp and the last commit count, too.
    """
    return CALL_ROUNDS * CALL_S / (run.seconds + CALL_S)


def figures(bench: Bench) -> dict[str, float]:
    """What the last line says."""
    rate, long_calls = bench.rate, bench.runs[CALLS_2S][0]
    ours, raw = bench.hops[BATCH], bench.hops[TRANSACTIONAL]
    ratios = {
        "batch_vs_raw": rate(BATCH) / rate(TRANSACTIONAL),
        "single_vs_raw": rate(SINGLE) / rate(TRANSACTIONAL),
        "batch_vs_plain": rate(BATCH) / rate(PLAIN),
        "batch_vs_faust": rate(BATCH) / rate(FAUST),
        "batch_vs_faststream": rate(BATCH) / rate(FASTSTREAM),
        "single_vs_faststream_single": rate(SINGLE) / rate(FASTSTREAM_SINGLE),
        "batch_vs_raw_by_cpu": bench.cpu_us(TRANSACTIONAL) / bench.cpu_us(BATCH),
        "single_vs_raw_by_cpu": bench.cpu_us(TRANSACTIONAL) / bench.cpu_us(SINGLE),
        "batch_vs_faust_by_cpu": bench.cpu_us(FAUST) / bench.cpu_us(BATCH),
        "logged_vs_batch": rate(LOGGED) / rate(BATCH),
        "inflight_efficiency": call_efficiency(long_calls),
    }
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    latency = {
        "hop_p50_ms": round(ours.p50_ms, 1),
        "hop_p99_ms": round(ours.p99_ms, 1),
        "raw_hop_p50_ms": round(raw.p50_ms, 1),
        "raw_hop_p99_ms": round(raw.p99_ms, 1),
    }
    memory = {
        "rss_quarter_mib": round(long_calls.rss_quarter_mib, 1),
        "rss_end_mib": round(long_calls.rss_end_mib, 1),
    }
    each = {f"{s.name}_per_s": round(rate(s)) for s in bench.runs} | {
        f"{s.name}_cpu_us": round(bench.cpu_us(s)) for s in bench.runs
    }
    return rounded | latency | memory | each | {"records": bench.records, "cpus": os.cpu_count() or 0}


def table(bench: Bench) -> Iterable[str]:
    """The figures for a reader."""
    raw = bench.rate(TRANSACTIONAL)
    yield f"{'':48} {'records/s':>10} {'us/record':>10} {'vs raw':>7}"
    for subject in bench.runs:
        rate = bench.rate(subject)
        yield f"{subject.title:48} {rate:10,.0f} {bench.cpu_us(subject):10.0f} {rate / raw:7.2f}"
    long_calls = bench.runs[CALLS_2S][0]
    yield (
        f"{CALLS_IN_FLIGHT:,} calls of {CALL_S:g} s in flight: {call_efficiency(long_calls):.1%} of the ideal rate; "
        f"memory {long_calls.rss_quarter_mib:.0f} MiB after a quarter, {long_calls.rss_end_mib:.0f} MiB at the end"
    )
    yield f"{f'a hop at {HOP_PER_S:g} records/s, ms':48} {'p50':>10} {'p99':>10} {'longest':>8}"
    for subject, hops in bench.hops.items():
        yield f"{subject.title:48} {hops.p50_ms:10.1f} {hops.p99_ms:10.1f} {hops.longest_ms:8.1f}"


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=160_000, help="tickets of the fastest subjects")
    parser.add_argument("--rounds", type=int, default=2, help="runs of what is compared most closely")
    names = [*(subject.name for subject in CLOSEST + SUBJECTS), HOP]
    parser.add_argument("--only", nargs="*", default=[], choices=names, help="measure these, and print no ratios")
    args = parser.parse_args()
    # Its retries are expected here (a new partition's first leader), and it logs each.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    started = time.monotonic()
    busy = os.getloadavg()[0]
    shutil.rmtree(FOLDER, ignore_errors=True)
    with EmbeddedKafka(FOLDER / "kafka", load=True) as kafka:
        bench = Bench(kafka.bootstrap_servers, args.records)
        await measure_all(bench, args.rounds, args.only)
    shutil.rmtree(FOLDER / "kafka")
    if args.only:
        return
    for line in table(bench):
        print(line)
    print(
        f"{time.monotonic() - started:.0f} s on {os.cpu_count()} processors, broker included; the load average before "
        f"it began was {busy:.1f}: by more than a little, rates say less than processor time"
    )
    print(json.dumps(figures(bench) | {"load_before": round(busy, 2)}))


if __name__ == "__main__":
    asyncio.run(main())
