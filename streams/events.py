"""Canonical events that more than one agent writes."""

from schemas.drafts import Draft
from schemas.events import Event, StageName
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import Origin


def draft_event(stage: StageName, origin: Origin, draft: Draft) -> Event:
    """A tier made a draft."""
    routed = draft.routed
    return Event(
        event_id=f"{stage}/{origin}",
        at=utc_now(),
        stage=stage,
        outcome="drafted",
        ticket_id=routed.ticket.ticket_id,
        tenant=routed.ticket.tenant,
        category=routed.decision.category,
        tier=draft.tier,
        policy_version=routed.decision.policy_version,
        model=draft.model,
        prompt_tokens=draft.usage.prompt_tokens,
        completion_tokens=draft.usage.completion_tokens,
        prompt_cut_chars=draft.cut_chars,
        calls=draft.calls,
        cost_usd=draft.cost_usd,
        cost_per_hour_usd=draft.cost_per_hour_usd,
        cost_per_token_usd=draft.cost_per_token_usd,
        engine_s=draft.engine_s,
        exposure_usd=draft.exposure_usd,
        instead_of=draft.instead_of,
        duration_s=draft.duration_s,
        age_s=age_s(routed.received_at),
    )
