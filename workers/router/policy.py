"""The routing decision: a pure function of ticket, scores, policy, budget and a draw. Rules first, then the scores.

The draw decides no tier: it takes a sample of the tickets for audits.

Nothing that a customer writes can force a tier: the text is only measured (its
letters, language and length) and scored. Only the helpdesk's metadata forces one.
"""

import random
import re

from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Decision, RouteReason, Ticket, Tier
from workers.router.budget import Budget
from workers.router.classifier import Scores, ticket_text
from workers.router.language import guess_or_script

Choice = tuple[Tier, RouteReason]
"""The tier, and why."""

AUDITABLE = frozenset(
    {
        RouteReason.UNCERTIFIED,
        RouteReason.CONFIDENT,
        RouteReason.LITTLE_GAIN,
        RouteReason.BUDGET,
        RouteReason.UNLABELLED,
        RouteReason.UNCERTAIN,
    }
)
"""Tickets that tier-1 might answer, under these thresholds or others; of what a rule keeps from it no label speaks."""


LONGEST_WORD = 100
"""Characters. The encoder's tokenizer reads a longer word as one unknown word piece, as it does an emoji: whatever
p_ok that gets (0.915 in the example) is about no ticket."""

_WORD = re.compile(r"[^\W_]+")


def decide(
    ticket: Ticket, scores: Scores, policy: Policy, budget: Budget, cost_usd: float, rng: random.Random
) -> Decision:
    """Choose the tier. `cost_usd` is what it cost to score this ticket.

    The caller keeps the budget: the next ticket's is `budget.after(decision.tier, policy)`.
    """
    category = policy.of(scores.category)
    gain = gain_of(scores)
    tier, reason = by_ticket(ticket, policy) or by_scores(scores, policy, budget)
    propensity = category.audit_share if reason in AUDITABLE else 0.0
    return Decision(
        tier=tier,
        reason=reason,
        p_ok=scores.p_ok,
        category=scores.category,
        p_category=scores.p_category,
        threshold=category.p_ok_threshold,
        propensity=propensity,
        policy_version=policy.version,
        cost_usd=cost_usd,
        passages=scores.passages,
        p_ok_tier2=scores.p_ok_tier2,
        gain=gain,
        in_scope=scores.in_scope,
        # random() is below 1: a share of 0 draws none, a share of 1 all.
        audited=rng.random() < propensity,
    )


def gain_of(scores: Scores) -> float:
    """Probability that tier-2 is right and tier-1 wrong, taking their errors as independent given the text.

    That is an assumption. Both models tend to fail on the same tickets, so it is rather too high than too low,
    and `least_gain` errs towards tier-2.
    """
    return scores.p_ok_tier2 * (1.0 - scores.p_ok)


def by_ticket(ticket: Ticket, policy: Policy) -> Choice | None:
    """The choice that the ticket itself makes, whatever the scores; None where it makes none."""
    return _by_metadata(ticket) or _by_text(ticket, policy)


def by_scores(scores: Scores, policy: Policy, budget: Budget) -> Choice:
    """The choice for a ticket that makes none by itself."""
    category = policy.of(scores.category)
    # An audit here would buy little: a ticket stops being strange once the model has learned from its text,
    # whichever tier answered it, and until then tier-1's failure is what its label would most likely say.
    if scores.in_scope < policy.least_in_scope:
        return "tier2", RouteReason.OUT_OF_SCOPE
    # After the other rules: tickets of such a category are audited, and must be those that tier-1 would get if it were
    # certified.
    if category.state == "shadow":
        return "tier2", RouteReason.UNCERTIFIED
    return _by_score(scores, gain_of(scores), category) or _by_budget(scores, policy, budget)


def _by_metadata(ticket: Ticket) -> Choice | None:
    match ticket.metadata.get("tier"):
        case "tier1":
            return "tier1", RouteReason.FORCED
        case "tier2":
            return "tier2", RouteReason.FORCED
    return None


def _by_text(ticket: Ticket, policy: Policy) -> Choice | None:
    """Tier-2, where the score has no say."""
    reason: RouteReason | None = None
    if ticket.customer_id in policy.tier2_customers:
        reason = RouteReason.VIP
    elif not _speaks(policy, ticket.language or guess_or_script(ticket.body)):
        reason = RouteReason.LANGUAGE
    elif len(ticket_text(ticket)) > policy.max_ticket_chars:
        reason = RouteReason.TOO_LONG
    elif not _has_words(ticket):
        reason = RouteReason.NO_TEXT
    return ("tier2", reason) if reason else None


def _has_words(ticket: Ticket) -> bool:
    """Whether the customer wrote a word that the encoder can read: numbers, emoji and punctuation alone ask nothing."""
    words = (m[0] for m in _WORD.finditer(f"{ticket.subject}\n{ticket.body}"))
    return any(len(word) <= LONGEST_WORD and any(map(str.isalpha, word)) for word in words)


def _speaks(policy: Policy, language: str) -> bool:
    """Whether tier-1 was trained for a language; an unknown one gets the benefit of the doubt: the checker looks too.

    A policy for "pt" takes "pt-BR" as well, one for "pt-BR" only that. Helpdesks also write "pt_BR", as POSIX does.
    """
    tag = _tag(language)
    spoken = {_tag(known) for known in policy.languages}
    return not tag or tag in spoken or tag.split("-")[0] in spoken


def _tag(language: str) -> str:
    return language.strip().lower().replace("_", "-")


def _by_score(scores: Scores, gain: float, category: CategoryPolicy) -> Choice | None:
    """Tier-1, where the scores speak for it and mean anything."""
    if not scores.labelled:
        return None
    if scores.p_ok >= category.p_ok_threshold:
        return "tier1", RouteReason.CONFIDENT
    if gain < category.least_gain:
        return "tier1", RouteReason.LITTLE_GAIN
    return None


def _by_budget(scores: Scores, policy: Policy, budget: Budget) -> Choice:
    """Tier-2, unless its share is used up. That a model has no labels is a rule like others: no budget bends it."""
    if not scores.labelled:
        return "tier2", RouteReason.UNLABELLED
    return ("tier2", RouteReason.UNCERTAIN) if budget.allows(policy) else ("tier1", RouteReason.BUDGET)
