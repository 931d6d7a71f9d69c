"""Processes that hammer the spend limits with made-up calls and are killed at random moments, and what they have paid.

Every process writes each call that it makes, with its real cost, to a file of its own before the call returns: the sum
of the files is the truth that the ledger is measured against. `python -m tests.spend_process --processes 32` prints
the result as JSON.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from msgspec import Struct

from schemas.codec import decode, encode
from streams import spend as shared_spend
from streams import topics
from streams.local.embedded_kafka import EmbeddedKafka
from streams.local.spawn import spawn
from streams.settings import KafkaSettings
from streams.spend import SharedSpend
from tests.kafka import kafka_settings
from workers.errors import RetryableError
from workers.tier2.spend import SpendLimitError, SpendLimits, TenantLimits
from workers.tier2.spend_desk import SpendDesk

WORST_MICRO_USD = 1_000
"""No call reserves more."""
TENANTS = ("acme", "umbrella", "small")
PATIENCE_S = 2.0
KILL_S = 2.0
"""Longest time between two kills. A process takes a second to start: killed sooner it has paid for nothing."""
FULL = 0.98
"""Of a limit: what is left then is too little for nearly every call."""


class Job(Struct, frozen=True, kw_only=True):
    """What a process is told on its command line."""

    servers: str
    prefix: str
    calls: str
    """The file for its calls."""
    workers: int
    day_micro_usd: int
    small_day_micro_usd: int
    """The limit of the tenant `small`."""
    snapshot_every: int = 300
    """Often, so that most of those who start begin at a snapshot."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to. Money in micro-dollars."""

    processes: int
    workers: int
    seconds: float
    calls: int
    calls_per_s: float
    kills: int
    limit_micro_usd: int
    paid_micro_usd: int
    """Real costs of all calls, those of killed processes too."""
    counted_micro_usd: int
    overrun_micro_usd: int
    """Paid beyond the limit."""
    small_limit_micro_usd: int
    small_paid_micro_usd: int
    exposure_micro_usd: int
    """Counted and not paid: worst cases of calls that a kill has left without a settlement."""
    in_flight_at_kills_micro_usd: int
    """The most that exposure may be."""


def limits_of(job: Job) -> SpendLimits:
    own = {"small": TenantLimits(day_usd=job.small_day_micro_usd / 1e6)}
    return SpendLimits(day_usd=job.day_micro_usd / 1e6, tenants=own)


async def work(spend: SpendDesk, calls: int, stopping: asyncio.Event, rng: random.Random) -> None:
    """Call after call, each paid before it is over; a used-up limit is asked again and again."""
    while not stopping.is_set():
        tenant, worst = rng.choice(TENANTS), rng.randrange(1, WORST_MICRO_USD + 1)
        try:
            reservation = await spend.reserve(tenant, worst, PATIENCE_S)
        except (SpendLimitError, RetryableError):
            await asyncio.sleep(rng.uniform(0, 0.05))
            continue
        cost = rng.randrange(0, worst + 1)
        # The provider charges from here on, whatever becomes of us; one write is whole or not there.
        os.write(calls, f"{tenant} {cost}\n".encode())
        await asyncio.sleep(rng.uniform(0, 0.02))
        spend.settle(reservation, cost)


async def child(job: Job) -> None:
    """One process, until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    calls = os.open(job.calls, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    shared_spend.SNAPSHOT_EVERY = job.snapshot_every
    settings = KafkaSettings(bootstrap_servers=job.servers, topic_prefix=job.prefix)
    async with SharedSpend(settings, limits_of(job)) as spend, asyncio.TaskGroup() as workers:
        for _ in range(job.workers):
            workers.create_task(work(spend, calls, stopping, random.Random()))


class Crew:
    """The processes of a run. Whoever is killed is replaced."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder = folder
        self.job = job
        self.kills = 0
        self._started = 0
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        job = Job(**{f: getattr(self.job, f) for f in Job.__struct_fields__ if f != "calls"}, calls=self._file())
        with (self.folder / "log").open("ab") as log:
            self._running.append(
                spawn(
                    [sys.executable, "-m", "tests.spend_process", "--job", encode(job).decode()],
                    output=log.fileno(),
                    when_orphaned=signal.SIGKILL,
                    folder=Path(__file__).parents[1],
                )
            )

    def kill(self, rng: random.Random) -> None:
        """SIGKILL one of them, and start another in its place."""
        victim = self._running.pop(rng.randrange(len(self._running)))
        assert victim.poll() is None, f"a process ended by itself: {self.log()}"
        victim.kill()
        victim.wait()
        self.kills += 1
        self.start()

    async def stop(self) -> None:
        """Let all of them settle what they have begun."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            assert await asyncio.to_thread(process.wait, 60) in (0, -signal.SIGTERM), self.log()
        self._running.clear()

    def kill_all(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def paid(self) -> tuple[int, Counter[str]]:
        """How many calls were made, and what each tenant's have really cost."""
        lines = [line.split() for path in self.folder.glob("*.calls") for line in path.read_text().splitlines()]
        paid: Counter[str] = Counter()
        for tenant, cost in lines:
            paid[tenant] += int(cost)
        return len(lines), paid

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")[-5_000:]

    def _file(self) -> str:
        self._started += 1
        return str(self.folder / f"{self._started}.calls")


async def hammer(folder: Path, job: Job, processes: int, seconds: float, seed: int) -> Outcome:
    """Kill and restart processes for so long and until the limit is reached, then for 3 s more; let the rest finish.

    Raises: AssertionError if the limit isn't reached within five times `seconds`, or a process ends by itself.
    """
    rng, crew = random.Random(seed), Crew(folder, job)
    settings = KafkaSettings(bootstrap_servers=job.servers, topic_prefix=job.prefix)
    began_s = time.monotonic()
    async with SharedSpend(settings, limits_of(job)) as observer:
        await asyncio.wait_for(observer.current.wait(), 30)
        try:
            for _ in range(processes):
                crew.start()
            ends_s = began_s + seconds
            while time.monotonic() < ends_s:
                await asyncio.sleep(rng.uniform(0, KILL_S))
                crew.kill(rng)
                if _counted(observer) < FULL * job.day_micro_usd:
                    ends_s = max(ends_s, time.monotonic() + 3.0)
                    assert time.monotonic() < began_s + 5 * seconds, f"the limit is out of reach: {_counted(observer)}"
            await crew.stop()
        finally:
            crew.kill_all()
        await read_to_the_end(observer)
        calls, paid = crew.paid()
        counted = _counted(observer)
    elapsed_s = time.monotonic() - began_s
    return Outcome(
        processes=processes,
        workers=job.workers,
        seconds=round(elapsed_s, 1),
        calls=calls,
        calls_per_s=round(calls / elapsed_s, 1),
        kills=crew.kills,
        limit_micro_usd=job.day_micro_usd,
        paid_micro_usd=paid.total(),
        counted_micro_usd=counted,
        overrun_micro_usd=max(0, paid.total() - job.day_micro_usd),
        small_limit_micro_usd=job.small_day_micro_usd,
        small_paid_micro_usd=paid["small"],
        exposure_micro_usd=counted - paid.total(),
        in_flight_at_kills_micro_usd=crew.kills * job.workers * WORST_MICRO_USD,
    )


def _counted(spend: SharedSpend) -> int:
    return spend.book.counted_micro_usd(None, "day", spend.now_s())


async def read_to_the_end(spend: SharedSpend) -> None:
    """Wait until a process has read everything that stands in the log now: a step of its own stands behind it."""
    reservation = await spend.reserve("observer", 0, 30.0)
    spend.settle(reservation, 0)


async def script(processes: int, workers: int, seconds: float, day_usd: float) -> Outcome:
    with tempfile.TemporaryDirectory() as folder, EmbeddedKafka(Path(folder) / "kafka", load=True) as broker:
        await topics.apply(kafka_settings(broker.bootstrap_servers, partitions=1))
        job = Job(
            servers=broker.bootstrap_servers,
            prefix="",
            calls="",
            workers=workers,
            day_micro_usd=int(day_usd * 1e6),
            small_day_micro_usd=int(day_usd * 1e5),
        )
        return await hammer(Path(folder), job, processes, seconds, seed=int(time.time()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", help="what one of the processes is told")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--day-usd", type=float, default=5.0)
    args = parser.parse_args()
    if args.job:
        asyncio.run(child(decode(Job, args.job.encode())))
    else:
        outcome = asyncio.run(script(args.processes, args.workers, args.seconds, args.day_usd))
        print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
