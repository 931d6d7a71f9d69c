"""Tier-2's client for tests: before a recorded frontier with scripted faults, on a clock of its own."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from schemas.tickets import Attempt, Routed, RouteReason
from tests.frontier_faults import MakeFault, Script, frontier, ledger, recordings
from tests.records import a_decision, a_routed, a_ticket
from workers.tier2.client import Tier2, Tier2Config
from workers.tier2.prices import Prices
from workers.tier2.spend import SpendLimits
from workers.tier2.spend_desk import LocalSpend
from workers.tier2.targets import Role, Target
from workers.tier2.wire import Provider

KEY = "sk-test-0123456789abcdef"
BODY = "Please tell me, Ann Field, why my bill is $54."
ANSWER = "It is the setup fee."
MODELS: Mapping[Provider, str] = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-sol"}
UNHEARD_MICRO_USD = 5_000
"""A worst case is more than this: 500 tokens of answer at $10 a million."""
SILENT_S = 1.0
"""A call's time where a fault never answers: more than a call to this machine takes, however busy it is."""


@dataclass
class Time:
    """A clock that only the client's own waits move."""

    now_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)

    def clock(self) -> float:
        return self.now_s


def target(provider: Provider, base_url: str, role: Role = "primary", **changes: Any) -> Target:
    values = {"role": role, "base_url": base_url, "model": MODELS[provider], "api_key": KEY}
    return Target(provider=provider, **(values | changes))


def config(*targets: Target, **changes: Any) -> Tier2Config:
    values: dict[str, Any] = {"attempts": 3, "timeout_s": 60.0, "prices": Prices.load(None)} | changes
    knowledge = "[billing.setup_fee] A setup fee of $15 comes with the first bill."
    return Tier2Config(targets=targets, company="Fernway", knowledge=knowledge, **values)


def routed(body: str = BODY, tenant: str = "default", attempts: tuple[Attempt, ...] = ()) -> Routed:
    """A ticket on its way to tier-2."""
    decision = a_decision("tier2", reason=RouteReason.UNCERTAIN)
    return a_routed(a_ticket(body, tenant=tenant), decision=decision, attempts=attempts)


@dataclass
class Frontier:
    """The recorded frontier: both providers behind one address, with faults by script."""

    base_url: str
    script: Script

    def then(self, provider: Provider, *steps: MakeFault | None) -> None:
        self.script.steps[provider].extend(steps)

    async def calls(self) -> int:
        return int((await ledger(self.base_url))["calls"])

    async def charged_micro_usd(self) -> int:
        return int((await ledger(self.base_url))["cost_micro_usd"])

    async def delivered_micro_usd(self) -> int:
        return int((await ledger(self.base_url))["delivered"]["cost_micro_usd"])


@asynccontextmanager
async def scripted() -> AsyncIterator[Frontier]:
    """The recorded frontier with one recorded answer; every scripted fault must have been met at the end."""
    script = Script()
    async with frontier(recordings({BODY: ANSWER}), script) as base_url:
        yield Frontier(base_url, script)
        assert script.left == 0, "the client made fewer calls than scripted"


@dataclass
class Running:
    """A client at work, its money and its clock."""

    tier2: Tier2
    spend: LocalSpend
    time: Time

    @property
    def spent_micro_usd(self) -> int:
        """What counts in this month."""
        return self.spend.book.counted_micro_usd(None, "month", self.spend.now_s())


@asynccontextmanager
async def running(config: Tier2Config, limits: SpendLimits | None = None) -> AsyncIterator[Running]:
    """The client on a clock of its own."""
    time, spend = Time(), LocalSpend(limits or SpendLimits())
    async with Tier2(config, spend, sleep=time.sleep, clock=time.clock, rng=random.Random(1)) as tier2:
        yield Running(tier2, spend, time)
