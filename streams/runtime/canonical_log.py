"""One log line and one count a record, after its commit: what is logged did happen."""

import structlog

from schemas.events import StageName
from streams.runtime import metrics
from streams.runtime.headers import Parked
from streams.runtime.messages import Settled
from streams.runtime.stage import DeadLetter

log = structlog.get_logger()


def report(stage: StageName, settled: Settled) -> None:
    """Say what became of a record."""
    origin, result, attempts = settled.origin, settled.result, settled.attempts
    where = {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset}
    if isinstance(result, DeadLetter):
        metrics.RECORDS.labels(stage, "dead_lettered").inc()
        log.error("record_dead_lettered", reason=result.reason, attempts=attempts, **where)
        return
    if isinstance(result, Parked):
        metrics.RECORDS.labels(stage, "parked").inc()
        log.warning("record_parked", attempts=attempts, due_s=result.due_s, next="it is tried again when due", **where)
        return
    event = result.event
    metrics.RECORDS.labels(stage, event.outcome).inc()
    metrics.COST_USD.labels(stage).inc(event.cost_usd)
    metrics.AGE_SECONDS.labels(stage).observe(event.age_s)
    log.info(
        f"ticket_{event.outcome}",
        ticket_id=event.ticket_id,
        category=event.category,
        tier=event.tier,
        reasons=list(event.reasons),
        attempts=attempts,
        duration_s=round(event.duration_s, 3),
        age_s=round(event.age_s, 3),
        cost_usd=event.cost_usd,
        **where,
    )
