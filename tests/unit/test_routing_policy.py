"""The routing decision."""

import random
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Decision, RouteReason, Ticket
from workers.router.classifier import Scores
from workers.router.policy import decide

SHARES = st.floats(0, 1)
ENGLISH = "When will the technician be here, and do I have to be at home for it?"


class Draws(random.Random):
    """A generator whose next draws are known."""

    def __init__(self, draw: float) -> None:
        super().__init__()
        self.draw = draw

    def random(self) -> float:
        return self.draw


def scores(p_ok: float, category: str = "billing") -> Scores:
    return Scores(
        p_ok=p_ok,
        category=category,
        p_category=0.9,
        passages=(f"{category}.a",),
        passage_probs=np.ones(1, np.float32),
        embedding=np.zeros(384, np.float32),
    )


def policy(threshold: float = 0.5, explore_share: float = 0.0, **changes: object) -> Policy:
    default = CategoryPolicy(p_ok_threshold=threshold, score_threshold=0.5)
    return Policy(scope="all", version="7", default=default, explore_share=explore_share, **changes)  # type: ignore[arg-type]


def ticket(body: str = ENGLISH, **fields: object) -> Ticket:
    return Ticket(ticket_id="t1", body=body, **fields)  # type: ignore[arg-type]


def decision(
    asked: Ticket | None = None, scored: Scores | None = None, under: Policy | None = None, draw: float = 0.999
) -> Decision:
    return decide(asked or ticket(), scored or scores(0.9), under or policy(), 0.001, Draws(draw))


@given(p_ok=SHARES, threshold=SHARES)
def test_without_exploration_tier1_gets_exactly_the_tickets_at_or_above_the_threshold(
    p_ok: float, threshold: float
) -> None:
    """The threshold itself belongs to tier-1, and the choice is certain."""
    made = decision(scored=scores(p_ok), under=policy(threshold), draw=0.0)
    assert (made.tier == "tier1") == (p_ok >= threshold)
    assert made.reason == (RouteReason.CONFIDENT if p_ok >= threshold else RouteReason.UNCERTAIN)
    assert made.propensity == 1.0


@given(share=SHARES, draw=st.floats(0, 1, exclude_max=True))
def test_exploration_logs_the_probability_of_the_branch_that_was_taken(share: float, draw: float) -> None:
    """Below the threshold tier-1 has probability `share` and tier-2 the rest; no branch of probability 0 is taken."""
    made = decision(scored=scores(0.1), under=policy(0.5, share), draw=draw)
    if draw < share:
        assert (made.tier, made.reason, made.propensity) == ("tier1", RouteReason.EXPLORATION, share)
    else:
        assert (made.tier, made.reason, made.propensity) == ("tier2", RouteReason.UNCERTAIN, 1 - share)
    assert made.propensity > 0


def test_the_logged_propensities_match_what_happens_over_many_tickets() -> None:
    """Inverse propensities add up to the number of tickets, within four standard errors."""
    rng, under, tickets = random.Random(3), policy(0.5, 0.2), 4_000
    made = [decide(ticket(), scores(0.1), under, 0.0, rng) for _ in range(tickets)]
    weights = [1 / d.propensity for d in made if d.tier == "tier1"]
    assert abs(sum(weights) - tickets) < 4 * (tickets * (1 / 0.2 - 1)) ** 0.5


@given(p_ok=SHARES, tier=st.sampled_from(["tier1", "tier2"]), length=st.integers(1, 300))
def test_a_forced_tier_wins_over_everything(p_ok: float, tier: str, length: int) -> None:
    """Neither score, length, language nor an uncertified category changes it."""
    shadow = {"billing": CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.5, state="shadow")}
    asked = ticket("x" * length, language="fr", metadata={"tier": tier})
    made = decision(asked, scores(p_ok), policy(categories=shadow, max_ticket_chars=100))
    assert (made.tier, made.reason, made.propensity) == (tier, RouteReason.FORCED, 1.0)


def test_an_unknown_forced_tier_is_no_force() -> None:
    """A helpdesk's own use of the key does no harm."""
    assert decision(ticket(metadata={"tier": "gold"})).reason == RouteReason.CONFIDENT


@given(p_ok=SHARES, share=SHARES, draw=st.floats(0, 1, exclude_max=True))
def test_an_uncertified_category_ships_nothing_from_tier1(p_ok: float, share: float, draw: float) -> None:
    """Not even to explore."""
    shadow = {"billing": CategoryPolicy(p_ok_threshold=0.0, score_threshold=0.5, state="shadow")}
    made = decision(scored=scores(p_ok), under=policy(explore_share=share, categories=shadow), draw=draw)
    assert (made.tier, made.reason, made.propensity) == ("tier2", RouteReason.UNCERTIFIED, 1.0)


def test_a_language_that_tier1_was_not_trained_for_goes_to_tier2() -> None:
    """Whether the helpdesk names it or the text gives it away."""
    assert decision(ticket(language="es")).reason == RouteReason.LANGUAGE
    assert decision(ticket("Hola, quiero saber cuándo llega el técnico y si hay que estar en casa")).tier == "tier2"


def test_a_regional_tag_counts_as_its_language() -> None:
    """Case doesn't matter; a policy may also name just the region."""
    assert decision(ticket(language="EN-us")).tier == "tier1"
    assert decision(ticket(language="pt-BR"), under=policy(languages=("pt-br",))).tier == "tier1"
    assert decision(ticket(language="pt-PT"), under=policy(languages=("pt-br",))).reason == RouteReason.LANGUAGE


def test_the_helpdesk_knows_the_language_better_than_the_guess() -> None:
    """A named language is not second-guessed."""
    assert decision(ticket("Hola, mi plan es el de 39 y quiero más datos", language="en")).tier == "tier1"


def test_a_text_of_unknown_language_stays_with_the_score() -> None:
    """Many short tickets have no function words at all."""
    assert decision(ticket("no wifi")).reason == RouteReason.CONFIDENT


def test_a_ticket_is_too_long_with_its_subject_and_context() -> None:
    """One character over the limit goes to tier-2, at the limit it doesn't."""
    asked = ticket("b" * 10, subject="s" * 10, context=("c" * 10,), language="en")
    assert decision(asked, under=policy(max_ticket_chars=32)).reason == RouteReason.CONFIDENT
    assert decision(asked, under=policy(max_ticket_chars=31)).reason == RouteReason.TOO_LONG


def test_the_decision_carries_its_grounds() -> None:
    """Scores, the category's own threshold, version and cost travel with the ticket."""
    billing = CategoryPolicy(p_ok_threshold=0.8, score_threshold=0.5)
    made = decision(scored=replace(scores(0.79), p_category=0.6), under=policy(categories={"billing": billing}))
    assert made == Decision(
        tier="tier2",
        reason=RouteReason.UNCERTAIN,
        p_ok=0.79,
        category="billing",
        p_category=0.6,
        threshold=0.8,
        propensity=1.0,
        policy_version="7",
        cost_usd=0.001,
        passages=("billing.a",),
    )
