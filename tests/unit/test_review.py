"""The review of a policy by its labels: certificates come, stand and fall."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import TicketId
from workers.learning.review import FIRST_LOOK, Review, groups, looks, review, share_of
from workers.learning.thresholds import Goal

START = datetime(2026, 11, 1, tzinfo=UTC)
SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", audit_share=0.2)
NEW = Policy(scope="default", version="v0", default=SHADOW)
GOAL = Goal()


def labels(
    n: int, category: str = "billing", after: datetime = START, bad_share: float = 0.3, **fields: object
) -> list[Label]:
    """Audits, one a minute; scores tell good drafts from bad ones well."""
    rng = np.random.default_rng(len(category) + n)
    made = []
    for i in range(n):
        good = bool(rng.random() >= bad_share)
        score = float(1 / (1 + np.exp(-(rng.normal() + (3.0 if good else -3.0)))))
        values = {
            "ticket_id": TicketId(f"{category}-{after:%j%H%M}-{i}"),
            "category": category,
            "acceptable": good,
            "source": "judge",
            "propensity": 0.2,
            "at": after + timedelta(minutes=i + 1),
            "p_ok": 0.5,
            "score": score,
            "shipped": False,
        }
        made.append(Label(**values | fields))  # type: ignore[arg-type]
    return made


def certified(n: int = 400) -> tuple[Review, datetime]:
    now = START + timedelta(days=2)
    done = review(labels(n), NEW, GOAL, now)
    assert done.policy.categories["billing"].certificate is not None
    return done, now


def test_labels_certify_a_category() -> None:
    """It leaves the shadow, under a version of its own that says why."""
    done, _ = certified()
    made = done.policy
    assert made.categories["billing"].state == "active"
    assert made.categories["billing"].labels == 400
    assert made.version not in ("", "v0")
    assert made.because == ("billing: certified on 400 labels",)
    assert made.default.state == "shadow"


@given(st.integers(0, 5_000))
def test_a_look_comes_when_labels_have_doubled(n: int) -> None:
    """At 100, 200, 400, ...: the first look needs the first hundred."""
    look = looks(n)
    assert look == 0 if n < FIRST_LOOK else FIRST_LOOK * 2 ** (look - 1) <= n < FIRST_LOOK * 2**look


def test_all_looks_together_have_delta() -> None:
    """However many come: each has a share of it, and no more is given away than there is."""
    assert sum(share_of(look) for look in range(1, 60)) == pytest.approx(1.0)


def test_between_two_looks_nothing_changes() -> None:
    """However often it is asked: a look more would be a chance more to be lucky."""
    done, now = certified()
    again = review(labels(400), done.policy, GOAL, now + timedelta(hours=1))
    assert again.policy is done.policy
    more = review([*labels(400), *labels(399, after=now)], done.policy, GOAL, now + timedelta(days=2))
    assert more.policy is done.policy


def test_a_look_takes_exactly_the_first_labels() -> None:
    """So a process that comes later, when there are more, sees the same."""
    now = START + timedelta(days=3)
    assert review(labels(700)[:450], NEW, GOAL, now).policy == review(labels(700)[:700], NEW, GOAL, now).policy


def test_too_many_bad_answers_among_those_shipped_withdraw_the_certificate() -> None:
    """Into the shadow, with the audits that belong there, and labels count anew from now on."""
    done, now = certified()
    bad = labels(60, after=now, bad_share=0.5, shipped=True)
    later = now + timedelta(days=1)
    after = review([*labels(400), *bad], done.policy, GOAL, later).policy.categories["billing"]
    assert (after.state, after.certificate, after.since) == ("shadow", None, later)
    assert after.why.startswith("withdrawn: too many bad answers")
    assert after.audit_share == GOAL.shadow_audit_share


def test_what_was_not_shipped_is_no_evidence_against_a_certificate() -> None:
    """Refused drafts may be as bad as they like."""
    done, now = certified()
    refused = labels(200, after=now, bad_share=1.0, shipped=False)
    assert review([*labels(400), *refused], done.policy, GOAL, now).drift["billing"].tickets == 0


def test_as_few_bad_answers_as_allowed_leave_it_standing() -> None:
    """Three in a hundred, for ten thousand audits."""
    done, now = certified()
    fine = labels(10_000, after=now, bad_share=0.03, shipped=True)
    kept = review([*labels(400), *fine], done.policy, GOAL, now + timedelta(days=9))
    assert not kept.drift["billing"].is_alarm
    assert kept.policy.categories["billing"].certificate is not None


def test_a_withdrawn_category_is_certified_again_by_recent_labels_alone() -> None:
    """Those of before the withdrawal are about what was before."""
    done, now = certified()
    bad = labels(60, after=now, bad_share=0.5, shipped=True)
    withdrawn_at = now + timedelta(days=1)
    withdrawn = review([*labels(400), *bad], done.policy, GOAL, withdrawn_at).policy
    quiet = review([*labels(400), *bad], withdrawn, GOAL, withdrawn_at + timedelta(days=1))
    assert quiet.policy is withdrawn
    recent = labels(200, after=withdrawn_at)
    again = review([*labels(400), *bad, *recent], withdrawn, GOAL, withdrawn_at + timedelta(days=1)).policy
    assert again.categories["billing"].certificate is not None
    assert again.categories["billing"].labels == 200


def test_small_categories_are_certified_as_one() -> None:
    """And fall as one: the promise was for all of them together."""
    some = [*labels(120, "billing"), *labels(110, "orders")]
    now = START + timedelta(days=1)
    made = review(some, NEW, GOAL, now).policy
    assert {n: c.certificate and c.certificate.pooled for n, c in made.categories.items()} == dict.fromkeys(
        ("billing", "orders"), ("billing", "orders")
    )
    bad = labels(60, "orders", after=now, bad_share=0.5, shipped=True)
    fallen = review([*some, *bad], made, GOAL, now + timedelta(days=1)).policy
    assert {c.state for c in fallen.categories.values()} == {"shadow"}


def test_labels_that_are_no_random_sample_prove_nothing() -> None:
    """Feedback comes from whoever complains; and tier-2's labels are not about tier-1."""
    for fields in ({"source": "feedback"}, {"source": "escalation"}, {"tier": "tier2"}):
        assert review(labels(400, **fields), NEW, GOAL, START).policy is NEW


@pytest.mark.parametrize("part", [("router_model", "model_version"), ("scorer", "scorer"), ("tier1_model", "model")])
def test_labels_of_other_models_prove_nothing(part: tuple[str, str]) -> None:
    """Their p_ok and scores can't be compared, and their drafts are another model's; what names no model counts."""
    in_policy, in_label = part
    policy = replace(NEW, **{in_policy: "new"})
    for name, counted in (("old", 0), ("new", 400), ("", 400)):
        done = review(labels(400, **{in_label: name}), policy, GOAL, START + timedelta(days=2))
        assert done.labels.get("billing", 0) == counted
        assert (done.policy is policy) == (counted == 0)


def test_a_persons_later_word_counts() -> None:
    """Of two labels of one draft the latest is in force."""
    first = labels(400)
    corrected = [
        Label(**{f: getattr(label, f) for f in label.__struct_fields__} | {"acceptable": False, "source": "person"})
        for label in first
    ]
    assert review([*first, *corrected], NEW, GOAL, START).policy.categories["billing"].certificate is None


@pytest.mark.parametrize(
    ("counts", "expected"),
    [({}, []), ({"a": 300, "b": 10, "c": 299}, [("a",), ("b", "c")]), ({"a": 0, "b": 300}, [("b",)])],
)
def test_categories_are_grouped_by_their_labels_number(
    counts: dict[str, int], expected: Sequence[tuple[str, ...]]
) -> None:
    """Never by what the labels say."""
    assert groups(counts, 300) == expected
