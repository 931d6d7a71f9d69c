"""The early warning: it comes with a change, goes with it, and seldom comes without."""

from datetime import timedelta

import numpy as np
from msgspec.structs import replace

from schemas.events import Event
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Certificate, Policy
from schemas.tickets import TicketId
from tests.records import AT
from workers.learning.lookout import CALM_DRAFTS, DELTA, Lookout, Lookouts, baseline, checked, complained
from workers.learning.review import by_category, review
from workers.learning.thresholds import Goal

CERTIFICATE = Certificate(
    method="learn_then_test", alpha=0.05, delta=0.1, labels=400, shipped=200, bad=2, upper_bound=0.03, solved_at=AT
)
SURE = CategoryPolicy(
    p_ok_threshold=0.4, score_threshold=0.7, labels=400, certificate=CERTIFICATE, audit_share=0.05, shipped=300
)
POLICY = Policy(scope="default", version="v1", default=SURE, categories={"billing": SURE})


def verdicts(rng: np.random.Generator, drafts: int, refused: float) -> list[bool]:
    return (rng.random(drafts) < refused).tolist()  # type: ignore[no-any-return]


def watched(lookout: Lookout, some: list[bool]) -> Lookout:
    for refused in some:
        lookout = checked(lookout, refused)
    return lookout


def warned_at(lookout: Lookout, some: list[bool]) -> int | None:
    for number, refused in enumerate(some, 1):
        lookout = checked(lookout, refused)
        if lookout.is_warning:
            return number
    return None


def test_false_warnings_are_rare() -> None:
    """Labels and verdicts of one rate: over a certificate's whole life no more than DELTA."""
    rng, runs = np.random.default_rng(1), 100
    false = 0
    for _ in range(runs):
        start = Lookout.from_labels(int(rng.binomial(300, 0.25)), 300)
        false += warned_at(start, verdicts(rng, 2_000, 0.25)) is not None
    assert false <= runs * DELTA + 3 * (runs * DELTA * (1 - DELTA)) ** 0.5


def test_a_change_is_noticed_either_way() -> None:
    """More refusals or fewer, within some hundreds of drafts and without an audit."""
    rng = np.random.default_rng(2)
    for rate in (0.5, 0.1):
        found = [warned_at(Lookout.from_labels(75, 300), verdicts(rng, 2_000, rate)) for _ in range(20)]
        assert all(found)
        assert np.median([n for n in found if n]) < 400


def test_a_warning_ends_when_nothing_speaks_for_a_change_any_more() -> None:
    """It lasts as long as the change, and some hundreds of drafts longer."""
    rng = np.random.default_rng(3)
    changed = watched(Lookout.from_labels(75, 300), verdicts(rng, 3_000, 0.5))
    assert changed.is_warning
    assert watched(changed, verdicts(rng, CALM_DRAFTS // 2, 0.25)).is_warning
    assert not watched(changed, verdicts(rng, 3 * CALM_DRAFTS, 0.25)).is_warning


def label(number: int, **fields: object) -> Label:
    values = {
        "ticket_id": TicketId(f"t{number}"),
        "category": "billing",
        "acceptable": True,
        "source": "judge",
        "propensity": 0.2,
        "at": AT - timedelta(minutes=number + 1),
        "p_ok": 0.5,
        "score": 0.9,
    }
    return Label(**values | fields)  # type: ignore[arg-type]


LABELS = [label(n, score=0.9 if n % 4 else 0.1) for n in range(300)]


def test_only_labels_that_the_certificate_sends_to_tier1_are_compared_with() -> None:
    """Those before it; a draft that a gate refused counts as refused."""
    some = [
        *LABELS[:8],
        label(900, score=None),
        label(901, p_ok=0.3, score=0.1),
        label(902, at=AT + timedelta(minutes=1), score=0.1),
    ]
    assert baseline(("billing",), SURE, by_category(some)) == (3, 9)


def verdict(number: int, refused: bool, **fields: object) -> Event:
    values = {
        "event_id": f"checker/drafts/0/{number}",
        "at": AT + timedelta(minutes=number + 1),
        "stage": "checker",
        "outcome": "escalated" if refused else "answered",
        "ticket_id": TicketId(f"u{number}"),
        "category": "billing",
        "tier": "tier1",
        "reasons": ("low_score",) if refused else (),
        "policy_version": "v1",
    }
    return Event(**values | fields)  # type: ignore[arg-type]


def a_lookout() -> Lookouts:
    found = Lookouts()
    found.follow(POLICY, None, by_category(LABELS))
    return found


def test_the_checkers_verdicts_are_watched_by_certificate() -> None:
    """All drafts that might have been sent, and no others."""
    lookouts = a_lookout()
    for number in range(300):
        lookouts.add(verdict(number, True, reasons=("shadow",)))
        lookouts.add(verdict(number, True, tier="tier2"))
        lookouts.add(verdict(number, True, category="orders"))
        lookouts.add(verdict(number, True, at=AT))
        lookouts.add(verdict(number, True, stage="tier1"))
    assert lookouts.warnings == {"billing": False}
    for number in range(300):
        lookouts.add(verdict(number, number % 2 == 0))
    assert lookouts.warnings == {"billing": True}


def test_a_warning_outlives_a_new_version_and_not_its_certificate() -> None:
    """The share that it raises makes a version; a certificate that is solved again is watched anew."""
    lookouts = a_lookout()
    for number in range(300):
        lookouts.add(verdict(number, True))
    lookouts.follow(replace(POLICY, version="v2"), None, {})
    assert lookouts.warnings == {"billing": True}
    again = replace(SURE, certificate=replace(CERTIFICATE, solved_at=AT + timedelta(days=1)))
    lookouts.follow(replace(POLICY, categories={"billing": again}), None, by_category(LABELS))
    assert lookouts.warnings == {"billing": False}


def test_what_a_candidate_refuses_is_no_warning() -> None:
    """It has thresholds of its own."""
    lookouts = Lookouts()
    lookouts.follow(POLICY, replace(POLICY, version="v2"), by_category(LABELS))
    for number in range(300):
        lookouts.add(verdict(number, True, policy_version="v2"))
    assert lookouts.warnings == {"billing": False}


def complaint(number: int, acceptable: bool, **fields: object) -> Label:
    at = AT + timedelta(minutes=number)
    values = {"source": "feedback", "acceptable": acceptable, "at": at, "policy_version": "v1"}
    return label(number, **values | fields)


USUAL = [complaint(n, n % 5 > 0) for n in range(-200, 0)]


def test_more_complaints_than_before_the_certificate_warn() -> None:
    """In its categories, of tier-1's answers, under the policy in force."""
    worse = [complaint(n, n % 2 > 0) for n in range(1, 200)]
    assert complained(POLICY, None, [*USUAL, *worse]) == {"billing": True}
    for fields in ({"category": "orders"}, {"tier": "tier2"}, {"policy_version": "v2"}):
        others = [complaint(n, n % 2 > 0, **fields) for n in range(1, 200)]
        assert complained(POLICY, replace(POLICY, version="v2"), [*USUAL, *others]) == {"billing": False}
    assert complained(POLICY, None, [*USUAL, *(complaint(n, n % 5 > 0) for n in range(1, 200))]) == {"billing": False}
    assert complained(POLICY, None, worse) == {"billing": False}


def test_what_is_said_later_of_an_answer_counts_instead() -> None:
    """A ticket that was reopened after it was praised is one complaint, and not a piece of feedback more."""
    twice = [complaint(1, n % 2 > 0, ticket_id=TicketId("u1")) for n in range(200)]
    assert complained(POLICY, None, [*USUAL, *twice]) == {"billing": False}


def test_a_warning_raises_the_share_of_audits_and_gives_it_back() -> None:
    """By versions that say so; while it is on nothing changes, nor where nobody looked."""
    raised = review((), POLICY, Goal(), AT, {"billing": 0.25}).policy
    assert raised.categories["billing"].audit_share == 0.25
    assert raised.because == ("billing: 25% audited, an early warning",)
    assert raised.categories["billing"].certificate == CERTIFICATE
    assert review((), raised, Goal(), AT, {"billing": 0.25}).policy is raised
    assert review((), raised, Goal(), AT).policy is raised
    lowered = review((), raised, Goal(), AT, {}).policy
    assert lowered.categories["billing"].audit_share == 0.05
    assert lowered.because == ("billing: 5% audited, the early warning is over",)


def test_a_warning_lowers_no_share() -> None:
    """An operator may audit more anyway."""
    careful = replace(POLICY, categories={"billing": replace(SURE, audit_share=0.5)})
    assert review((), careful, Goal(), AT, {"billing": 0.25}).policy is careful
