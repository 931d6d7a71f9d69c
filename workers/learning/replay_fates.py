"""What would have become of each ticket of a log under another policy, as far as the log can tell. Pure.

A ticket that the policy sends to tier-1 needs its draft: the log has it where tier-1 was really tried, and where the
ticket was drawn for an audit. Where it might have been drawn and wasn't, those that were speak for it; where it never
could be, nothing does.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np

from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import RouteReason, TicketKey
from workers.learning.replay_log import Drafted, Logged
from workers.policies import Part, holding
from workers.router.budget import Budget
from workers.router.classifier import Scores
from workers.router.policy import AUDITABLE, Choice, by_scores

Fate = Literal["straight", "shipped", "escalated", "unseen", "unknown", "undecided"]
"""To tier-2 by the router; answered by tier-1; tried on tier-1 and sent up; to tier-1, with a draft that the log has
only of others like it; to tier-1, with a draft that nothing is known of; or not even the tier is known."""

BY_TICKET = frozenset(
    {RouteReason.FORCED, RouteReason.VIP, RouteReason.LANGUAGE, RouteReason.TOO_LONG, RouteReason.NO_TEXT}
)
"""What `by_ticket` may say."""

BY_ITSELF = frozenset({RouteReason.FORCED, RouteReason.NO_TEXT})
"""Those that no policy changes."""

_NONE = np.empty(0, np.float32)


class Unsupported(StrEnum):
    """Why the log says nothing of a ticket."""

    NEVER_DRAWN = "a rule kept it from tier-1, or its category had no audits: its draft was never to be drawn"
    FEW_DRAWN = "too few of those like it were drawn"
    RESCORED = "another router model gives tier-1 other passages, and the checker other numbers"
    OTHER_TIER1 = "its draft is by another tier-1 model than the candidate's"
    OTHER_SCORER = "its draft has a score by another scorer than the candidate's"
    TEXT_GONE = "the router's decision needs its text, which is no longer on its topic"


class Reading(NamedTuple):
    """What a ticket's text says under the candidate."""

    choice: Choice | None
    """By `by_ticket`."""
    scores: Scores | None = None
    """By the candidate's router model, where the log's are by another."""


class Replayed(NamedTuple):
    """A ticket under a policy."""

    ticket: Logged
    fate: Fate
    in_sample: bool = False
    """The log tried it on tier-1 only if it was drawn: those that were drawn speak for the others."""
    audit_share: float = 0.0
    """Probability that the policy draws it."""
    why: Unsupported | None = None


def is_rescored(ticket: Logged, candidate: Policy) -> bool:
    """Whether the log's p_ok is by another model than the candidate's."""
    return bool(candidate.router_model) and ticket.router_model != candidate.router_model


def needs_text(ticket: Logged, candidate: Policy, known: Mapping[str, Policy]) -> bool:
    """Whether only the ticket's text can tell the router's decision. `known` are the log's policies by version."""
    by_scores = ticket.reason not in BY_TICKET
    return _needs_rules(ticket, candidate, known) or (by_scores and is_rescored(ticket, candidate))


def _needs_rules(ticket: Logged, candidate: Policy, known: Mapping[str, Policy]) -> bool:
    own = known.get(ticket.policy_version)
    return ticket.reason not in BY_ITSELF and (own is None or _rules(own) != _rules(candidate))


def _rules(policy: Policy) -> tuple[frozenset[str], frozenset[str], int]:
    """What `by_ticket` reads of a policy."""
    return frozenset(policy.tier2_customers), frozenset(policy.languages), policy.max_ticket_chars


def under_candidate(
    tickets: Sequence[Logged], candidate: Policy, known: Mapping[str, Policy], texts: Mapping[TicketKey, Reading]
) -> list[Replayed]:
    """Each ticket under a candidate that was in force for all. `tickets` in the order in which they were routed: one
    router process keeps the budget."""
    budget, found = Budget(), []
    for ticket in tickets:
        held, text = holding(candidate, ticket.at, {}), texts.get(ticket.key)
        if text is None and needs_text(ticket, candidate, known):
            found.append(Replayed(ticket, "undecided", why=Unsupported.TEXT_GONE))
            continue
        rule = text.choice if text and _needs_rules(ticket, candidate, known) else _logged_rule(ticket)
        scores = (text.scores if text else None) or _logged_scores(ticket)
        choice = rule or by_scores(scores, held, budget)
        budget = budget.after(choice[0], held)
        why = Unsupported.RESCORED if is_rescored(ticket, candidate) else _of_others(ticket.draft, candidate)
        found.append(_after_router(ticket, choice, held.of(scores.category), why))
    return found


def under_own(tickets: Iterable[Logged], known: Mapping[str, Policy]) -> list[Replayed]:
    """Each ticket under the policies that it was really under, where these are known: must end as it did. A router
    keeps one budget for all of them."""
    budget, found = Budget(), []
    for ticket in tickets:
        routed, draft = known.get(ticket.policy_version), ticket.draft
        judged = known.get(draft.policy_version) if draft else routed
        if routed is None or judged is None:
            continue
        held = holding(routed, ticket.at, {"router_model": ticket.router_model})
        choice = _logged_rule(ticket) or by_scores(_logged_scores(ticket), held, budget)
        budget = budget.after(choice[0], held)
        if draft:
            judged = holding(judged, draft.at, _at_work(ticket, draft))
        found.append(_after_router(ticket, choice, judged.of(ticket.category)))
    return found


def as_happened(tickets: Iterable[Logged]) -> list[Replayed]:
    """What became of each ticket."""
    return [Replayed(t, "straight" if t.tier == "tier2" else "shipped" if t.shipped else "escalated") for t in tickets]


def _at_work(ticket: Logged, draft: Drafted) -> dict[Part, str]:
    """As the checker saw it."""
    return {"router_model": ticket.router_model, "scorer": draft.scorer, "tier1_model": draft.model}


def _logged_rule(ticket: Logged) -> Choice | None:
    return (ticket.tier, ticket.reason) if ticket.reason in BY_TICKET else None


def _logged_scores(ticket: Logged) -> Scores:
    return Scores(
        p_ok=ticket.p_ok,
        category=ticket.category,
        p_category=1.0,
        passages=(),
        passage_probs=_NONE,
        embedding=_NONE,
        p_ok_tier2=ticket.p_ok_tier2,
        in_scope=ticket.in_scope,
        labelled=ticket.reason != RouteReason.UNLABELLED,
    )


def _after_router(ticket: Logged, choice: Choice, category: CategoryPolicy, why: Unsupported | None = None) -> Replayed:
    """What becomes of a ticket with this choice; `why` its draft, if it has one, is none that the policy would see."""
    tier, reason = choice
    share = category.audit_share if reason in AUDITABLE else 0.0
    if tier == "tier2":
        return Replayed(ticket, "straight", audit_share=share)
    if why:
        return Replayed(ticket, "unknown", audit_share=share, why=why)
    in_sample = ticket.tier == "tier2" and 0 < ticket.propensity < 1
    if ticket.tier == "tier1" or ticket.audited:
        # Without a draft tier-1 was away, as it would have been.
        return Replayed(ticket, "shipped" if ships(ticket.draft, category) else "escalated", in_sample, share)
    if in_sample:
        return Replayed(ticket, "unseen", in_sample, share)
    return Replayed(ticket, "unknown", audit_share=share, why=Unsupported.NEVER_DRAWN)


def ships(draft: Drafted | None, category: CategoryPolicy) -> bool:
    """The checker's verdict on a draft, from its score."""
    if draft is None or draft.score is None or category.state == "shadow":
        return False
    return draft.score >= category.score_threshold


def _of_others(draft: Drafted | None, policy: Policy) -> Unsupported | None:
    if draft is None:
        return None
    if policy.tier1_model and draft.model != policy.tier1_model:
        return Unsupported.OTHER_TIER1
    if policy.scorer and draft.scorer and draft.scorer != policy.scorer:
        return Unsupported.OTHER_SCORER
    return None
