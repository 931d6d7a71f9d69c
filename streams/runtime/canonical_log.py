"""One log line and one count a record, after its commit: what is logged did happen."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import structlog

from schemas.answers import GateReason
from schemas.events import Event, StageName
from streams.runtime import metrics
from streams.runtime.headers import Parked
from streams.runtime.messages import Settled
from streams.runtime.stage import DeadLetter

FATES = frozenset({"answered", "escalated", "handed_off"})
"""Outcomes that say what became of a ticket."""

log = structlog.get_logger()


def report(stage: StageName, commit: Sequence[Settled]) -> None:
    """Say what became of the records of a commit."""
    logger = log.bind()
    informs = logger.is_enabled_for(logging.INFO)
    outcomes: defaultdict[str, int] = defaultdict(int)
    fates: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    age_seconds = metrics.AGE_SECONDS.labels(stage)
    cost_usd = 0.0
    for settled in commit:
        result = settled.result
        if isinstance(result, DeadLetter):
            outcomes["dead_lettered"] += 1
            logger.error("record_dead_lettered", reason=result.reason, **_where(settled))
        elif isinstance(result, Parked):
            outcomes["parked"] += 1
            logger.warning("record_parked", due_s=result.due_s, next="it is tried again when due", **_where(settled))
        else:
            event = result.event
            outcomes[event.outcome] += 1
            if event.outcome in FATES:
                fates[_fate(event)] += 1
            cost_usd += event.cost_usd
            age_seconds.observe(event.age_s)
            if informs:
                logger.info(f"ticket_{event.outcome}", **_facts(event), **_where(settled))
    for outcome, count in outcomes.items():
        metrics.RECORDS.labels(stage, outcome).inc(count)
    for fate, count in fates.items():
        metrics.TICKETS.labels(*fate).inc(count)
    metrics.COST_USD.labels(stage).inc(cost_usd)


def _fate(event: Event) -> tuple[str, str, str]:
    """Outcome, tier and category, as the scoreboard counts them: an escalation is tier-1's, whoever says so."""
    if event.outcome != "escalated":
        return event.outcome, event.tier, event.category
    is_shadow = tuple(event.reasons) == (GateReason.SHADOW.value,)
    return "shadowed" if is_shadow else "escalated", "tier1", event.category


def _facts(event: Event) -> dict[str, Any]:
    return {
        "ticket_id": event.ticket_id,
        "category": event.category,
        "tier": event.tier,
        "reasons": event.reasons,
        "duration_s": round(event.duration_s, 3),
        "age_s": round(event.age_s, 3),
        "cost_usd": event.cost_usd,
    }


def _where(settled: Settled) -> dict[str, Any]:
    origin = settled.origin
    return {
        "attempts": settled.attempts,
        "topic": origin.topic,
        "partition": origin.partition,
        "offset": origin.offset,
    }
