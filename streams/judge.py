"""The judge agent: audits -> labels. A case that it can't judge is left to a person (`headgate audit next`)."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

from schemas.audits import Audit
from schemas.events import Event
from schemas.labels import AuditSource, Label
from schemas.tickets import Tier
from schemas.topics import AUDITS, LABELS
from streams.runtime.clock import age_s, utc_now
from streams.runtime.stage import DeadLetter, Done, Origin, Output, Record, Stage, dead_letter, singly
from streams.settings import Settings
from streams.spend import SharedSpend
from streams.tier2 import frontier_config, spend_limits
from workers.errors import PermanentError
from workers.judge.frontier_judge import FrontierJudge, NoJudgementError
from workers.judge.judgement import Case, Judge, Judgement
from workers.judge.rubric_judge import RubricJudge
from workers.learning.company import load_company
from workers.retry import RetryLimits


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage[Audit]]:
    """The judge stage.

    Raises: SettingsError for a missing key; ValueError for an unreadable file, an unknown model or a wrong price table.
    """
    if settings.judge.by == "rubric":
        rubrics = {e.ticket_id: e.rubric for e in load_company(settings.judge.company).examples}
        yield _stage(RubricJudge(rubrics), "rubric", settings.judge.in_flight)
        return
    async with AsyncExitStack() as stack:
        # The same book as tier-2's: one limit for all that is paid to providers.
        spend = await stack.enter_async_context(SharedSpend(settings.kafka, spend_limits(settings.tier2.spend)))
        judge = await stack.enter_async_context(FrontierJudge(frontier_config(settings, "judge"), spend))
        yield _stage(judge, "judge", settings.judge.in_flight)


def _stage(judge: Judge, source: AuditSource, in_flight: int) -> Stage[Audit]:
    async def handle(record: Record[Audit]) -> Done:
        audit = record.value
        said = await judge.judge(case_of(audit))
        outputs = (Output(LABELS, label.ticket_id, label) for label in labels(audit, said, source, utc_now()))
        return Done(tuple(outputs), _event(record.origin, audit, said))

    frontier = judge if isinstance(judge, FrontierJudge) else None
    return Stage(
        "judge",
        AUDITS,
        Audit,
        singly(handle),
        give_up=_left_to_a_person,
        batch_size=1,
        max_in_flight=in_flight,
        # As in tier-2: the client is the one owner of retries.
        retry=RetryLimits(attempts=1),
        ready=frontier.ready if frontier else None,
        saturated=frontier.saturated if frontier else None,
    )


def case_of(audit: Audit) -> Case:
    """What the judge sees of an audit: texts, and nothing of where they come from."""
    return Case(audit.ticket, (audit.draft.text, *((audit.other.text,) if audit.other else ())))


def labels(audit: Audit, said: Judgement, source: AuditSource, at: datetime) -> list[Label]:
    """A label for tier-1's draft, and one for tier-2's answer where there is one."""
    tiers: tuple[Tier, ...] = ("tier1", "tier2")
    drafts = (audit.draft, audit.other) if audit.other else (audit.draft,)
    return [
        Label(
            ticket_id=audit.ticket.ticket_id,
            category=audit.decision.category,
            acceptable=acceptable,
            source=source,
            propensity=audit.decision.propensity,
            at=at,
            p_ok=audit.decision.p_ok,
            score=draft.score,
            scorer=draft.scorer,
            policy_version=audit.decision.policy_version,
            tenant=audit.ticket.tenant,
            tier=tier,
            shipped=not draft.reason,
            judge=said.judge,
            model=draft.model,
            model_version=audit.decision.model_version,
        )
        for tier, draft, acceptable in zip(tiers, drafts, said.acceptable, strict=False)
    ]


def _event(origin: Origin, audit: Audit, said: Judgement) -> Event:
    return Event(
        event_id=f"judge/{origin}",
        at=utc_now(),
        stage="judge",
        outcome="judged",
        ticket_id=audit.ticket.ticket_id,
        tenant=audit.ticket.tenant,
        category=audit.decision.category,
        tier="tier1" if audit.shipped else "tier2",
        reasons=("acceptable" if said.acceptable[0] else "not_acceptable",),
        p_ok=audit.decision.p_ok,
        score=audit.draft.score,
        propensity=audit.decision.propensity,
        audited=True,
        policy_version=audit.decision.policy_version,
        model=said.judge,
        calls=said.calls,
        cost_usd=said.cost_usd,
        exposure_usd=said.exposure_usd,
        age_s=age_s(audit.at),
    )


def _left_to_a_person(record: Record[Audit], error: Exception) -> Done | DeadLetter:
    """An audit without a label stays open; what the calls cost is not forgotten."""
    if not isinstance(error, PermanentError):
        return dead_letter(record, error)
    audit = record.value
    paid = error if isinstance(error, NoJudgementError) else None
    event = Event(
        event_id=f"judge/{record.origin}",
        at=utc_now(),
        stage="judge",
        outcome="not_judged",
        ticket_id=audit.ticket.ticket_id,
        tenant=audit.ticket.tenant,
        category=audit.decision.category,
        tier="tier1" if audit.shipped else "tier2",
        calls=paid.calls if paid else 0,
        cost_usd=paid.cost_usd if paid else 0.0,
        exposure_usd=paid.exposure_usd if paid else 0.0,
        age_s=age_s(audit.at),
    )
    return Done((), event)
