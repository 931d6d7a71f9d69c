"""The tier-1 agent: tier1 -> drafts; what the engine can't answer goes up to tier2."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.events import Event
from schemas.tickets import Attempt, Routed
from schemas.topics import BACKFILL, DRAFTS, TIER1, TIER2
from streams.events import draft_event
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import DeadLetter, Done, Origin, Output, Record, Stage, dead_letter, singly
from streams.settings import Settings, Tier1Settings
from streams.tier1_models import models_in_force
from workers.errors import PermanentError, RetryableError
from workers.knowledge import load_knowledge
from workers.tier1.drafting import Tier1, Tier1Config
from workers.tier1.engine import Engine
from workers.tier1.metering import Prices
from workers.tier1.openai_engine import OpenAIConfig, OpenAIEngine


@asynccontextmanager
async def tier1_worker(settings: Settings) -> AsyncIterator[Tier1]:
    """The worker on its engine, with the models that are in force.

    Raises: ValueError for an unreadable knowledge or models file, a model that can't be served, or wrong prices.
    """
    config = tier1_config(settings)
    async with tier1_engine(settings.tier1) as engine, models_in_force(settings.tier1, engine) as models:
        yield Tier1(config, engine, models)


def tier1_config(settings: Settings) -> Tier1Config:
    """The worker's configuration from the settings.

    Raises: ValueError for an unreadable knowledge file or wrong prices.
    """
    config = settings.tier1
    return Tier1Config(
        company=settings.company,
        passages={passage.id: passage.text for passage in load_knowledge(settings.knowledge)},
        context_tokens=config.context_tokens,
        max_tokens=config.max_tokens,
        prices=Prices(
            cost=config.cost,
            usd_per_hour=config.usd_per_hour,
            usd_per_million_prompt_tokens=config.usd_per_million_prompt_tokens,
            usd_per_million_completion_tokens=config.usd_per_million_completion_tokens,
        ),
    )


@asynccontextmanager
async def tier1_engine(config: Tier1Settings) -> AsyncIterator[Engine]:
    """The engine that the settings name, running.

    Raises: ValueError if it can't run here.
    """
    if config.engine == "openai":
        key = config.api_key.get_secret_value() if config.api_key else None
        async with OpenAIEngine(OpenAIConfig(config.base_url, config.timeout_s, key)) as server:
            yield server
        return
    # Only here: the other engine needs nothing of it.
    from workers.tier1.vllm_engine import VllmConfig, VllmEngine

    if config.model_folder is None:
        raise ValueError('tier1.engine is "vllm", and tier1.model_folder is not set')
    own = VllmConfig(
        model=config.model_folder,
        context_tokens=config.context_tokens,
        # A quarter of the tickets waits in the engine: it never idles during a commit, and a priority has an effect.
        max_num_seqs=max(1, config.in_flight * 3 // 4),
        # The stage sends no more than `in_flight`; whoever else asks may wait in the engine.
        max_num_queued_reqs=2 * config.in_flight,
        timeout_s=config.timeout_s,
        device=config.device,
    )
    async with VllmEngine(own) as vllm:
        yield vllm


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage[Routed]]:
    """The tier-1 stage.

    Raises: ValueError for an unreadable file, a wrong setting, or an engine or model that can't be had.
    """
    async with tier1_worker(settings) as tier1:
        yield stage_on(tier1, settings.tier1.in_flight)


def stage_on(tier1: Tier1, in_flight: int) -> Stage[Routed]:
    """The tier-1 stage on a worker, with so many tickets begun and not committed."""

    async def handle(record: Record[Routed]) -> Done:
        draft = await tier1.answer(record.value, priority(record.origin))
        output = Output(DRAFTS, record.value.ticket.ticket_id, draft)
        return Done((output,), draft_event("tier1", record.origin, draft))

    return Stage(
        "tier1",
        TIER1,
        Routed,
        singly(handle),
        give_up=to_tier2,
        batch_size=1,
        max_in_flight=in_flight,
        ready=tier1.engine.ready,
        saturated=tier1.engine.saturated,
    )


def priority(origin: Origin) -> int:
    """Backfill waits behind live tickets in the engine, too."""
    return 1 if origin.topic.endswith(TIER1.name + BACKFILL) else 0


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
