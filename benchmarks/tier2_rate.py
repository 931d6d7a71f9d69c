"""How much of a provider's rate limits tier-2 uses, how often it is turned away, and how soon it follows a new limit.

Everything is taken from the frontier's own books, looked at four times a second.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path

import msgspec

from benchmarks.load import BenchmarkError
from benchmarks.tier2_frontier import FERNWAY, Books, Frontier, running
from schemas.tickets import Routed, TicketId
from streams.runtime.clock import utc_now
from tests.records import a_decision
from workers.knowledge import load_knowledge
from workers.learning.company import as_ticket, load_company
from workers.tier2.client import HandoffError, Tier2, Tier2Config
from workers.tier2.enforced_limits import Window
from workers.tier2.prices import Prices
from workers.tier2.spend import SpendLimits
from workers.tier2.spend_desk import LocalSpend
from workers.tier2.targets import Target
from workers.tier2.wire import Provider

MODELS: Mapping[Provider, str] = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-sol"}
REQUESTS_PER_MINUTE = 1_200
"""Twenty a second: just fine enough to see 5 % of it within a second, and far from what two cores can do."""
LATENCY_SCALE = 0.3
"""Of a large model's pace: calls of 0.3 to 1 s."""
BINDING = 0.75
"""In the rounds in which tokens bind: what their limit allows of the requests' one."""
TICKETS = 128
"""Asked for at a time: as many as the stage would hold, and more than the limits need."""
LOOK_S = 0.25
CLOSE = 0.05
MOST_429 = 0.01
STEADY_S = 5.0
"""A new limit is not followed before it was for so long, up to the end of the observation."""


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of the parts of a measurement."""

    warm_up_s: float = 20.0
    measured_s: float = 40.0
    followed_s: float = 25.0


@dataclass(frozen=True, slots=True)
class Round:
    """A limit under steady demand."""

    provider: Provider
    window: Window
    rate_used: float
    share_429: float
    calls: int


@dataclass(frozen=True, slots=True)
class Change:
    """A limit that became another one."""

    provider: Provider
    title: str
    recovery_s: float | None
    """None: not within the observation."""
    share_429: float
    """Of all calls from the change to the end of the observation."""


def rate_used(first: Books, last: Books, window: Window, per_minute: int) -> float:
    """The share of the window's limit that answers took between two looks."""
    used = last.used.get(window, 0) - first.used.get(window, 0)
    return used / (last.at_s - first.at_s) / (per_minute / 60)


def share_429(first: Books, last: Books) -> float:
    """The share of the calls between two looks that were turned away."""
    return (last.rate_limited - first.rate_limited) / max(1, last.calls - first.calls)


def recovery_s(looks: Sequence[Books], changed_at_s: float, window: Window, per_minute: int) -> float | None:
    """Seconds from the change to the first second in which the rate is the new limit, give or take 5 %, if it is so on
    average from then to the end and under 1 % of those calls are turned away."""
    last = looks[-1]
    for first in looks:
        if first.at_s < changed_at_s or last.at_s - first.at_s < STEADY_S:
            continue
        a_second_on = next(b for b in looks if b.at_s >= first.at_s + 1.0)
        rates = [rate_used(first, b, window, per_minute) for b in (a_second_on, last)]
        if all(abs(rate - 1) <= CLOSE for rate in rates) and share_429(first, last) <= MOST_429:
            return first.at_s - changed_at_s
    return None


def tickets() -> Iterator[Routed]:
    """Fernway's tickets on their way to tier-2, over and over, each with an id of its own."""
    decision = a_decision("tier2")
    examples = load_company(FERNWAY).split("test")
    for number, example in zip(count(1), cycle(examples)):
        ticket = msgspec.structs.replace(as_ticket(example), ticket_id=TicketId(f"{example.ticket_id}#{number}"))
        yield Routed(ticket=ticket, decision=decision, received_at=utc_now())


def config(base_urls: Mapping[Provider, str], **settings: object) -> Tier2Config:
    """Tier-2 as the stage would make it, for these providers in this order."""
    knowledge = "\n\n".join(f"[{p.id}] {p.text}" for p in load_knowledge(FERNWAY / "knowledge.toml"))
    targets = tuple(
        Target(provider=p, base_url=url, model=MODELS[p], api_key="recording", role="primary")
        for p, url in base_urls.items()
    )
    fixed = {"targets": targets, "company": "Fernway", "knowledge": knowledge, "prices": Prices.load(None)}
    return Tier2Config(**fixed, **settings)  # type: ignore[arg-type]


@dataclass
class Load:
    """Tickets that are always there."""

    tier2: Tier2
    ended: Counter[str] = field(default_factory=Counter)
    """What became of the tickets: `draft`, or why they were handed on."""

    async def ask(self, waiting: Iterator[Routed]) -> None:
        """One ticket after the other, for ever."""
        while True:
            try:
                await self.tier2.answer(next(waiting))
            except HandoffError as exc:
                self.ended[exc.why] += 1
            else:
                self.ended["draft"] += 1


@asynccontextmanager
async def loaded(made: Tier2Config) -> AsyncIterator[Load]:
    """Tier-2 with more tickets than the limits let through."""
    async with Tier2(made, LocalSpend(SpendLimits())) as tier2, asyncio.TaskGroup() as group:
        load, waiting = Load(tier2), tickets()
        tasks = [group.create_task(load.ask(waiting)) for _ in range(TICKETS)]
        yield load
        for task in tasks:
            task.cancel()


async def measure(
    provider: Provider, folder: Path, durations: Durations, burst_s: float
) -> tuple[list[Round], list[Change]]:
    """Both rounds, or all three, and the changes of the limit, on a frontier of the provider's own.

    Raises: BenchmarkError if a ticket got no draft: nothing goes wrong here but 429s.
    """
    limits = ("--requests-per-minute", str(REQUESTS_PER_MINUTE), "--burst-s", str(burst_s))
    arguments = ("--latency-scale", str(LATENCY_SCALE), *limits)
    async with running(folder, f"frontier-{provider}", *arguments) as frontier:
        async with loaded(config({provider: frontier.base_url}, most_in_flight=TICKETS)) as load:
            requests, first, last = await _round(frontier, provider, "requests", REQUESTS_PER_MINUTE, durations)
            rounds = [requests]
            changes = [
                await _change(frontier, provider, "doubled", 2 * REQUESTS_PER_MINUTE, durations),
                await _change(frontier, provider, "halved", REQUESTS_PER_MINUTE, durations),
            ]
            for window in _token_windows(provider):
                per_call = (last.used[window] - first.used[window]) / (last.used["requests"] - first.used["requests"])
                limit = int(per_call * REQUESTS_PER_MINUTE * BINDING)
                await frontier.limit({"requests_per_minute": REQUESTS_PER_MINUTE, **_limits(window, limit)})
                rounds.append((await _round(frontier, provider, window, limit, durations))[0])
        if set(load.ended) != {"draft"}:
            raise BenchmarkError(f"{provider}: tickets ended as {dict(load.ended)}; see {folder}")
        return rounds, changes


def _token_windows(provider: Provider) -> tuple[Window, ...]:
    return ("tokens",) if provider == "openai" else ("input-tokens", "output-tokens")


def _limits(window: Window, per_minute: int) -> dict[str, int]:
    if window == "output-tokens":
        return {"output_tokens_per_minute": per_minute}
    # Without the second, Anthropic's output would bind instead.
    return {"tokens_per_minute": per_minute, "output_tokens_per_minute": 10 * per_minute}


async def _round(
    frontier: Frontier, provider: Provider, window: Window, per_minute: int, durations: Durations
) -> tuple[Round, Books, Books]:
    await asyncio.sleep(durations.warm_up_s)
    first = await frontier.books()
    await asyncio.sleep(durations.measured_s)
    last = await frontier.books()
    used, turned_away = rate_used(first, last, window, per_minute), share_429(first, last)
    return Round(provider, window, used, turned_away, last.calls - first.calls), first, last


async def _change(frontier: Frontier, provider: Provider, title: str, per_minute: int, durations: Durations) -> Change:
    await frontier.limit({"requests_per_minute": per_minute})
    changed_at_s = time.monotonic()
    looks = [await frontier.books()]
    while looks[-1].at_s < changed_at_s + durations.followed_s:
        await asyncio.sleep(LOOK_S)
        looks.append(await frontier.books())
    recovered_s = recovery_s(looks, changed_at_s, "requests", per_minute)
    return Change(provider, title, recovered_s, share_429(looks[0], looks[-1]))
