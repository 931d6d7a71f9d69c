"""The tier-2 benchmark's provider: the recorded frontier in a process of its own, with limits, a pace and faults.

Its companion functions start it and ask it for its books.
"""

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from benchmarks.load import BenchmarkError, Client, start_client
from streams.local.ports import free_port
from tests import frontier_faults as faults
from workers.learning.company import load_company
from workers.tier2.enforced_limits import USUAL_BURST_S, Window
from workers.tier2.recorded_frontier import application, no_faults
from workers.tier2.recording import Recordings

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
START_LIMIT_S = 60.0

WEIGHTS: Mapping[faults.MakeFault, float] = {
    faults.rate_limited: 2.0,
    faults.overloaded: 2.0,
    faults.error_500: 2.0,
    faults.half_body: 1.5,
    faults.wrong_json: 1.5,
    faults.refusal: 1.0,
    faults.empty_content: 1.0,
    faults.hang: 0.5,
    faults.slow_drip: 0.5,
    faults.wrong_model: 0.05,
    faults.unknown_model: 0.05,
}
"""Guesses at proportions. The last two close a target for every ticket at once, and no provider has them by chance."""


@dataclass(frozen=True, slots=True)
class Books:
    """The frontier's ledger at a moment (time.monotonic)."""

    at_s: float
    calls: int
    open: int
    rate_limited: int
    used: Mapping[Window, int]
    delivered_calls: int
    delivered_micro_usd: int
    broken_calls: int
    broken_micro_usd: int
    faults: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Frontier:
    """A running frontier."""

    base_url: str
    client: Client
    http: httpx.AsyncClient

    async def books(self) -> Books:
        """Raises: BenchmarkError if its process has ended."""
        self.client.check()
        told: dict[str, Any] = (await self.http.get("/ledger")).raise_for_status().json()
        delivered, broken = told["delivered"], told["broken"]
        return Books(
            time.monotonic(),
            told["calls"],
            told["open"],
            told["rate_limited"],
            told["used"],
            delivered["calls"],
            delivered["cost_micro_usd"],
            broken["calls"],
            broken["cost_micro_usd"],
            told["faults"],
        )

    async def limit(self, limits: Mapping[str, int]) -> None:
        """Other limits from now on."""
        (await self.http.put("/limits", json=dict(limits))).raise_for_status()


@asynccontextmanager
async def running(folder: Path, name: str, *arguments: str) -> AsyncIterator[Frontier]:
    """A frontier with these arguments, ready."""
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    client = start_client("benchmarks.tier2_frontier", name, ("--port", str(port), *arguments), folder)
    try:
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=10.0) as http:
            await _ready(client, http)
            yield Frontier(base_url, client, http)
    finally:
        client.stop()


async def _ready(client: Client, http: httpx.AsyncClient) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        client.check()
        try:
            await http.get("/health")
        except httpx.TransportError as exc:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{client.name} doesn't listen after {START_LIMIT_S:.0f} s") from exc
            await asyncio.sleep(0.05)
        else:
            return


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="for the log")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-scale", type=float, default=1.0)
    parser.add_argument("--requests-per-minute", type=int)
    parser.add_argument("--burst-s", type=float, default=USUAL_BURST_S)
    parser.add_argument("--faults", type=float, default=0.0, help="the share of calls that go wrong")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    drawn = faults.Drawn(args.faults, WEIGHTS, random.Random(args.seed)) if args.faults else no_faults
    app = application(
        Recordings(load_company(FERNWAY).examples),
        latency_scale=args.latency_scale,
        requests_per_minute=args.requests_per_minute,
        burst_s=args.burst_s,
        faults=drawn,
    )
    web.run_app(app, host="127.0.0.1", port=args.port, access_log=None, shutdown_timeout=1.0)


if __name__ == "__main__":
    main()
