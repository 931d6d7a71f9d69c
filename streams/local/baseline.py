"""What there is to compare with: the run's tickets through tier-1 alone and through tier-2 alone.

What a tier really said during the run is taken as it is; only the other tickets
are asked again. A real provider is never asked for a comparison's sake: that
would cost money.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from schemas.drafts import Draft
from schemas.tickets import Decision, Routed, RouteReason, TicketId, Tier
from streams.local.machine import LocalRun
from streams.reporting.report import Baseline, Made
from streams.reporting.tally import Ending
from streams.runtime.clock import utc_now
from streams.tier1 import tier1_worker
from streams.tier2 import frontier_config
from workers.errors import PermanentError, RetryableError
from workers.learning.company import Example, as_ticket
from workers.tier2.client import Tier2
from workers.tier2.spend import SpendLimits
from workers.tier2.spend_desk import LocalSpend

TIER1_IN_FLIGHT = 16
TIER2_IN_FLIGHT = 64
"""A recording takes any number at a time; so many keep the comparison short."""

Ask = Callable[[Routed], Awaitable[Draft]]


async def measure(run: LocalRun, chosen: Sequence[Example], endings: Mapping[TicketId, Ending]) -> Baseline:
    """Every chosen ticket through either tier. A ticket that a tier can't answer has no text, and costs nothing."""
    async with tier1_worker(run.settings) as tier1:
        tier1_made = asyncio.create_task(_made("tier1", chosen, endings, tier1.answer, TIER1_IN_FLIGHT))
        if not run.frontier.recorded:
            return Baseline(await tier1_made, {})
        async with Tier2(frontier_config(run.settings, "tier2"), LocalSpend(SpendLimits())) as tier2:
            tier2_made = await _made("tier2", chosen, endings, tier2.answer, TIER2_IN_FLIGHT)
        return Baseline(await tier1_made, tier2_made)


async def _made(
    tier: Tier, chosen: Sequence[Example], endings: Mapping[TicketId, Ending], ask: Ask, in_flight: int
) -> dict[TicketId, Made]:
    slots = asyncio.Semaphore(in_flight)

    async def one(example: Example) -> tuple[TicketId, Made]:
        ticket_id = TicketId(example.ticket_id)
        ending = endings.get(ticket_id)
        if ending and (made := _in_the_run(ending, tier)):
            return ticket_id, made
        async with slots:
            return ticket_id, await _asked(example, ending, ask)

    return dict(await asyncio.gather(*(one(e) for e in chosen)))


def _in_the_run(ending: Ending, tier: Tier) -> Made | None:
    """What the tier said of this ticket during the run, if it was asked."""
    refused = [a for a in ending.attempts if a.tier == tier and a.text]
    if refused:
        return Made(refused[-1].text, refused[-1].cost_usd)
    if getattr(ending, "tier", None) != tier:
        return None
    cost_usd = ending.costs.tier1_usd if tier == "tier1" else ending.costs.tier2_usd
    return Made(getattr(ending, "text", ""), cost_usd)


async def _asked(example: Example, ending: Ending | None, ask: Ask) -> Made:
    # The router's decision of the run goes along: it holds the passages that tier-1 is given.
    routed = Routed(
        ticket=as_ticket(example), decision=ending.decision if ending else _undecided(), received_at=utc_now()
    )
    try:
        draft = await ask(routed)
    except (RetryableError, PermanentError):
        return Made("", 0.0)
    return Made(draft.text, draft.cost_usd)


def _undecided() -> Decision:
    return Decision(
        tier="tier2",
        reason=RouteReason.FORCED,
        p_ok=0.0,
        category="",
        p_category=0.0,
        threshold=0.0,
        propensity=1.0,
        policy_version="",
        cost_usd=0.0,
    )
