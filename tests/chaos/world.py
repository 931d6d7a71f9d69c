"""What a chaos run hits: a broker, a frontier that counts its calls, and the stages as processes. All of it real.

Nothing outlives the run: the kernel kills what is left when this process ends,
frozen workers included (Linux).
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from schemas.codec import encode
from schemas.policy import CategoryPolicy, Policy
from streams import topics
from streams.local.embedded_kafka import EmbeddedKafka
from streams.local.machine import RECORDING_KEY
from streams.local.ports import free_port
from streams.local.processes import Child, Processes
from streams.local.spawn import spawn
from streams.settings import PREFIX, KafkaSettings
from tests.chaos.schedule import Round, WorkerName
from tests.chaos.verifier import Delivery
from tests.kafka import kafka_settings

FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"
PARTITIONS = 4
LATENCY_SCALE = 0.2
"""Of a frontier's usual pace: calls of 0.2 to 1.2 s, so that a kill finds some under way and a drain waits for all."""
TIER2_IN_FLIGHT = 8
"""Calls of one process, few enough to be full after every outage: what a kill may repeat, it does repeat."""
DRAIN_S = 5.0
WRONG_SETTINGS = 2
"""Exit code of `headgate run` that says: don't start me again."""
STOP_LIMIT_S = 30.0
"""For a drain, a broker that is away and a loaded machine. Past it a worker is killed, and that is counted."""

# Nothing to learn from tier-1 here: its stage runs on the same runtime, and no money is at stake.
ALL_TO_TIER2 = Policy(
    scope="default",
    version="chaos",
    default=CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow"),
)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which promises the workers run."""

    delivery: Delivery = "exactly_once"
    deduplicated: bool = True


class World:
    """The processes of a run, by name, and the ways to hit them."""

    def __init__(self, folder: Path, broker: EmbeddedKafka, frontier_url: str, conditions: Conditions) -> None:
        self.broker = broker
        self.kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers, partitions=PARTITIONS)
        self.frontier_url = frontier_url
        self.logs = folder / "logs"
        self.ended: Counter[int] = Counter()
        """Workers that ended without being told to, by exit code: each was started again."""
        self.late_stops: list[WorkerName] = []
        """Workers that SIGTERM did not end in time."""
        self._environment = _environment(folder, self.kafka, frontier_url, conditions)
        self._running: dict[WorkerName, subprocess.Popen[bytes]] = {}

    def start(self, worker: WorkerName) -> None:
        """Start a worker in its place."""
        own = {PREFIX + "KAFKA__GROUP_INSTANCE_ID": str(worker)} if worker.is_static else {}
        with (self.logs / f"{worker}.log").open("ab") as log:
            self._running[worker] = spawn(
                [sys.executable, "-m", "streams.cli", "run", worker.stage],
                output=log.fileno(),
                when_orphaned=signal.SIGKILL,
                environment={**self._environment, **own},
            )

    async def stop(self, worker: WorkerName) -> None:
        """Ask a worker to finish and leave, and wait until it has."""
        process = self._running.pop(worker)
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.late_stops.append(worker)
            process.kill()

    async def stop_all(self) -> None:
        """Stop every worker, all at once."""
        await asyncio.gather(*(self.stop(worker) for worker in list(self._running)))

    async def hit(self, blow: Round) -> None:
        """Do what the round says, and return once it is done; whoever was hit may still be coming back."""
        match blow.action, blow.worker:
            case "kill_broker", None:
                await asyncio.to_thread(self.broker.kill)
                await asyncio.sleep(blow.hold_s)
                await asyncio.to_thread(self.broker.start)
            case "restart_broker", None:
                await asyncio.to_thread(self.broker.restart)
            case "kill", WorkerName() as worker:
                self._running.pop(worker).kill()
                self.start(worker)
            case "freeze", WorkerName() as worker:
                await self._freeze(worker, blow.hold_s)
            case "restart", WorkerName() as worker:
                await self.stop(worker)
                self.start(worker)
            case "add", WorkerName() as worker:
                self.start(worker)
            case "remove", WorkerName() as worker:
                await self.stop(worker)
            case _:
                raise ValueError(f"round {blow.number} hits nobody: {blow}")

    async def _freeze(self, worker: WorkerName, hold_s: float) -> None:
        process = self._running[worker]
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(hold_s)
        finally:
            process.send_signal(signal.SIGCONT)

    async def supervise(self) -> None:
        """Start workers again that ended by themselves, for ever, as whatever runs them in production does."""
        while True:
            for worker, process in list(self._running.items()):
                if process.poll() is not None:
                    self.ended[process.returncode] += 1
                    self.start(worker)
            await asyncio.sleep(0.2)

    async def paid_calls(self) -> int:
        """The calls that the frontier was asked for, answered or not: a provider charges for what it has begun."""
        async with httpx.AsyncClient(timeout=5.0) as client:
            ledger = (await client.get(f"{self.frontier_url}/ledger")).json()
        return int(ledger["calls"])

    def kill_all(self) -> None:
        """Leave nobody behind."""
        for process in self._running.values():
            process.kill()
            process.wait()


@asynccontextmanager
async def world(folder: Path, conditions: Conditions) -> AsyncIterator[World]:
    """A broker with its topics and a recorded frontier, ready; no worker yet. All of it ends with the block."""
    frontier_url = f"http://127.0.0.1:{free_port()}"
    helpers = Processes(folder / "logs")
    broker = EmbeddedKafka(folder / "kafka")
    try:
        helpers.start(_frontier(frontier_url))
        await asyncio.to_thread(broker.start)
        made = World(folder, broker, frontier_url, conditions)
        await topics.apply(kafka_settings(made.kafka.bootstrap_servers, partitions=PARTITIONS))
        await helpers.wait_ready("frontier")
        try:
            yield made
        finally:
            made.kill_all()
    finally:
        helpers.stop()
        broker.kill()


def _frontier(url: str) -> Child:
    argv = (sys.executable, "-m", "workers.tier2.recorded_frontier", "--port", url.rpartition(":")[2])
    return Child("frontier", (*argv, "--company", str(FERNWAY), "--latency-scale", str(LATENCY_SCALE)), f"{url}/health")


def _environment(folder: Path, kafka: KafkaSettings, frontier_url: str, conditions: Conditions) -> dict[str, str]:
    policy = folder / "policy.json"
    policy.write_bytes(encode(ALL_TO_TIER2))
    told: Mapping[str, str] = {
        "CONFIG": str(FERNWAY / "headgate.toml"),
        "POLICY": str(policy),
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA__DRAIN_S": str(DRAIN_S),
        "KAFKA__DELIVERY": conditions.delivery,
        **({} if conditions.deduplicated else {"KAFKA__DEDUPE_WINDOW_S": "0"}),
        "TIER2__BASE_URL": frontier_url,
        "TIER2__API_KEY": RECORDING_KEY,
        "TIER2__IN_FLIGHT": str(TIER2_IN_FLIGHT),
    }
    # The settings of whoever runs this are not the world's.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {PREFIX + name: value for name, value in told.items()}
