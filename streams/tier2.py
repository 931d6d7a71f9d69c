"""The tier-2 agent: tier2 -> drafts; what the provider can't or mustn't answer goes to a person."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.answers import HandoffReason
from schemas.events import Event
from schemas.tickets import Routed
from schemas.topics import DRAFTS, HANDOFFS, TIER2
from streams.events import draft_event
from streams.outcomes import handoff
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import DeadLetter, Done, Output, Record, Stage, dead_letter, singly
from streams.settings import Settings, SettingsError
from workers.errors import PermanentError
from workers.knowledge import load_knowledge
from workers.retry import RetryLimits
from workers.tier2.client import Tier2, Tier2Config, UnavailableError
from workers.tier2.spend import SpendLimitError


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage[Routed]]:
    """The tier-2 stage on its provider's connection pool.

    Raises: SettingsError without an API key; ValueError for an unknown model or an unreadable knowledge file.
    """
    async with Tier2(tier2_config(settings)) as tier2:

        async def handle(record: Record[Routed]) -> Done:
            draft = await tier2.answer(record.value)
            output = Output(DRAFTS, record.value.ticket.ticket_id, draft)
            return Done((output,), draft_event("tier2", record.origin, draft))

        yield Stage(
            "tier2",
            TIER2,
            Routed,
            singly(handle),
            give_up=to_a_person,
            batch_size=1,
            max_in_flight=settings.tier2.in_flight,
            # The provider's client is the one owner of retries: a second one here would multiply the paid calls.
            retry=RetryLimits(attempts=1),
            ready=tier2.ready,
        )


def tier2_config(settings: Settings) -> Tier2Config:
    """The worker's configuration from the settings.

    Raises: SettingsError without an API key; ValueError for an unreadable knowledge file.
    """
    config = settings.tier2
    if config.api_key is None:
        raise SettingsError("tier2.api_key is not set (HEADGATE_TIER2__API_KEY)")
    return Tier2Config(
        provider=config.provider,
        base_url=config.base_url,
        model=config.model,
        company=settings.company,
        knowledge="\n\n".join(p.text for p in load_knowledge(settings.knowledge)),
        api_key=config.api_key.get_secret_value(),
        max_tokens=config.max_tokens,
        timeout_s=config.timeout_s,
        deadline_s=config.deadline_s,
        spend_limit_usd=config.spend_limit_usd,
        spend_file=config.spend_file,
    )


def to_a_person(record: Record[Routed], error: Exception) -> Done | DeadLetter:
    """Tier-2 is the last machine: past it a person answers. Only a bug of ours makes a dead letter."""
    match error:
        case SpendLimitError():
            reason = HandoffReason.SPEND_LIMIT
        case UnavailableError():
            reason = HandoffReason.TIER2_UNAVAILABLE
        case PermanentError():
            reason = HandoffReason.TIER2_REJECTED
        case _:
            return dead_letter(record, error)
    routed = record.value
    event = Event(
        event_id=f"tier2/{record.origin}",
        at=utc_now(),
        stage="tier2",
        outcome="handed_off",
        ticket_id=routed.ticket.ticket_id,
        tenant=routed.ticket.tenant,
        category=routed.decision.category,
        tier="tier2",
        reasons=(reason,),
        age_s=age_s(routed.received_at),
    )
    return Done((Output(HANDOFFS, routed.ticket.ticket_id, handoff(routed, reason, error.reason)),), event)
