"""The quality loop's benchmark: what it counts, on values made by hand."""

from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks.quality_loop import ships, violations
from benchmarks.quality_loop_wheel import Costs, Result
from schemas.policy import CategoryPolicy, Certificate
from tests.fernway import fernway
from workers.learning.steps import GOAL
from workers.learning.thresholds import Row, Solved

SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow")


def test_a_draft_ships_where_both_thresholds_are_reached() -> None:
    """And its category is active; one that has no policy does not."""
    policy = CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.9)
    solved = Solved({"orders": policy, "billing": SHADOW}, SHADOW)
    assert ships(Row("orders", 0.5, 0.9, True), solved)
    assert not ships(Row("orders", 0.4, 0.9, True), solved)
    assert not ships(Row("orders", 0.5, 0.8, True), solved)
    assert not ships(Row("billing", 1.0, 1.0, True), solved)
    assert not ships(Row("other", 1.0, 1.0, True), solved)


def test_certificates_promise_too_much_as_seldom_as_they_say() -> None:
    """Hardly ever where scores tell good from bad; at most delta of the draws where they say nothing."""
    rng = np.random.default_rng(0)
    good = rng.random(300) < 0.7
    telling = [Row("orders", 0.5, float(0.9 * g + 0.1 * rng.random()), bool(g)) for g in good]
    assert violations(telling) <= 0.01
    blind = [Row("orders", 0.5, float(rng.random()), bool(rng.random() < 0.5)) for _ in range(300)]
    assert violations(blind) <= GOAL.delta


def test_a_rounds_bound_is_its_weakest() -> None:
    """Of all certificates; its labels are all of theirs."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    made = [
        Certificate(
            method="learn_then_test", alpha=0.05, delta=0.1, labels=n, shipped=n, bad=0, upper_bound=b, solved_at=now
        )
        for n, b in ((100, 0.05), (300, 0.03))
    ]
    result = Result(
        round=1,
        taught=0,
        tier1_share=0.5,
        quality=1.0,
        usd={"tier2": 0.5, "audits": 0.25},
        shipped=1,
        bad=0,
        certificates=tuple(made),
    )
    assert (result.bound, result.labels, result.cost_usd) == (0.05, 400, 0.75)


def test_costs_are_the_price_tables() -> None:
    """Of claude-sonnet-5-5: 2 dollars a million tokens in, 10 out, 0.1 cached; a judge reads the answer, too."""
    company = fernway()
    costs, example = Costs(company), company.split("test")[0]
    answer, verdict = costs.tier2(example), costs.judge(example, example.reference)
    assert 0.0003 < answer < 0.003
    assert 0.0003 < verdict < 0.003
    longer = costs.judge(example, example.reference * 2) - verdict
    assert longer == pytest.approx(len(example.reference) / 4 * 2e-6, abs=3e-6)
