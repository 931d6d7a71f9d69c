"""Which policy a ticket is under, and what of it still holds."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.policy import CategoryPolicy, Certificate, Policy
from workers.policies import Policies, holding

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def certificate(valid_until: datetime | None = None) -> Certificate:
    return Certificate(
        method="learn_then_test",
        alpha=0.05,
        delta=0.1,
        labels=400,
        shipped=200,
        bad=2,
        upper_bound=0.03,
        solved_at=NOW,
        valid_until=valid_until,
    )


def policy(version: str = "v1", **fields: object) -> Policy:
    sure = CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.6, certificate=certificate())
    shadow = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow")
    return Policy(scope="default", version=version, default=shadow, categories={"billing": sure}, **fields)  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_growing_canary_takes_tickets_and_gives_none_back(ticket_id: str, one: float, other: float) -> None:
    """And without a candidate there is one policy."""
    small, large = sorted((one, other))
    under = [
        Policies(policy(), policy("v2", canary_share=share)).of_ticket(ticket_id).version for share in (small, large)
    ]
    assert under in (["v1", "v1"], ["v1", "v2"], ["v2", "v2"])
    assert Policies(policy()).of_ticket(ticket_id).version == "v1"


def test_a_canary_gets_its_share() -> None:
    """Of 4,000 tickets, within four standard errors."""
    both = Policies(policy(), policy("v2", canary_share=0.2))
    got = sum(both.of_ticket(f"t{n}").version == "v2" for n in range(4_000))
    assert abs(got - 800) < 4 * (4_000 * 0.2 * 0.8) ** 0.5


def test_a_draft_is_judged_by_the_policy_that_routed_it() -> None:
    """Or by the one in force, if that is gone: with it went its certificates."""
    both = Policies(policy(), policy("v2", canary_share=0.2))
    assert both.of_version("v2").version == "v2"
    assert both.of_version("v1").version == "v1"
    assert both.of_version("v0").version == "v1"
    assert Policies(policy()).of_version("v2").version == "v1"


def test_under_other_models_nothing_is_certified() -> None:
    """Thresholds mean something for the scores that they were solved for only."""
    solved = policy(router_model="r1", scorer="s1")
    assert holding(solved, NOW, {"router_model": "r1", "scorer": "s1"}) is solved
    assert holding(solved, NOW, {"router_model": "r1"}) is solved
    fallen = holding(solved, NOW, {"router_model": "r2"})
    assert {c.state for c in (fallen.default, *fallen.categories.values())} == {"shadow"}
    assert "r2 is at work" in fallen.categories["billing"].why
    assert holding(policy(), NOW, {"router_model": "r2"}) == policy()


def test_a_certificate_ends() -> None:
    """To the moment; another category's goes on."""
    ending = CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.6, certificate=certificate(NOW))
    both = replace(policy(), categories={**policy().categories, "orders": ending})
    before = NOW - timedelta(seconds=1)
    assert holding(both, before, {}) is both
    after = holding(both, NOW, {})
    assert (after.categories["orders"].state, after.categories["billing"].state) == ("shadow", "active")
    assert after.categories["orders"].certificate is None
