"""A candidate's trial: which tickets are its, what they took, and what follows for it."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from schemas.events import Event
from schemas.policy import CategoryPolicy, Evidence, Policy, Role
from schemas.tickets import TicketId
from streams.trials import began_at
from tests.records import AT
from workers.learning.guards import Comparison, Journey
from workers.learning.review import Review
from workers.learning.trial import Trial, next_step
from workers.policies import Policies

SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow")
ACTIVE = Policy(scope="default", version="v1", default=SHADOW)
CANDIDATE = Policy(scope="default", version="v2", default=SHADOW, canary_share=0.1)
BOTH = Policies(ACTIVE, CANDIDATE)


def event(number: int, **fields: object) -> Event:
    values = {
        "event_id": f"router/tickets/0/{number}",
        "at": AT,
        "stage": "router",
        "outcome": "routed",
        "ticket_id": TicketId(f"t{number}"),
        "tenant": "default",
        "policy_version": BOTH.of_ticket(f"t{number}").version,
        "cost_usd": 0.1,
        "age_s": 1.0,
    }
    return Event(**values | fields)  # type: ignore[arg-type]


def a_trial(numbers: int = 2_000) -> Trial:
    trial = Trial(BOTH, 1_000)
    for number in range(numbers):
        trial.add(event(number))
    return trial


def test_about_as_many_tickets_of_the_policy_in_force_stand_beside_the_candidates() -> None:
    """Others are forgotten at once, so a small candidate costs little memory."""
    trial = a_trial()
    assert 150 < len(trial.tried) < 250
    assert 150 < len(trial.beside) < 250
    assert not trial.tried.keys() & trial.beside.keys()


def test_a_tickets_events_add_up_until_it_ends() -> None:
    """Its costs by all stages but the judge; its age is that of the answer."""
    trial = a_trial()
    key = next(iter(trial.tried))
    number = int(key[1][1:])
    trial.add(event(number, stage="tier2", outcome="drafted", age_s=3.0))
    trial.add(event(number, stage="checker", outcome="answered", age_s=4.0))
    trial.add(event(number, stage="judge", outcome="judged", age_s=99.0, cost_usd=9.0))
    assert trial.tried[key] == Journey(AT - timedelta(seconds=1), pytest.approx(0.3), 4.0)


def test_tickets_of_other_policies_and_copies_are_not_counted() -> None:
    """Nor those that began before the trial: their routing is unknown."""
    trial = Trial(BOTH, 1_000)
    trial.add(event(1, policy_version="v0"))
    trial.add(event(2, outcome="duplicate"))
    trial.add(event(3, stage="checker", outcome="answered"))
    assert not trial.tried
    assert not trial.beside


def test_a_backfill_is_no_part_of_a_trial() -> None:
    """It waits for spare capacity, which says nothing of a policy."""
    trial = a_trial(100)
    number = int(min(trial.tried)[1][1:])
    trial.add(event(number, stage="checker", outcome="answered", age_s=9e5, replay_id="b-1"))
    trial.add(event(2_000_000, policy_version="v2", replay_id="b-1"))
    assert trial == a_trial(100)


def test_no_ticket_is_taken_in_past_the_last_look() -> None:
    """A candidate may stay for weeks."""
    trial = Trial(BOTH, 10)
    for number in range(2_000):
        trial.add(event(number))
    assert len(trial.tried) == 10
    assert len(trial.beside) < 40


SOME = Comparison(tickets=200, control=190, latency_ratio=1.0, cost_ratio=1.0, is_complete=True)
BREACHED = Comparison(tickets=200, control=190, breaches=("it is slow",), is_complete=True)
UNFINISHED = Comparison(tickets=200, control=190)


@pytest.mark.parametrize(
    ("seen", "promote_after", "role"),
    [
        (Comparison(), None, None),
        (SOME, None, None),
        (SOME, 200, "in_force"),
        (SOME, 201, None),
        (UNFINISHED, 100, None),
        (BREACHED, None, "rolled_back"),
        (BREACHED, 100, "rolled_back"),
    ],
)
def test_what_follows_for_a_candidate(seen: Comparison, promote_after: int | None, role: Role | None) -> None:
    """A breach wins; promotion only where it is wanted, and on finished tickets."""
    unchanged = Review(CANDIDATE, CANDIDATE, {}, {})
    assert next_step(unchanged, seen, promote_after)[0] == role


def test_a_trial_begins_when_the_later_of_both_got_its_place() -> None:
    """However old the policy is that was taken out again for it; a file's alone says nothing of when."""
    placed = replace(CANDIDATE, evidence=Evidence(role="candidate", at=AT, by="headgate policy promote"))
    assert began_at(Policies(replace(ACTIVE, made_at=AT - timedelta(days=9)), placed)) == AT - timedelta(seconds=60)
    assert began_at(BOTH).timestamp() == 0
