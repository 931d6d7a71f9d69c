"""The chain of benchmarks/pipeline.py: a process a stage and the provider, started together and looked at."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import BenchmarkError, Client, start_client
from benchmarks.quality import FERNWAY
from schemas.policy import CategoryPolicy, Policy
from streams.local.ports import free_port
from streams.settings import CONFIG, PREFIX, KafkaSettings

STAGES = ("router", "tier1", "tier2", "checker")
MODULE = "benchmarks.pipeline_stages"
START_LIMIT_S = 60.0
REMEMBERED = 2_000
"""Tickets of a partition that the router remembers: so few that a soak finds its memory full, and not growing."""
TIER1_FROM_P_OK = Policy(
    scope="default", version="bench", default=CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.0)
)


@dataclass(frozen=True, slots=True)
class Slots:
    """Tickets that a stage has begun and not committed, at most."""

    tier1: int
    tier2: int


@dataclass(frozen=True, slots=True)
class StageCounts:
    """What a stage's process has used and done since it began."""

    cpu_s: float
    rss_mib: float
    transactions: float
    transactions_s: float


@dataclass(frozen=True, slots=True)
class Chain:
    """A running chain."""

    clients: Mapping[str, Client]
    """By the stage's name, and `provider`."""
    ports: Mapping[str, int]
    http: httpx.AsyncClient

    def check(self) -> None:
        """Raises: BenchmarkError if a process has ended."""
        for client in self.clients.values():
            client.check()

    def rss_mib(self) -> float:
        """Of all stages together."""
        return sum(self.clients[name].rss_mib for name in STAGES)

    async def counts(self) -> dict[str, StageCounts]:
        """By stage."""
        counted = {}
        for name in STAGES:
            client, done, took_s = self.clients[name], 0.0, 0.0
            page = (await self.http.get(f"http://127.0.0.1:{self.ports[name]}/metrics")).text
            for family in text_string_to_metric_families(page):
                if family.name == "headgate_transaction_seconds":
                    done = sum(s.value for s in family.samples if s.name.endswith("_count"))
                    took_s = sum(s.value for s in family.samples if s.name.endswith("_sum"))
            counted[name] = StageCounts(client.cpu_s, client.rss_mib, done, took_s)
        return counted


@asynccontextmanager
async def running(kafka: KafkaSettings, slots: Slots, folder: Path) -> AsyncIterator[Chain]:
    """The chain, each stage with its partitions."""
    ports = {name: free_port() for name in (*STAGES, "provider")}
    environment = _environment(kafka, slots, folder, f"http://127.0.0.1:{ports['provider']}")
    clients = {"provider": start_client(MODULE, "provider", (str(ports["provider"]),), folder)}
    try:
        for name in STAGES:
            own = {PREFIX + "HEALTH_PORT": str(ports[name])}
            clients[name] = start_client(MODULE, name, (), folder, environment | own)
        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
            chain = Chain(clients, ports, http)
            await _ready(chain)
            yield chain
    finally:
        await asyncio.gather(*(asyncio.to_thread(client.stop, limit_s=30.0) for client in clients.values()))


def _environment(kafka: KafkaSettings, slots: Slots, folder: Path, provider_url: str) -> dict[str, str]:
    policy = folder / "policy.json"
    policy.write_bytes(msgspec.json.encode(TIER1_FROM_P_OK))
    told = {
        "POLICY": str(policy),
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA__PARTITIONS": str(kafka.partitions),
        "KAFKA__DEDUPE_LIMIT": str(REMEMBERED),
        "TIER1__IN_FLIGHT": str(slots.tier1),
        "TIER2__IN_FLIGHT": str(slots.tier2),
        "TIER2__BASE_URL": provider_url,
        "TIER2__API_KEY": "simulated",
    }
    return {CONFIG: str(FERNWAY / "headgate.toml")} | {PREFIX + name: value for name, value in told.items()}


async def _ready(chain: Chain) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    for name in STAGES:
        while True:
            chain.check()
            try:
                if (await chain.http.get(f"http://127.0.0.1:{chain.ports[name]}/readyz")).is_success:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{name} was not ready within {START_LIMIT_S:.0f} s")
            await asyncio.sleep(0.1)


def start_backfill(kafka: KafkaSettings, since: str, until: str, output: str, folder: Path) -> Client:
    """`headgate backfill` of all tickets written between, each answered on a topic of its own once more."""
    arguments = ("--from", since, "--to", until, "--again", "--output", output)
    settings = {
        CONFIG: str(FERNWAY / "headgate.toml"),
        PREFIX + "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        PREFIX + "KAFKA__PARTITIONS": str(kafka.partitions),
    }
    return start_client("streams.cli", "backfill", arguments, folder, settings)
