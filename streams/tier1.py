"""The tier-1 agent: tier1 -> drafts; what the engine can't answer goes up to tier2."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.events import Event
from schemas.tickets import Attempt, Routed
from schemas.topics import DRAFTS, TIER1, TIER2
from streams.events import draft_event
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import DeadLetter, Done, Output, Record, Stage, dead_letter, singly
from streams.settings import Settings
from workers.errors import PermanentError, RetryableError
from workers.knowledge import load_knowledge
from workers.tier1.drafting import Tier1
from workers.tier1.openai_engine import OpenAIConfig, OpenAIEngine


@asynccontextmanager
async def tier1_worker(settings: Settings) -> AsyncIterator[Tier1]:
    """The worker on its engine's connection pool."""
    config = settings.tier1
    key = config.api_key.get_secret_value() if config.api_key else None
    knowledge = load_knowledge(settings.knowledge)
    async with OpenAIEngine(OpenAIConfig(config.base_url, config.model, config.timeout_s, key)) as engine:
        yield Tier1(engine, settings.company, knowledge, config.max_tokens, config.usd_per_hour)


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage[Routed]]:
    """The tier-1 stage.

    Raises: ValueError for an unreadable knowledge file.
    """
    async with tier1_worker(settings) as tier1:

        async def handle(record: Record[Routed]) -> Done:
            draft = await tier1.answer(record.value)
            output = Output(DRAFTS, record.value.ticket.ticket_id, draft)
            return Done((output,), draft_event("tier1", record.origin, draft))

        yield Stage(
            "tier1",
            TIER1,
            Routed,
            singly(handle),
            give_up=to_tier2,
            batch_size=1,
            max_in_flight=settings.tier1.in_flight,
            ready=tier1.engine.ready,
            saturated=tier1.engine.saturated,
        )


def to_tier2(record: Record[Routed], error: Exception) -> Done | DeadLetter:
    """An engine that stays away, or rejects a ticket, costs money and not the ticket: tier-2 answers it."""
    if not isinstance(error, RetryableError | PermanentError):
        return dead_letter(record, error)
    routed = record.value
    attempt = Attempt(tier="tier1", text="", reason="tier1_unavailable", score=None, cost_usd=0.0, duration_s=0.0)
    up = Routed(
        ticket=routed.ticket,
        decision=routed.decision,
        received_at=routed.received_at,
        attempts=(*routed.attempts, attempt),
    )
    event = Event(
        event_id=f"tier1/{record.origin}",
        at=utc_now(),
        stage="tier1",
        outcome="escalated",
        ticket_id=routed.ticket.ticket_id,
        tenant=routed.ticket.tenant,
        category=routed.decision.category,
        tier="tier2",
        reasons=("tier1_unavailable",),
        age_s=age_s(routed.received_at),
    )
    return Done((Output(TIER2, routed.ticket.ticket_id, up),), event)
