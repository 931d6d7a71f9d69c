"""Policies on their topic: what is in force, what was, and what another would change."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from msgspec.structs import replace
from rich.console import Console

from schemas.codec import encode
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Certificate, Evidence, Policy, Role
from schemas.tickets import TicketId
from streams.certify import shipped_under
from streams.policies import PolicyTopic
from streams.policy_records import PolicyError, Shelf, differences, show
from workers.learning.review import version_of
from workers.policies import Policies

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", why="60 labels", labels_missing=40)
SURE = CategoryPolicy(
    p_ok_threshold=0.25,
    score_threshold=0.75,
    labels=400,
    certificate=Certificate(
        method="learn_then_test",
        alpha=0.05,
        delta=0.1,
        labels=400,
        shipped=200,
        bad=2,
        upper_bound=0.031,
        pooled=("billing", "orders"),
        solved_at=NOW,
        valid_until=datetime(2026, 12, 25, tzinfo=UTC),
    ),
)
START = Policy(scope="default", version="file", default=SHADOW)


def policy(version: str, **categories: CategoryPolicy) -> Policy:
    return Policy(scope="default", version=version, default=SHADOW, categories=categories, made_at=NOW)


def test_the_topic_wins_over_the_file() -> None:
    """A candidate stands beside it; other scopes and old versions are nobody's business."""
    topic = PolicyTopic(START)
    topic.take("other", encode(policy("o1")))
    topic.take("default@v1", encode(policy("v1")))
    assert topic.current == Policies(START)
    topic.take("default", encode(policy("v1")))
    topic.take("default/candidate", encode(policy("v2")))
    assert (topic.current.active.version, topic.current.candidate) == ("v1", policy("v2"))


def test_a_tombstone_ends_a_candidate_and_gives_way_to_the_file() -> None:
    """Each for its own key."""
    topic = PolicyTopic(START)
    topic.take("default", encode(policy("v1")))
    topic.take("default/candidate", encode(policy("v2")))
    topic.take("default/candidate", None)
    assert topic.current == Policies(policy("v1"))
    topic.take("default", None)
    assert topic.current == Policies(START)


def test_an_unreadable_policy_leaves_the_one_before_in_force() -> None:
    """A mistake of an operator's must not stop the stages."""
    topic = PolicyTopic(START)
    topic.take("default", encode(policy("v1")))
    topic.take("default", b'{"scope": "default"}')
    assert topic.current == Policies(policy("v1"))


def shelf() -> Shelf:
    found = Shelf("default")
    for version in ("abc1", "abc2", "d1"):
        found.add(f"default@{version}", encode(policy(version)))
    found.add("default", encode(policy("d1")))
    found.add("x", b"{")
    return found


def test_a_version_is_found_by_its_start() -> None:
    """If only one begins so."""
    assert shelf().get("d").version == "d1"
    assert shelf().unreadable == 1
    for version in ("abc", "z"):
        with pytest.raises(PolicyError, match="policies begin with"):
            shelf().get(version)


def test_differences_are_told_in_words() -> None:
    """A category that comes out of the shadow, and what is promised then."""
    lines = differences(policy("v1", billing=SHADOW), replace(policy("v2", billing=SURE), max_ticket_chars=9))
    assert "billing: state shadow -> active" in lines
    assert "billing: bound none -> 3.10%" in lines
    assert "max_ticket_chars: 2000 -> 9" in lines
    assert differences(policy("v1", billing=SURE), policy("v2", billing=SURE)) == []


def test_the_table_says_what_is_certified_and_what_is_missing() -> None:
    """To which bound, for how many categories together, until when; and how many labels more."""
    console = Console(record=True, width=200)
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    show(Policies(replace(policy("v1", billing=SURE), made_at=elsewhere)), {"billing": 410, "roaming": 60}, console)
    shown = console.export_text()
    assert "policy v1 of 2026-11-25 00:00 UTC" in shown
    assert "at most 3.1% bad of 2 together, at 90%" in shown
    assert "2026-12-25" in shown
    assert "400 (410 now)" in shown
    assert "shadow: 60 labels" in shown
    assert "about 40" in shown


def test_what_a_candidate_shipped_is_no_evidence_against_the_policy_in_force() -> None:
    """Nor the other way round; without a candidate all is."""
    labels = [
        Label(
            ticket_id=TicketId(version),
            category="billing",
            acceptable=False,
            source="judge",
            propensity=1.0,
            at=NOW,
            shipped=True,
            policy_version=version,
        )
        for version in ("v0", "v1", "v2")
    ]
    both = Policies(policy("v1"), policy("v2"))
    assert both.candidate is not None
    assert [x.shipped for x in shipped_under(both.active, both, labels)] == [True, True, None]
    assert [x.shipped for x in shipped_under(both.candidate, both, labels)] == [None, None, True]
    assert shipped_under(both.active, Policies(both.active), labels) == labels


def placed(version: str, role: Role, because: str = "") -> Policy:
    evidence = Evidence(role=role, at=NOW, by="headgate certify", because=(because,), tickets=200, control=190)
    return replace(policy(version), evidence=evidence)


def test_what_was_never_in_force_or_was_rolled_back_is_nothing_to_go_back_to() -> None:
    """Whoever takes back a policy doesn't want the candidate that failed last week."""
    found = shelf()
    for version, role in (("abc1", "candidate"), ("abc2", "rolled_back")):
        found.add(f"default@{version}", encode(placed(version, role)))  # type: ignore[arg-type]
    found.add("default@e1", encode(policy("e1")))
    assert [p.version for p in found.earlier()] == ["e1"]


def test_the_policy_before_is_the_last_that_was_in_force_whenever_it_was_made() -> None:
    """One that was put in force a second time is nearer than one that was made after it."""
    found = shelf()
    for version, hours in (("abc1", 3), ("abc2", 2), ("d1", 4)):
        evidence = Evidence(role="in_force", at=NOW + timedelta(hours=hours), by="headgate policy promote")
        found.add(f"default@{version}", encode(replace(policy(version), evidence=evidence)))
    assert [p.version for p in found.earlier()] == ["abc2", "abc1"]


def test_what_a_policy_has_its_place_on_is_shown() -> None:
    """And why the last one lost it."""
    console = Console(record=True, width=200)
    show(Policies(placed("v1", "in_force")), {}, console, placed("v2", "rolled_back", "its p95 is high"))
    shown = console.export_text()
    assert "in force since 2026-11-25 00:00 UTC by headgate certify" in shown
    assert "200 tickets beside 190 of the policy in force: p95 unknown, cost unknown" in shown
    assert "no longer: policy v2" in shown
    assert "its p95 is high" in shown


def test_a_policys_place_is_no_part_of_its_version() -> None:
    """So that it keeps its name when it is promoted."""
    assert version_of(placed("v1", "candidate")) == version_of(policy("v1")) != version_of(policy("v1", billing=SURE))


def test_no_command_waits_for_scipy() -> None:
    """All of them import this module for its error; scipy.stats takes longer than all else that they import."""
    found = "import sys, streams.cli, streams.policy_records; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", found], check=False).returncode == 0
