"""The router agent: tickets -> tier1 or tier2."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec

from schemas.events import Event
from schemas.tickets import Decision, Routed, Ticket
from schemas.topics import TICKETS, TIER1, TIER2
from streams.policies import InForce, policies_in_force
from streams.router_models import Models, load_models, shadow_scores, watch
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import Done, Output, Record, Result, Stage
from streams.settings import RouterSettings, Settings
from workers.policies import Policies, holding
from workers.router.budget import Budget
from workers.router.classifier import Scores, ticket_text
from workers.router.policy import decide


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage[Ticket]]:
    """The router, its models loaded and watched.

    Raises: ValueError, RuntimeError if a model or the policy can't be used as configured.
    """
    async with (
        policies_in_force(settings.policy, settings.kafka) as policies,
        stage_under(policies, settings.router) as built,
    ):
        yield built


@asynccontextmanager
async def stage_under(policies: InForce, config: RouterSettings) -> AsyncIterator[Stage[Ticket]]:
    """The router under policies from elsewhere. Raises: as `stage`."""
    models = await asyncio.to_thread(load_models, config)
    watching = asyncio.create_task(watch(models), name="router-models")
    try:
        yield stage_on(models, policies, config)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the shadow would have done with a ticket."""

    version: str
    p_ok: float
    tier: str


def stage_on(models: Models, policies: InForce, config: RouterSettings) -> Stage[Ticket]:
    """The router on loaded models."""
    decider, shadow_decider = Decider(), Decider()

    async def handle(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        started = time.perf_counter()
        # Once: a model that is replaced meanwhile scores the next batch.
        classifier = models["active"].current
        tickets = [record.value for record in records]
        texts = [ticket_text(ticket) for ticket in tickets]
        scores = await asyncio.to_thread(classifier.classify, texts)
        duration_s = (time.perf_counter() - started) / len(records)
        cost_usd = duration_s * config.usd_per_hour / 3600
        under = policies.current
        decisions = decider.decide(tickets, scores, under, classifier.version, cost_usd)
        # After the decision, and not in its time or cost.
        opinions: Sequence[Opinion | None] = [None] * len(records)
        if shadow := await shadow_scores(models, texts):
            version, others = shadow
            made = shadow_decider.decide(tickets, others, under, version, 0.0)
            opinions = [Opinion(version, d.p_ok, d.tier) for d in made]
        cut = [score.cut_chars for score in scores]
        rows = zip(records, decisions, cut, opinions, strict=True)
        return [_routed(*row, duration_s) for row in rows]

    return Stage(
        "router",
        TICKETS,
        Ticket,
        handle,
        batch_size=config.batch_size,
        # One batch in the model while the one before it is committed.
        max_in_flight=2 * config.batch_size,
        identity=identity,
        duplicate=_duplicate,
        saturated=lambda: not policies.is_known,
    )


class Decider:
    """What must be remembered between tickets: the budget, and a source of chance."""

    def __init__(self) -> None:
        self._budget = Budget()
        self._rng = random.Random()

    def decide(
        self, tickets: Sequence[Ticket], scores: Sequence[Scores], policies: Policies, model: str, cost_usd: float
    ) -> list[Decision]:
        """One decision a ticket, in the order given; `model` is the version that gave the scores."""
        now = utc_now()
        hold = {p.version: holding(p, now, {"router_model": model}) for p in policies if p}
        made = []
        for ticket, score in zip(tickets, scores, strict=True):
            policy = hold[policies.of_ticket(ticket.ticket_id).version]
            decision = decide(ticket, score, policy, self._budget, cost_usd, self._rng)
            self._budget = self._budget.after(decision.tier, policy)
            made.append(msgspec.structs.replace(decision, model_version=model))
        return made


def identity(ticket: Ticket) -> str:
    """What makes two tickets one. Helpdesks number their tickets by themselves, so the tenant belongs to it."""
    return f"{ticket.tenant}\0{ticket.ticket_id}"


def _duplicate(record: Record[Ticket]) -> Done:
    """A ticket that its helpdesk published again: the first one is answered."""
    ticket = record.value
    event = Event(
        event_id=f"router/{record.origin}",
        at=utc_now(),
        stage="router",
        outcome="duplicate",
        ticket_id=ticket.ticket_id,
        tenant=ticket.tenant,
        age_s=age_s(record.written_at),
    )
    return Done((), event)


def _routed(
    record: Record[Ticket], decision: Decision, cut_chars: int, shadow: Opinion | None, duration_s: float
) -> Done:
    ticket = record.value
    routed = Routed(ticket=ticket, decision=decision, received_at=record.written_at)
    topic = TIER1 if decision.tier == "tier1" or decision.in_shadow else TIER2
    event = Event(
        event_id=f"router/{record.origin}",
        at=utc_now(),
        stage="router",
        outcome="routed",
        ticket_id=ticket.ticket_id,
        tenant=ticket.tenant,
        category=decision.category,
        tier=decision.tier,
        reasons=(decision.reason,),
        p_ok=decision.p_ok,
        p_ok_tier2=decision.p_ok_tier2,
        gain=decision.gain,
        in_scope=decision.in_scope,
        cut_chars=cut_chars,
        shadow_version=shadow.version if shadow else "",
        shadow_p_ok=shadow.p_ok if shadow else None,
        shadow_tier=shadow.tier if shadow else "",
        propensity=decision.propensity,
        audited=decision.audited,
        policy_version=decision.policy_version,
        model=decision.model_version,
        cost_usd=decision.cost_usd,
        duration_s=duration_s,
        age_s=age_s(routed.received_at),
    )
    return Done((Output(topic, ticket.ticket_id, routed),), event)
