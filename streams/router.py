"""The router agent: tickets -> tier1 or tier2."""

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from schemas.events import Event
from schemas.policy import Policy
from schemas.tickets import Decision, Routed, Ticket
from schemas.topics import TICKETS, TIER1, TIER2
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import Done, Output, Record, Result, Stage
from streams.settings import Settings
from workers.router.classifier import Classifier, ticket_text
from workers.router.policy import decide


def stage(settings: Settings) -> Stage[Ticket]:
    """The router, its model loaded.

    Raises: ValueError, RuntimeError if the model or the policy can't be used as configured.
    """
    config = settings.router
    classifier = Classifier(config.model, device=config.device, threads=config.threads)
    policy = load_policy(settings.policy)
    rng = random.Random()

    async def handle(records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        started = time.perf_counter()
        scores = await asyncio.to_thread(classifier.classify, [ticket_text(r.value) for r in records])
        duration_s = (time.perf_counter() - started) / len(records)
        cost_usd = duration_s * config.usd_per_hour / 3600
        return [
            _routed(record, decide(record.value, score, policy, cost_usd, rng), duration_s)
            for record, score in zip(records, scores, strict=True)
        ]

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
    )


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


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises: ValueError naming the file and what is wrong with it.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Policy)
    except (OSError, msgspec.DecodeError) as exc:
        raise ValueError(f"policy {path}: {exc}") from exc


def _routed(record: Record[Ticket], decision: Decision, duration_s: float) -> Done:
    ticket = record.value
    routed = Routed(ticket=ticket, decision=decision, received_at=record.written_at)
    topic = TIER1 if decision.tier == "tier1" else TIER2
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
        propensity=decision.propensity,
        policy_version=decision.policy_version,
        cost_usd=decision.cost_usd,
        duration_s=duration_s,
        age_s=age_s(routed.received_at),
    )
    return Done((Output(topic, ticket.ticket_id, routed),), event)
