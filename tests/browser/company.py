"""An invented hour of the example company, as the scoreboard's endpoints tell it: what tests show the console."""

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from schemas.events import Event
from schemas.labels import Label
from schemas.tickets import TicketId
from streams.scoreboard.quality import judged
from streams.scoreboard.summary import SPANS_S, Summary, summary
from streams.scoreboard.views import (
    AuditsView,
    BacklogView,
    CategoryView,
    DriftView,
    LimitView,
    PoliciesView,
    PolicyView,
    SpendView,
    StageBacklog,
)
from tests.scoreboard import count

CATEGORIES = ("account", "billing", "cancellation", "equipment", "faults", "installation", "mobile", "payments")
POOLED = ("cancellation", "faults", "installation")
GATES = ("low_score", "low_score", "low_score", "unfounded_promise", "truncated", "personal_data")


def journey(ticket_id: str, category: str, at: datetime, rng: random.Random) -> list[Event]:
    """The events of one ticket: two in three are tried on tier-1, and one in eight of these goes up."""
    steps: list[Event] = []

    def step(stage: Any, outcome: Any, age_s: float, cost_usd: float, **fields: Any) -> None:
        values: dict[str, Any] = {"category": category, "policy_version": "5a0bd67be278", "duration_s": age_s / 3}
        steps.append(
            Event(
                event_id=f"{stage}/{ticket_id}/{len(steps)}",
                at=at + timedelta(seconds=age_s),
                stage=stage,
                outcome=outcome,
                ticket_id=TicketId(ticket_id),
                age_s=age_s,
                cost_usd=cost_usd,
                **values | fields,
            )
        )

    tier, is_refused, s = "tier1" if rng.random() < 0.66 else "tier2", rng.random() < 0.12, rng.uniform(0.8, 2.5)
    step("router", "routed", 0.05, 1.2e-7, tier=tier, p_ok=rng.uniform(0.75, 0.99), audited=rng.random() < 0.1)
    if tier == "tier1":
        step("tier1", "drafted", s, 1.5e-5, tier="tier1", model="smollm2-135m")
        if is_refused:
            reasons = (rng.choice(GATES),)
            step("checker", "escalated", s + 0.02, 9e-8, tier="tier2", reasons=reasons, score=0.31)
        else:
            step("checker", "answered", s + 0.02, 9e-8, tier="tier1", score=0.94)
            return steps
    step("tier2", "drafted", s + 2.2, rng.uniform(0.0006, 0.0014), tier="tier2", model="claude-sonnet-5-5")
    step("checker", "answered", s + 2.25, 0.0, tier="tier2")
    return steps


def events(now: datetime, tickets: int = 400, categories: Sequence[str] = CATEGORIES) -> list[Event]:
    """The events of an hour's tickets."""
    rng = random.Random(7)
    return [
        event
        for n in range(tickets)
        for event in journey(
            f"fw-{n:04d}", categories[n % len(categories)], now - timedelta(seconds=rng.uniform(10, 3500)), rng
        )
    ]


def labels(now: datetime, each: int = 90) -> list[Label]:
    """Audits of both tiers in all categories but the last."""
    rng = random.Random(11)
    return [
        Label(
            ticket_id=TicketId(f"{category}-{tier}-{n}"),
            category=category,
            tier=tier,
            acceptable=rng.random() < (0.965 if tier == "tier1" else 0.995),
            source="judge",
            propensity=0.1,
            at=now,
            shipped=True,
        )
        for category in CATEGORIES[:-1]
        for tier in ("tier1", "tier2")
        for n in range(each)
    ]


def board(of: Iterable[Event], judgements: Sequence[Label], span: str, now: datetime) -> Summary:
    """The summary of some events, made by what the service makes it with."""
    in_force = [one for n, label in enumerate(judgements) if (one := judged(label, n))]
    return summary(count(of).items(), in_force, span, now.timestamp())


def category(name: str, now: datetime, **fields: Any) -> CategoryView:
    """A certified category."""
    values: dict[str, Any] = {
        "state": "active",
        "p_ok_threshold": 0.72,
        "score_threshold": 0.85,
        "alpha": 0.05,
        "upper_bound": 0.0412,
        "confidence": 0.9,
        "method": "learn_then_test",
        "pooled": POOLED if name in POOLED else (),
        "valid_until": now + timedelta(days=24),
        "labels": 400,
        "audit_share": 0.05,
        "drift": DriftView(wealth=0.8, alarm_at=20.0, tickets=112),
    }
    return CategoryView(name=name, **values | fields)


def uncertified(name: str, why: str, **fields: Any) -> CategoryView:
    """A category in the shadow."""
    return CategoryView(name=name, state="shadow", why=why, p_ok_threshold=1.0, score_threshold=1.0, **fields)


def policy(now: datetime) -> PoliciesView:
    """Most are certified, one is close to its alarm, one was withdrawn, one lacks labels."""
    odd = {
        "mobile": category("mobile", now, drift=DriftView(wealth=6.2, alarm_at=20.0, tickets=240)),
        "equipment": uncertified(
            "equipment", "withdrawn: too many bad answers among 168 audited", labels=12, audit_share=0.2
        ),
        "payments": uncertified(
            "payments", "100 labels don't prove it", labels=100, labels_missing=180, audit_share=0.2
        ),
    }
    made = (odd.get(name) or category(name, now) for name in CATEGORIES)
    default = uncertified("", "not certified", audit_share=0.2)
    active = PolicyView(
        version="5a0bd67be278",
        made_at=now - timedelta(days=6),
        because=("equipment: withdrawn: too many bad answers among 168 audited",),
        categories=(*made, default),
    )
    return PoliciesView(active=active)


def spend() -> SpendView:
    """A day's limit that is half spent, a tenant's that is nearly spent, a month without one."""
    return SpendView(
        limits=(
            LimitView(tenant=None, period="day", spent_usd=5.37, reserved_usd=0.04, limit_usd=10.0, resets_in_s=21_600),
            LimitView(tenant=None, period="month", spent_usd=112.4, resets_in_s=540_000),
            LimitView(tenant="fernway-business", period="day", spent_usd=1.72, limit_usd=2.0, resets_in_s=21_600),
        )
    )


def backlog() -> BacklogView:
    """All stages at work, none behind."""
    unfinished = {("router", "tickets"): 0, ("tier1", "tier1"): 6, ("tier2", "tier2"): 9, ("checker", "drafts"): 1}
    return BacklogView(
        stages=(
            *(
                StageBacklog(stage=stage, topic=topic, unfinished=n, oldest_s=3.4 if n else None)
                for (stage, topic), n in unfinished.items()
            ),
            StageBacklog(stage="router", topic="tickets.backfill", lane="backfill", unfinished=0),
        )
    )


def audits() -> AuditsView:
    """Some wait for a person."""
    return AuditsView(waiting=17, oldest_s=5_400, labels={"judge": 1240, "person": 61, "rubric": 0})


def everything(now: datetime) -> dict[str, Struct | int]:
    """What each endpoint says of it, by path and query."""
    counted, judgements = events(now), labels(now)
    return {
        **{f"/api/summary?span={span}": board(counted, judgements, span, now) for span in SPANS_S},
        "/api/policy": policy(now),
        "/api/spend": spend(),
        "/api/backlog": backlog(),
        "/api/audits": audits(),
    }
