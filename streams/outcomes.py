"""How a ticket ends: the records that leave Headgate, and what the ticket cost on its way."""

from schemas.answers import Answer, Costs, Handoff, HandoffReason, Verdict
from schemas.audits import Audit
from schemas.drafts import Draft
from schemas.tickets import Attempt, Routed
from streams.runtime.clock import utc_now


def attempt(draft: Draft, verdict: Verdict) -> Attempt:
    """A draft with what the checker found, as the ticket carries it on; the reason is empty if it was accepted."""
    return Attempt(
        tier=draft.tier,
        text=draft.text,
        reason=",".join(verdict.reasons),
        score=verdict.score,
        scorer=verdict.scorer,
        cost_usd=draft.cost_usd,
        duration_s=draft.duration_s,
        model=draft.model,
        finish_reason=draft.finish_reason,
        logprobs=draft.logprobs,
    )


def escalation(draft: Draft, verdict: Verdict) -> Routed:
    """A tier-1 draft's ticket on its way up, with the draft and what it cost."""
    routed = draft.routed
    return Routed(
        ticket=routed.ticket,
        decision=routed.decision,
        received_at=routed.received_at,
        attempts=(*routed.attempts, attempt(draft, verdict)),
        checker_cost_usd=routed.checker_cost_usd + verdict.cost_usd,
    )


def answer(draft: Draft, verdict: Verdict) -> Answer:
    """An accepted draft as the helpdesk gets it."""
    routed, ticket = draft.routed, draft.routed.ticket
    return Answer(
        ticket_id=ticket.ticket_id,
        tenant=ticket.tenant,
        customer_id=ticket.customer_id,
        text=draft.text,
        tier=draft.tier,
        model=draft.model,
        category=routed.decision.category,
        language=ticket.language,
        decision=routed.decision,
        verdict=verdict,
        attempts=routed.attempts,
        costs=costs(routed, draft, verdict),
        received_at=routed.received_at,
        answered_at=utc_now(),
        metadata=ticket.metadata,
        instead_of=draft.instead_of,
    )


def audit(draft: Draft, verdict: Verdict) -> Audit | None:
    """For the judge, if the ticket was drawn and ends with this draft; None if tier-1 never made one."""
    routed, last = draft.routed, attempt(draft, verdict)
    if not routed.decision.audited:
        return None
    tier1 = last if draft.tier == "tier1" else next((a for a in routed.attempts if a.tier == "tier1" and a.text), None)
    if tier1 is None:
        return None
    return Audit(
        ticket=routed.ticket,
        decision=routed.decision,
        draft=tier1,
        other=last if draft.tier == "tier2" else None,
        at=utc_now(),
    )


def handoff(
    routed: Routed,
    reason: HandoffReason,
    detail: str,
    draft: Draft | None = None,
    verdict: Verdict | None = None,
    tier2_usd: float = 0.0,
) -> Handoff:
    """A ticket for a person, with everything that was tried; `draft` is the one just refused, if any, and `tier2_usd`
    what calls cost that gave none."""
    last = (attempt(draft, verdict),) if draft and verdict else ()
    return Handoff(
        ticket=routed.ticket,
        reason=reason,
        detail=detail,
        decision=routed.decision,
        attempts=(*routed.attempts, *last),
        costs=costs(routed, draft, verdict, tier2_usd),
        received_at=routed.received_at,
        handed_off_at=utc_now(),
    )


def costs(routed: Routed, draft: Draft | None, verdict: Verdict | None, tier2_usd: float = 0.0) -> Costs:
    """What the ticket cost so far, by part; the draft in hand counts for its tier."""
    spent = [(a.tier, a.cost_usd) for a in routed.attempts] + ([(draft.tier, draft.cost_usd)] if draft else [])
    return Costs(
        router_usd=routed.decision.cost_usd,
        tier1_usd=sum(usd for tier, usd in spent if tier == "tier1"),
        checker_usd=routed.checker_cost_usd + (verdict.cost_usd if verdict else 0.0),
        tier2_usd=tier2_usd + sum(usd for tier, usd in spent if tier == "tier2"),
    )
