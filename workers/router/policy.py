"""The routing decision: a pure function of ticket, scores and policy. Rules first, then the model's opinion."""

import random

from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Decision, RouteReason, Ticket, Tier
from workers.router.classifier import Scores, ticket_text
from workers.router.language import guess

Choice = tuple[Tier, RouteReason, float]
"""The tier, why, and the probability that this ticket took it."""


def decide(ticket: Ticket, scores: Scores, policy: Policy, cost_usd: float, rng: random.Random) -> Decision:
    """Choose the tier. `cost_usd` is what it cost to score this ticket."""
    category = policy.of(scores.category)
    tier, reason, propensity = _by_rule(ticket, policy) or _by_score(scores.p_ok, category, policy.explore_share, rng)
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
    )


def _by_rule(ticket: Ticket, policy: Policy) -> Choice | None:
    match ticket.metadata.get("tier"):
        case "tier1":
            return "tier1", RouteReason.FORCED, 1.0
        case "tier2":
            return "tier2", RouteReason.FORCED, 1.0
    if not _speaks(policy, ticket.language or guess(ticket.body)):
        return "tier2", RouteReason.LANGUAGE, 1.0
    if len(ticket_text(ticket)) > policy.max_ticket_chars:
        return "tier2", RouteReason.TOO_LONG, 1.0
    return None


def _speaks(policy: Policy, language: str) -> bool:
    """Whether tier-1 was trained for a language; an unknown one gets the benefit of the doubt: the checker looks too.

    A policy for "pt" takes "pt-BR" as well, one for "pt-BR" only that.
    """
    tag = language.lower()
    spoken = {known.lower() for known in policy.languages}
    return not tag or tag in spoken or tag.split("-")[0] in spoken


def _by_score(p_ok: float, category: CategoryPolicy, explore_share: float, rng: random.Random) -> Choice:
    if category.state == "shadow":
        return "tier2", RouteReason.UNCERTIFIED, 1.0
    if p_ok >= category.p_ok_threshold:
        return "tier1", RouteReason.CONFIDENT, 1.0
    # random() is below 1, so a share of 0 never explores, a share of 1 always does, and no propensity is 0.
    if rng.random() < explore_share:
        return "tier1", RouteReason.EXPLORATION, explore_share
    return "tier2", RouteReason.UNCERTAIN, 1.0 - explore_share
