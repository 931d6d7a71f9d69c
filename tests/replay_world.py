"""A log whose truth is known: tickets with a draft each, what the log shows of them under a policy, and what would
really have become of them under another."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from schemas.events import Event
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Decision, Ticket, TicketId
from workers.learning.replay_log import Log, Logged
from workers.router.budget import Budget
from workers.router.classifier import Scores
from workers.router.policy import decide

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
END = START + timedelta(hours=1)
ROUTER_USD, TIER1_USD, CHECK_USD, JUDGE_USD = 0.0000003, 0.00002, 0.0000004, 0.002
BODY = "When will the technician be here, and do I have to be at home for it?"


class Truth(NamedTuple):
    """A ticket with all that can be known of it."""

    ticket: Ticket
    scores: Scores
    draft: float | None
    """The checker's score; None where a gate refuses the draft."""
    acceptable: bool
    tier2_usd: float


@dataclass(frozen=True, slots=True)
class Ends:
    """What became of a ticket under a policy."""

    decision: Decision
    shipped: bool

    @property
    def escalated(self) -> bool:
        return self.decision.tier == "tier1" and not self.shipped


def a_policy(p_ok: float = 0.5, score: float = 0.5, audit_share: float = 0.1, **fields: Any) -> Policy:
    default = CategoryPolicy(p_ok_threshold=p_ok, score_threshold=score, audit_share=audit_share)
    return Policy(**{"scope": "default", "version": "log", "default": default, **fields})


def world(seed: int, count: int = 600, categories: Sequence[str] = ("billing", "moving")) -> list[Truth]:
    """Tickets whose drafts are the better the higher p_ok is, and dearer for tier-2 the lower it is."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        p_ok, acceptable_at = float(rng.random()), float(rng.random())
        acceptable = acceptable_at < 0.35 + 0.6 * p_ok
        score = float(np.clip(rng.normal(0.68 if acceptable else 0.42, 0.15), 0.01, 0.99))
        scores = Scores(
            p_ok=p_ok,
            category=categories[number % len(categories)],
            p_category=0.9,
            passages=(),
            passage_probs=np.empty(0, np.float32),
            embedding=np.empty(0, np.float32),
            in_scope=float(rng.random()),
        )
        ticket = Ticket(ticket_id=TicketId(f"t{number:05}"), body=BODY, language="en")
        draft = None if rng.random() < 0.03 else score
        found.append(Truth(ticket, scores, draft, acceptable, float(rng.exponential(0.0015 - 0.0008 * p_ok))))
    return found


def ends(truths: Sequence[Truth], policy: Policy, seed: int = 0) -> list[Ends]:
    """What becomes of the tickets under a policy."""
    budget, rng, found = Budget(), random.Random(seed), []
    for truth in truths:
        decision = decide(truth.ticket, truth.scores, policy, budget, ROUTER_USD, rng)
        budget = budget.after(decision.tier, policy)
        category = policy.of(truth.scores.category)
        ships = category.state == "active" and truth.draft is not None and truth.draft >= category.score_threshold
        found.append(Ends(decision, decision.tier == "tier1" and ships))
    return found


def events(truths: Sequence[Truth], ended: Sequence[Ends], start: datetime = START) -> list[Event]:
    """What the stages write, ticket by ticket, one a second."""
    return [
        event
        for n, (truth, end) in enumerate(zip(truths, ended, strict=True))
        for event in _events(truth, end, start + timedelta(seconds=n))
    ]


def _events(truth: Truth, end: Ends, at: datetime) -> Iterator[Event]:
    decision, ticket = end.decision, truth.ticket
    common: dict[str, Any] = {"ticket_id": ticket.ticket_id, "tenant": ticket.tenant, "category": decision.category}

    def event(stage: str, outcome: str, **fields: Any) -> Event:
        name = f"{stage}{fields.get('tier', '')}/{ticket.tenant}/{ticket.ticket_id}"
        return Event(**{"event_id": name, "at": at, "stage": stage, "outcome": outcome, **common, **fields})

    routed = event(
        "router",
        "routed",
        tier=decision.tier,
        reasons=(decision.reason,),
        p_ok=decision.p_ok,
        p_ok_tier2=decision.p_ok_tier2,
        in_scope=decision.in_scope,
        propensity=decision.propensity,
        audited=decision.audited,
        policy_version=decision.policy_version,
        model="r1",
        cost_usd=decision.cost_usd,
    )
    yield routed
    checked = {"policy_version": decision.policy_version, "cost_usd": CHECK_USD}
    if decision.tier == "tier1" or decision.in_shadow:
        yield event("tier1", "drafted", tier="tier1", model="small", cost_usd=TIER1_USD)
        score, by = truth.draft, "s1" if truth.draft is not None else ""
        outcome = "answered" if end.shipped else "escalated"
        yield event("checker", outcome, tier="tier1", model="small", score=score, scorer=by, **checked)
    if not end.shipped:
        yield event("tier2", "drafted", tier="tier2", model="frontier", cost_usd=truth.tier2_usd)
        yield event("checker", "answered", tier="tier2", model="frontier", **checked)
    if decision.audited:
        yield event("judge", "judged", tier=decision.tier, cost_usd=JUDGE_USD)


def labels(truths: Sequence[Truth], ended: Sequence[Ends]) -> list[Label]:
    """What the judge says of the drafts that were drawn."""
    return [
        Label(
            ticket_id=truth.ticket.ticket_id,
            tenant=truth.ticket.tenant,
            category=end.decision.category,
            acceptable=truth.acceptable,
            source="judge",
            propensity=end.decision.propensity,
            at=END,
        )
        for truth, end in zip(truths, ended, strict=True)
        if end.decision.audited
    ]


def logged(truths: Sequence[Truth], policy: Policy, seed: int = 0) -> list[Logged]:
    """The log that a policy leaves."""
    ended, log = ends(truths, policy, seed), Log(START, END)
    for event in events(truths, ended):
        log.add(event)
    for label in labels(truths, ended):
        log.add_label(label)
    return log.tickets()


class Figures(NamedTuple):
    """What a policy really comes to, audits aside."""

    tier1_share: float
    escalated_share: float
    straight_share: float
    cost_per_1000_usd: float
    bad: float


def truth_of(truths: Sequence[Truth], policy: Policy) -> Figures:
    """With every draft known."""
    ended, n = ends(truths, policy), len(truths)
    shipped = [truth for truth, end in zip(truths, ended, strict=True) if end.shipped]
    usd = 0.0
    for truth, end in zip(truths, ended, strict=True):
        usd += ROUTER_USD + (TIER1_USD + CHECK_USD if end.decision.tier == "tier1" else 0.0)
        usd += 0.0 if end.shipped else truth.tier2_usd + CHECK_USD
    return Figures(
        tier1_share=len(shipped) / n,
        escalated_share=sum(end.escalated for end in ended) / n,
        straight_share=sum(end.decision.tier == "tier2" for end in ended) / n,
        cost_per_1000_usd=1_000 * usd / n,
        bad=sum(not truth.acceptable for truth in shipped) / max(1, len(shipped)),
    )


def with_category(policy: Policy, name: str, **fields: Any) -> Policy:
    """The policy with another one for a category."""
    return replace(policy, categories={**policy.categories, name: replace(policy.of(name), **fields)})
