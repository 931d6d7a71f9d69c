"""The bench of the stream benchmarks: topics, tickets, a subject in a process of its own, and what is measured of it.

Rates are taken from the topics and not from the subject: the last stable
offsets of its output topics, so that a record counts when a read_committed
reader can see it.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.payload import OUTPUTS, ticket
from schemas.codec import encode
from schemas.topics import ANSWERS, DEAD_LETTERS, EVENTS, TICKETS, Topic, all_names
from streams.local.spawn import spawn
from streams.topics import leaderless_partitions

ROOT = Path(__file__).parent.parent
PARTITIONS = 8
NEEDED = (TICKETS, ANSWERS, EVENTS, DEAD_LETTERS)
WATCH_S = 0.02
QUIET_S = 1.0
"""Output that has stood still for this long, once enough of it is there, is complete: longer than any hop takes."""


class BenchmarkError(Exception):
    """A subject that can't be measured: which, and why."""


async def create_topics(servers: str, prefix: str) -> None:
    """The topics a router needs under `prefix`, its twins included, each with a leader for every partition."""
    names = {n: t for n, t in all_names(prefix).items() if t in NEEDED}
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(n, PARTITIONS, 1, topic_configs=_limits(t)) for n, t in names.items()])
        deadline = time.monotonic() + 30.0
        while leaderless_partitions(dict.fromkeys(names, PARTITIONS), await _leaders(admin)):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"topics {prefix}* have no leaders after 30 s")
            await asyncio.sleep(WATCH_S)
    finally:
        await admin.close()


def _limits(topic: Topic) -> dict[str, str]:
    return {"max.message.bytes": str(topic.max_message_bytes)}


async def _leaders(admin: AIOKafkaAdminClient) -> dict[str, tuple[int | None, ...]]:
    described = await admin.describe_topics()
    return {
        t["topic"]: tuple(
            None if p["leader"] < 0 else p["leader"] for p in sorted(t["partitions"], key=lambda p: int(p["partition"]))
        )
        for t in described
    }


async def preload(servers: str, prefix: str, numbers: range) -> None:
    """Publish the tickets of these numbers, keyed by their ids, as a plain producer does."""
    async with AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=256 * 1024, linger_ms=5) as producer:
        for start in range(numbers.start, numbers.stop, 5_000):
            sent = [
                await producer.send(prefix + TICKETS.name, encode(value), key=value.ticket_id.encode())
                for value in map(ticket, numbers[start - numbers.start : start - numbers.start + 5_000])
            ]
            await asyncio.gather(*sent)


@dataclass
class Client:
    """A subject's process."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_path: Path

    @property
    def cpu_s(self) -> float:
        """Processor seconds it has used, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def check(self) -> None:
        """Raises: BenchmarkError with the end of its log if it has ended."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log_path.read_text("utf-8", "replace").splitlines()[-15:])
            raise BenchmarkError(f"{self.name} ended (exit code {self.process.returncode}):\n{tail}")

    def stop(self, by: signal.Signals = signal.SIGTERM, limit_s: float = 15.0) -> None:
        """End it; what doesn't listen is killed."""
        self.process.send_signal(by)
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_client(
    module: str, name: str, arguments: Sequence[str], folder: Path, settings: Mapping[str, str] | None = None
) -> Client:
    """Run `module` with a subject's name and arguments, in a fresh interpreter, with these variables beside ours. Its
    log is FOLDER/NAME.log."""
    log_path = folder / f"{name}.log"
    with log_path.open("ab") as log:
        argv = [sys.executable, "-m", module, name, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(settings or {})}
        process = spawn(argv, log.fileno(), signal.SIGKILL, folder=folder, environment=environment)
    return Client(name, process, log_path)


@dataclass
class Watch:
    """The growth of a subject's output topics, as a read_committed reader could see it."""

    consumer: AIOKafkaConsumer
    partitions: Sequence[TopicPartition]
    seen: list[tuple[float, int]] = field(default_factory=list)
    """When, and how many offsets there were, at every growth."""

    async def look(self) -> int:
        """How many offsets stand behind the last stable ones: records, and in transactions their markers."""
        total = int(sum((await self.consumer.end_offsets(self.partitions)).values()))
        if not self.seen or total > self.seen[-1][1]:
            self.seen.append((time.monotonic(), total))
        return total


@asynccontextmanager
async def watching(servers: str, topics: Sequence[str]) -> AsyncIterator[Watch]:
    """A watch on the topics, which must exist."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed")
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    await consumer.start()
    try:
        consumer.assign(partitions)
        consumer.pause(*partitions)
        watch = Watch(consumer, partitions)
        await watch.look()
        yield watch
    finally:
        await consumer.stop()


@dataclass(frozen=True, slots=True)
class Run:
    """A subject's way through its tickets."""

    records: int
    first_at_s: float
    """When its first output could be read (time.monotonic)."""
    seconds: float
    """From its first output to its last."""
    records_per_s: float
    cpu_us_per_record: float
    rss_quarter_mib: float
    """Its memory when a quarter of its output was there."""
    rss_end_mib: float


async def follow(client: Client, watch: Watch, records: int, limit_s: float) -> Run:
    """Watch a client until its output for `records` tickets is there and stands still.

    Raises: BenchmarkError if it ends, or is not done within `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    start = watch.seen[-1][1]
    cpu_s: list[float] = []
    rss_quarter_mib = rss_mib = 0.0
    while True:
        known = len(watch.seen)
        made = await watch.look() - start
        client.check()
        if len(watch.seen) > known:
            cpu_s.append(client.cpu_s)
            rss_mib = client.rss_mib
        if not rss_quarter_mib and made >= records * OUTPUTS / 4:
            rss_quarter_mib = rss_mib
        now = time.monotonic()
        if made >= records * OUTPUTS and now - watch.seen[-1][0] > QUIET_S:
            break
        if now > deadline:
            raise BenchmarkError(f"{client.name}: {made} of {records * OUTPUTS} outputs after {limit_s:.0f} s")
        await asyncio.sleep(WATCH_S)
    (first_at_s, first), (last_at_s, last) = watch.seen[-len(cpu_s)], watch.seen[-1]
    # Markers grow with the records, so shares of the offsets are shares of the records.
    between = records * (last - first) / (last - start)
    seconds = last_at_s - first_at_s
    cpu_us = (cpu_s[-1] - cpu_s[0]) / between * 1e6
    return Run(records, first_at_s, seconds, between / seconds, cpu_us, rss_quarter_mib, rss_mib)


async def committed_ids(servers: str, topic: str) -> list[str]:
    """The keys of all records of a topic that a read_committed reader finds."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    found: list[str] = []
    async with consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        open_ = {p for p in partitions if ends[p]}
        while open_:
            polled = await consumer.getmany(timeout_ms=200)
            found += [record.key.decode() for records in polled.values() for record in records]
            open_ = {p for p in open_ if await consumer.position(p) < ends[p]}
    return found
