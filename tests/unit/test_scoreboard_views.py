"""What the pages say of policies, spending and backlogs, from plain values."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.labels import Label
from schemas.policy import CategoryPolicy, Certificate, Policy
from schemas.spend import Reserve, Settle
from schemas.tickets import TicketId
from streams.certify import goal_of
from streams.runtime.offsets import CommitPoint, Offsets
from streams.scoreboard.backlog import Unfinished, backlog_view
from streams.scoreboard.policy_view import policies_view
from streams.scoreboard.spend_view import spend_view
from streams.settings import CertifySettings
from workers.policies import Policies
from workers.tier2.spend import SpendLimits, TenantLimits
from workers.tier2.spend_book import SpendBook

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
GOAL = goal_of(CertifySettings())


def certified(until: datetime) -> CategoryPolicy:
    certificate = Certificate(
        method="learn_then_test",
        alpha=0.05,
        delta=0.1,
        labels=400,
        shipped=300,
        bad=5,
        upper_bound=0.04,
        solved_at=NOW - timedelta(days=5),
        valid_until=until,
    )
    return CategoryPolicy(p_ok_threshold=0.7, score_threshold=0.8, labels=400, certificate=certificate)


SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", why="no labels", labels_missing=60)


def label(number: int, category: str, acceptable: bool = True, version: str = "") -> Label:
    return Label(
        ticket_id=TicketId(f"{category}{number}"),
        category=category,
        acceptable=acceptable,
        source="judge",
        propensity=0.1,
        at=NOW - timedelta(hours=2, seconds=-number),
        shipped=True,
        policy_version=version,
    )


def test_a_category_says_what_is_proved_and_how_near_its_end_is() -> None:
    """And one that has labels and no policy of its own is named, too; the last is any other."""
    active = Policy(
        scope="default", version="v1", default=SHADOW, categories={"billing": certified(NOW.replace(year=2027))}
    )
    labels = [label(n, "billing", acceptable=n % 10 > 0) for n in range(40)] + [label(0, "plans")]
    billing, plans, other = policies_view(Policies(active), labels, GOAL, NOW).active.categories
    assert (billing.name, billing.state, billing.upper_bound, billing.labels) == ("billing", "active", 0.04, 40)
    assert billing.confidence == pytest.approx(0.9)
    assert billing.drift is not None
    assert (billing.drift.tickets, billing.drift.alarm_at) == (40, 20)
    assert 1 < billing.drift.wealth < 20
    assert (plans.name, plans.state, plans.labels, plans.labels_missing) == ("plans", "shadow", 1, 60)
    assert (other.name, other.why, other.upper_bound, other.drift) == ("", "no labels", None, None)


def test_a_certificate_that_has_ended_is_shown_as_the_stages_take_it() -> None:
    active = Policy(scope="default", version="v1", default=SHADOW, categories={"billing": certified(NOW)})
    billing = policies_view(Policies(active), [], GOAL, NOW).active.categories[0]
    assert (billing.state, billing.why, billing.upper_bound) == ("shadow", "the certificate has ended", None)


def test_a_candidate_has_its_share_and_its_own_labels() -> None:
    """What the candidate shipped is no evidence on the certificates of the policy in force."""
    active = Policy(
        scope="default", version="v1", default=SHADOW, categories={"billing": certified(NOW.replace(year=2027))}
    )
    candidate = Policy(
        scope="default",
        version="v2",
        default=SHADOW,
        categories={"billing": certified(NOW.replace(year=2027))},
        canary_share=0.1,
    )
    labels = [label(n, "billing", version="v2" if n < 10 else "v1") for n in range(40)]
    found = policies_view(Policies(active, candidate), labels, GOAL, NOW)
    assert found.candidate is not None
    assert (found.active.share, found.candidate.share) == (0.9, 0.1)
    tests = [view.categories[0].drift for view in (found.active, found.candidate)]
    assert [test and test.tickets for test in tests] == [30, 10]


def test_spending_is_shown_against_the_limits_of_all_and_of_tenants() -> None:
    """Worst cases of calls under way count as spent, and are shown as reserved, too."""
    now_s = NOW.timestamp()
    book = SpendBook()
    book.apply(Reserve(id="a", tenant="acme", micro_usd=900_000), now_s - 7200)
    book.apply(Settle(id="a", micro_usd=400_000), now_s - 7200)
    book.apply(Reserve(id="b", tenant="acme", micro_usd=100_000), now_s)
    book.apply(Reserve(id="c", tenant="other", micro_usd=200_000), now_s)
    limits = SpendLimits(day_usd=10.0, tenant_day_usd=1.0, tenants={"big": TenantLimits(month_usd=50.0)})
    shown = spend_view(book, limits, now_s).limits
    everyone = {view.period: view for view in shown if view.tenant is None}
    assert list(everyone) == ["minute", "day", "month"]
    assert [everyone[p].spent_usd for p in everyone] == pytest.approx([0.3, 0.7, 0.7])  # type: ignore[index]
    assert [everyone[p].limit_usd for p in everyone] == [None, 10.0, None]  # type: ignore[index]
    assert everyone["day"].reserved_usd == pytest.approx(0.3)
    assert everyone["day"].resets_in_s == 12 * 3600
    tenants = [(view.tenant, view.period, view.spent_usd, view.limit_usd) for view in shown if view.tenant]
    assert tenants == [("acme", "day", 0.5, 1.0), ("other", "day", 0.2, 1.0), ("big", "month", 0.0, 50.0)]


@given(st.sets(st.integers(0, 40)), st.integers(0, 41), st.integers(0, 41))
def test_the_backlog_is_what_is_not_finished(finished: set[int], begun: int, looked_to: int) -> None:
    """However far the look goes; the oldest is the first that is not finished."""
    offsets = Offsets(CommitPoint(0))
    for offset in range(begun):
        offsets.arrive(offset)
        offsets.begin(offset, float(offset))
    done = {offset for offset in finished if offset < begun}
    for offset in done:
        offsets.finish(offset)
    part = Unfinished.of(offsets.commit_point(), 0, 41)
    for offset in range(part.next, looked_to):
        part.look(offset, 1000.0 + offset)
    left = [offset for offset in range(41) if offset not in done]
    assert part.count == len(left)
    if looked_to > min(left, default=41):
        assert part.oldest_s == 1000.0 + left[0]
    rows = backlog_view({("router", "tickets"): [part], ("judge", "audits.backfill"): []}, 2000.0).stages
    assert [(row.unfinished, row.lane) for row in rows] == [(len(left), "live"), (0, "backfill")]


def test_offsets_that_no_record_has_are_no_backlog() -> None:
    """Transactions leave markers: a look that finds no record up to the end finds nothing to do."""
    part = Unfinished.of(CommitPoint(5), 0, 8)
    assert part.count == 3
    part.next = 8
    assert (part.count, part.oldest_s) == (0, None)
