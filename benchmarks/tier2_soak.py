"""Thousands of calls of which one in ten goes wrong: what became of every ticket, and whose books say what it cost.

The frontier answers at once, so that a call takes what client and server take.
The client's waits between calls (back-off, cool-downs, an open breaker) run at
a tenth of their length, or the soak would be a test of patience; the timeout of
a call is real.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tier2_frontier import FERNWAY, Books, Frontier, running
from benchmarks.tier2_rate import config, tickets
from schemas.drafts import Draft
from schemas.tickets import Routed
from workers.learning.company import load_company
from workers.tier2.client import HandoffError, Tier2, Tier2Config
from workers.tier2.spend import Reservation, SpendLimits
from workers.tier2.spend_desk import LocalSpend

FASTER = 10.0
"""The client's clock, against the wall's."""
IN_FLIGHT = 64
TIMEOUT_S = 2.0
"""Real seconds for a call: a hundred times what one takes here, so that only hanging ones meet it, and no answer that
the frontier has delivered comes too late for the client."""
SHARE = 0.1
LOST = "lost"
LIMIT_S = 900.0
"""A soak that isn't over by then hangs."""
SETTLED_S = 10.0
"""The frontier notices within this time that a caller has hung up."""


@dataclass(frozen=True, slots=True)
class Soak:
    """How it ended."""

    tickets: int
    lost: int
    """Tickets that ended in neither their own draft nor an error that hands them on."""
    fates: dict[str, int]
    calls: int
    """That the client counted as made."""
    seconds: float
    known_micro_usd: int
    """Settled by the client for calls whose usage it knows."""
    exposure_micro_usd: int
    """Counted by the client at its worst case, for calls whose usage it doesn't know."""
    unknown_calls: int
    tickets_micro_usd: int
    """Known and unknown together, as drafts and handoffs tell them."""
    unsettled: int
    """Reservations without an end."""
    books: Books


class CountedSpend:
    """Tier-2's own spend ledger, with a count of what was known for certain."""

    def __init__(self, inner: LocalSpend) -> None:
        self._inner = inner
        self.begun = self.settled = 0
        self.unknown_calls = self.known_micro_usd = self.exposure_micro_usd = 0

    async def reserve(self, tenant: str, micro_usd: int, patience_s: float) -> Reservation:
        reservation = await self._inner.reserve(tenant, micro_usd, patience_s)
        self.begun += 1
        return reservation

    def settle(self, reservation: Reservation, micro_usd: int) -> None:
        # No answer costs as much as its worst case, which counts two bytes a token and all of them as new.
        if micro_usd == reservation.micro_usd:
            self.unknown_calls += 1
            self.exposure_micro_usd += micro_usd
        else:
            self.known_micro_usd += micro_usd
        self.settled += 1
        self._inner.settle(reservation, micro_usd)

    def closed_for_s(self) -> float:
        return self._inner.closed_for_s()


async def soak(calls: int, seed: int, folder: Path) -> Soak:
    """Ask until `calls` calls are made, and let those under way end."""
    spend = CountedSpend(LocalSpend(SpendLimits()))
    fates: dict[str, str] = {}
    tickets_micro_usd = 0
    arguments = ("--latency-scale", "0", "--faults", str(SHARE), "--seed", str(seed))
    async with running(folder, "frontier-soak", *arguments) as frontier:
        made = config(
            {"anthropic": frontier.base_url, "openai": frontier.base_url},
            timeout_s=TIMEOUT_S,
            most_in_flight=IN_FLIGHT,
        )
        waiting = tickets()
        references = {e.ticket_id: e.reference for e in load_company(FERNWAY).examples}
        started_s = time.monotonic()
        async with _tier2(made, spend, seed) as tier2, asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:

            async def ask() -> None:
                nonlocal tickets_micro_usd
                # Tickets that end without a call would go on for ever.
                while spend.begun < calls and len(fates) < calls:
                    routed = next(waiting)
                    ticket_id = routed.ticket.ticket_id
                    fates[ticket_id] = LOST
                    end = await _end(tier2, routed)
                    if isinstance(end, Draft | HandoffError):
                        tickets_micro_usd += round((end.cost_usd + end.exposure_usd) * 1e6)
                    fates[ticket_id] = _fate(end, routed, references[ticket_id.partition("#")[0]])

            for _ in range(IN_FLIGHT):
                group.create_task(ask())
        seconds = time.monotonic() - started_s
        books = await _settled_books(frontier)
    return Soak(
        tickets=len(fates),
        lost=sum(fate.startswith(LOST) for fate in fates.values()),
        fates=dict(Counter(fates.values()).most_common()),
        calls=spend.begun,
        seconds=seconds,
        known_micro_usd=spend.known_micro_usd,
        exposure_micro_usd=spend.exposure_micro_usd,
        unknown_calls=spend.unknown_calls,
        unsettled=spend.begun - spend.settled,
        tickets_micro_usd=tickets_micro_usd,
        books=books,
    )


def _tier2(made: Tier2Config, spend: CountedSpend, seed: int) -> Tier2:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / FASTER)

    return Tier2(made, spend, sleep=sleep, clock=lambda: time.monotonic() * FASTER, rng=random.Random(seed))


async def _end(tier2: Tier2, routed: Routed) -> Draft | Exception:
    try:
        return await tier2.answer(routed)
    except Exception as exc:
        # Whatever else it raises is what this looks for.
        return exc


def _fate(end: Draft | Exception, routed: Routed, reference: str) -> str:
    match end:
        case Draft(routed=of, finish_reason="stop", text=text) if of != routed or text not in (reference, ""):
            return f"{LOST}: another ticket's answer"
        case Draft(finish_reason=reason, text=text):
            return f"draft, {reason}" if text else f"draft, {reason}, empty"
        case HandoffError(why=why):
            return f"handed on, {why}"
        case _:
            return f"{LOST}: {type(end).__name__}"


async def _settled_books(frontier: Frontier) -> Books:
    """The books once the frontier has noticed every caller that hung up."""
    deadline = time.monotonic() + SETTLED_S
    books = await frontier.books()
    while books.open and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        books = await frontier.books()
    return books
