"""The checker agent: drafts -> answers, escalations to tier2, or handoffs; and audits of the tickets drawn."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from schemas.answers import HandoffReason, Verdict
from schemas.drafts import Draft
from schemas.events import Event, Outcome
from schemas.policy import Policy
from schemas.topics import ANSWERS, AUDITS, DRAFTS, HANDOFFS, TIER2
from streams.outcomes import answer, audit, escalation, handoff
from streams.policies import InForce, policies_in_force
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import Done, Output, Record, Result, Stage
from streams.settings import CheckerSettings, Settings
from workers.checker.checker import Checker
from workers.checker.scorer import load_scorer
from workers.knowledge import load_knowledge
from workers.policies import Part, holding
from workers.router.classifier import Classifier


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage[Draft]]:
    """The checker, its models loaded.

    Raises: ValueError, RuntimeError if a model, the knowledge or the policy can't be used as configured.
    """
    async with policies_in_force(settings.policy, settings.kafka) as policies:
        yield await asyncio.to_thread(stage_under, policies, settings)


def stage_under(policies: InForce, settings: Settings) -> Stage[Draft]:
    """The checker under policies from elsewhere. Blocks while models load. Raises: as `stage`."""
    config = settings.checker
    scorer = load_scorer(config.scorer)

    def policy_of(draft: Draft) -> Policy:
        """What still holds of the policy that the draft's ticket was routed under."""
        decision = draft.routed.decision
        policy = policies.current.of_version(decision.policy_version)
        at_work: dict[Part, str] = {
            "router_model": decision.model_version,
            "scorer": scorer.version,
            "tier1_model": draft.model,
        }
        return holding(policy, utc_now(), at_work) if draft.tier == "tier1" else policy

    checker = Checker(
        # The same graph as the router's: it gives the embeddings that the scorer compares. Not replaced while the
        # process runs: the scorer was fitted on this graph's numbers, and both are learned together.
        Classifier(settings.router.model, device=settings.router.device, threads=settings.router.threads),
        scorer,
        load_knowledge(settings.knowledge),
        policy_of,
        config.usd_per_hour,
    )
    return stage_on(checker, policies, config)


def stage_on(checker: Checker, policies: InForce, config: CheckerSettings) -> Stage[Draft]:
    """The checker stage on a worker."""

    async def handle(records: Sequence[Record[Draft]]) -> Sequence[Result]:
        started = time.perf_counter()
        verdicts = await asyncio.to_thread(checker.check, [r.value for r in records])
        duration_s = (time.perf_counter() - started) / len(records)
        return [_done(record, verdict, duration_s) for record, verdict in zip(records, verdicts, strict=True)]

    return Stage(
        "checker",
        DRAFTS,
        Draft,
        handle,
        batch_size=config.batch_size,
        max_in_flight=2 * config.batch_size,
        saturated=lambda: not policies.is_known,
    )


def _done(record: Record[Draft], verdict: Verdict, duration_s: float) -> Done:
    draft = record.value
    output, outcome = _sent_on(draft, verdict)
    drawn = audit(draft, verdict) if outcome != "escalated" else None
    audits = (Output(AUDITS, draft.routed.ticket.ticket_id, drawn),) if drawn else ()
    decision = draft.routed.decision
    event = Event(
        event_id=f"checker/{record.origin}",
        at=utc_now(),
        stage="checker",
        outcome=outcome,
        ticket_id=draft.routed.ticket.ticket_id,
        tenant=draft.routed.ticket.tenant,
        category=decision.category,
        tier=draft.tier,
        reasons=tuple(verdict.reasons),
        p_ok=decision.p_ok,
        score=verdict.score,
        scorer=verdict.scorer,
        propensity=decision.propensity,
        audited=decision.audited,
        policy_version=verdict.policy_version,
        model=draft.model,
        cost_usd=verdict.cost_usd,
        duration_s=duration_s,
        age_s=age_s(draft.routed.received_at),
    )
    return Done((output, *audits), event)


def _sent_on(draft: Draft, verdict: Verdict) -> tuple[Output, Outcome]:
    key = draft.routed.ticket.ticket_id
    if verdict.accepted:
        return Output(ANSWERS, key, answer(draft, verdict)), "answered"
    if draft.tier == "tier1":
        return Output(TIER2, key, escalation(draft, verdict)), "escalated"
    why = HandoffReason.TIER2_REFUSED
    return Output(HANDOFFS, key, handoff(draft.routed, why, ",".join(verdict.reasons), draft, verdict)), "handed_off"
