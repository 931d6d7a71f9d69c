"""Tier-2's share of the traffic."""

import random
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Decision, RouteReason, Ticket, TicketId
from workers.router.budget import BURST, Budget
from workers.router.classifier import Scores
from workers.router.policy import decide

SHARES = st.floats(0, 1)
Arrival = tuple[float, str | None]
"""p_ok, and the tier that the helpdesk forces."""
ARRIVALS = st.lists(
    st.tuples(st.sampled_from([0.1, 0.9]), st.sampled_from([None, None, "tier1", "tier2"])), max_size=90
)

BY_SCORE = {RouteReason.UNCERTAIN, RouteReason.BUDGET, RouteReason.CONFIDENT}


def policy(share: float) -> Policy:
    default = CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.5)
    return Policy(scope="all", version="7", default=default, tier2_share=share)


def scores(p_ok: float) -> Scores:
    return Scores(
        p_ok=p_ok,
        category="billing",
        p_category=0.9,
        passages=(),
        passage_probs=np.ones(1, np.float32),
        embedding=np.zeros(384, np.float32),
        p_ok_tier2=0.95,
        in_scope=0.5,
        cut_chars=0,
        labelled=True,
    )


def run(arrivals: Sequence[Arrival], under: Policy) -> tuple[list[Decision], list[Budget]]:
    """Every ticket's decision, and the budget after it."""
    budget, rng = Budget(), random.Random(0)
    decisions, budgets = [], []
    for p_ok, forced in arrivals:
        ticket = Ticket(ticket_id=TicketId("t1"), body="a red light", metadata={"tier": forced} if forced else {})
        decision = decide(ticket, scores(p_ok), under, budget, 0.0, rng)
        budget = budget.after(decision.tier, under)
        decisions.append(decision)
        budgets.append(budget)
    return decisions, budgets


@given(arrivals=ARRIVALS, share=SHARES)
def test_the_score_never_sends_more_than_the_share_and_a_burst_to_tier2(arrivals: list[Arrival], share: float) -> None:
    """Over every sequence and every start of it, whatever rules do in between."""
    decisions, _ = run(arrivals, policy(share))
    sent = 0
    for n, decision in enumerate(decisions, 1):
        sent += decision.reason == RouteReason.UNCERTAIN
        assert sent <= share * n + BURST + 1e-9


@given(arrivals=ARRIVALS, credit=st.floats(-BURST, BURST))
def test_a_share_of_one_refuses_nothing(arrivals: list[Arrival], credit: float) -> None:
    """Decisions are those of a policy without a budget, even where an earlier policy left none."""
    assert Budget(credit).allows(policy(1.0))
    assert not any(d.reason == RouteReason.BUDGET for d in run(arrivals, policy(1.0))[0])


@given(arrivals=ARRIVALS, share=SHARES)
def test_rules_use_the_budget_up_but_never_yield_to_it(arrivals: list[Arrival], share: float) -> None:
    """A forced tier is given at any credit; the credit stays within its bounds."""
    decisions, budgets = run(arrivals, policy(share))
    assert all(d.tier == forced for d, (_, forced) in zip(decisions, arrivals, strict=True) if forced)
    assert all(-BURST <= b.credit <= BURST for b in budgets)


def test_forced_tickets_leave_less_for_the_score() -> None:
    """A wave of them is overdrawn by a burst at most: so much the tickets after it pay back, and no more."""
    under = policy(0.5)
    wave: list[Arrival] = [(0.9, "tier2")] * 1_000
    later: list[Arrival] = [(0.1, None)] * (2 * (BURST + 1) + 1)
    reasons = [d.reason for d in run(wave + later, under)[0][len(wave) :]]
    # Half a credit comes in with each, and the first to find a whole one goes.
    assert reasons == [RouteReason.BUDGET] * 2 * (BURST + 1) + [RouteReason.UNCERTAIN]


def test_hard_tickets_alone_get_the_share_in_the_long_run() -> None:
    """A burst first, then every fifth at a share of 0.2."""
    decisions, _ = run([(0.1, None)] * 1_000, policy(0.2))
    sent = [d.tier == "tier2" for d in decisions]
    assert all(sent[:BURST])
    assert BURST + 0.2 * 980 - 2 <= sum(sent) <= BURST + 0.2 * 1_000
    assert {d.reason for d in decisions} <= BY_SCORE


def test_easy_tickets_save_up_no_more_than_a_burst() -> None:
    """A quiet night buys no flood in the morning."""
    _, budgets = run([(0.9, None)] * 1_000, policy(0.2))
    assert budgets[-1] == Budget(BURST)
