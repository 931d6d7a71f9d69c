"""The tier-2 agent: tier2 -> drafts; what the provider can't or mustn't answer goes to a person."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

from schemas.answers import HandoffReason
from schemas.events import Event
from schemas.tickets import Routed
from schemas.topics import BACKFILL, DRAFTS, HANDOFFS, RETRY, TIER2
from streams import tier2_metrics
from streams.events import draft_event
from streams.outcomes import handoff
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import DeadLetter, Done, Output, Record, Stage, dead_letter, singly
from streams.settings import FrontierSettings, Settings, SettingsError, SpendSettings, TargetSettings, secret
from streams.spend import SharedSpend
from workers.knowledge import load_knowledge
from workers.retry import RetryLimits
from workers.tier2.client import HandoffError, Tier2, Tier2Config, Why
from workers.tier2.prices import Prices
from workers.tier2.spend import SpendLimits, TenantLimits
from workers.tier2.spend_desk import SpendDesk
from workers.tier2.targets import Target

REASONS: Mapping[Why, HandoffReason] = {
    "unavailable": HandoffReason.TIER2_UNAVAILABLE,
    "rejected": HandoffReason.TIER2_REJECTED,
    "spend_limit": HandoffReason.SPEND_LIMIT,
}


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage[Routed]]:
    """The tier-2 stage, with the ledger that all tier-2 processes share.

    Raises: SettingsError for a missing key; ValueError for an unknown model, a wrong price table, an unreadable
    knowledge file.
    """
    limits = spend_limits(settings.tier2.spend)
    async with SharedSpend(settings.kafka, limits) as spend, stage_on(spend, settings) as built:
        yield built


@asynccontextmanager
async def stage_on(spend: SpendDesk, settings: Settings) -> AsyncIterator[Stage[Routed]]:
    """The tier-2 stage on a ledger. Raises: as `stage`."""
    async with Tier2(frontier_config(settings, "tier2"), spend) as tier2:
        tier2_metrics.show(tier2, spend, spend_limits(settings.tier2.spend))

        async def handle(record: Record[Routed]) -> Done:
            draft = await tier2.answer(record.value, behind=record.origin.topic.endswith(BACKFILL))
            output = Output(DRAFTS, record.value.ticket.ticket_id, draft)
            return Done((output,), draft_event("tier2", record.origin, draft))

        yield Stage(
            "tier2",
            # Else the slow lane is another process's (tier2_batch.py).
            TIER2 if settings.tier2.backfill == "calls" else replace(TIER2, twins=(RETRY,)),
            Routed,
            singly(handle),
            give_up=to_a_person,
            batch_size=1,
            max_in_flight=settings.tier2.in_flight,
            # The client is the one owner of retries: a second one here would multiply the paid calls.
            retry=RetryLimits(attempts=1),
            ready=tier2.ready,
            saturated=tier2.saturated,
            no_backfill=tier2.has_waiting,
        )


def frontier_config(settings: Settings, section: Literal["tier2", "judge"]) -> Tier2Config:
    """How a frontier API is asked, from a section of the settings.

    Raises: SettingsError for a missing key; ValueError for an unknown model, a wrong price table, an unreadable
    knowledge file.
    """
    config: FrontierSettings = settings.tier2 if section == "tier2" else settings.judge
    first = Target("primary", config.provider, config.base_url, config.model, _key(section, config), config.weight)
    others = (
        Target(t.role, t.provider, t.base_url, t.model, _key(f"{section}.targets.{i}", t), t.weight)
        for i, t in enumerate(config.targets)
    )
    return Tier2Config(
        targets=(first, *others),
        company=settings.company,
        knowledge="\n\n".join(p.text for p in load_knowledge(settings.knowledge)),
        prices=Prices.load(config.prices),
        when_spent=config.when_spent,
        hold_s=config.hold_s,
        max_tokens=config.max_tokens,
        most_in_flight=config.in_flight,
        timeout_s=config.timeout_s,
        deadline_s=config.deadline_s,
        hedge=config.hedge,
        redact=config.redact,
        phone_region=config.phone_region,
    )


def spend_limits(config: SpendSettings) -> SpendLimits:
    """The spend limits from the settings."""
    each = config.each_tenant
    return SpendLimits(
        config.minute_usd,
        config.day_usd,
        config.month_usd,
        tenant_minute_usd=each.minute_usd,
        tenant_day_usd=each.day_usd,
        tenant_month_usd=each.month_usd,
        tenants={name: TenantLimits(t.minute_usd, t.day_usd, t.month_usd) for name, t in config.tenants.items()},
    )


def _key(name: str, config: FrontierSettings | TargetSettings) -> str:
    """The API key, from where the settings say.

    Raises: SettingsError naming the setting, never the key.
    """
    if (key := secret(f"{name}.api_key", config.api_key, config.api_key_file)) is not None:
        return key
    if isinstance(config, TargetSettings) and config.api_key_env is not None:
        if key := os.environ.get(config.api_key_env):
            return key
        raise SettingsError(f"{name}.api_key_env names {config.api_key_env}, which is not set")
    variable = f" (HEADGATE_{name.upper()}__API_KEY)" if isinstance(config, FrontierSettings) else ""
    raise SettingsError(f"{name}.api_key is not set{variable}, nor is {name}.api_key_file")


def to_a_person(record: Record[Routed], error: Exception) -> Done | DeadLetter:
    """Tier-2 is the last machine: past it a person answers. Only a bug of ours makes a dead letter."""
    if not isinstance(error, HandoffError):
        return dead_letter(record, error)
    routed, reason = record.value, REASONS[error.why]
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
        calls=error.calls,
        cost_usd=error.cost_usd,
        exposure_usd=error.exposure_usd,
        age_s=age_s(routed.received_at),
    )
    handed = handoff(routed, reason, error.reason, tier2_usd=error.cost_usd)
    return Done((Output(HANDOFFS, routed.ticket.ticket_id, handed),), event)
