"""From events and labels to what is known of each ticket, and from that to its fate under another policy."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.answers import GateReason
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import RouteReason
from tests.records import a_draft, a_routed
from tests.replay_world import (
    CHECK_USD,
    END,
    JUDGE_USD,
    ROUTER_USD,
    START,
    TIER1_USD,
    Ends,
    a_policy,
    ends,
    events,
    labels,
    logged,
    world,
)
from workers.checker.checker import judge
from workers.learning.replay_fates import (
    Reading,
    Replayed,
    Unsupported,
    as_happened,
    needs_text,
    ships,
    under_candidate,
    under_own,
)
from workers.learning.replay_log import Drafted, LeftOut, Log, Logged
from workers.router.budget import Budget
from workers.router.policy import decide

LOG = a_policy(0.6, 0.5, audit_share=0.4)


def fates(tickets: list[Logged], candidate: Policy, texts: dict[Any, Reading] | None = None) -> list[Replayed]:
    return under_candidate(tickets, candidate, {LOG.version: LOG}, texts or {})


def of_reason(reason: RouteReason, **fields: Any) -> Logged:
    """A ticket that the router decided for a reason."""
    ticket = next(t for t in logged(world(1, 60), LOG) if t.tier == "tier2" and not t.audited)
    return replace(ticket, reason=reason, propensity=0.0, **fields)


def test_a_ticket_costs_what_its_stages_say() -> None:
    """Each part by itself, the shadow's draft and the judge too."""
    truths = world(1, 200)
    by_id = {truth.ticket.ticket_id: truth for truth in truths}
    for ticket in logged(truths, LOG):
        truth, was_tried = by_id[ticket.key[1]], ticket.tier == "tier1" or ticket.audited
        assert ticket.spent.router_usd == ROUTER_USD
        assert ticket.spent.tier1_usd == (TIER1_USD if was_tried else 0.0)
        assert ticket.spent.tier1_check_usd == (CHECK_USD if was_tried else 0.0)
        assert ticket.spent.tier2_usd == (0.0 if ticket.shipped else truth.tier2_usd)
        assert ticket.spent.judge_usd == (JUDGE_USD if ticket.audited else 0.0)
        assert ticket.acceptable == (truth.acceptable if ticket.audited else None)


def test_the_order_of_partitions_and_repeated_records_change_nothing() -> None:
    """Tickets are read in any order, a ticket's own events in theirs; a record that comes twice counts once."""
    truths = world(2, 100)
    ended = ends(truths, LOG)
    in_order, said = events(truths, ended), labels(truths, ended)
    mixed = sorted(in_order, key=lambda e: (int(e.ticket_id[1:]) % 7, e.at))
    first, second = Log(START, END), Log(START, END)
    for event in in_order:
        first.add(event)
    for event in mixed:
        second.add(event)
        second.add(event)
    for log, order in ((first, said), (second, random.Random(1).sample(said, len(said)))):
        for label in order:
            log.add_label(label)
    assert first.tickets() == second.tickets()
    assert len(first.tickets()) == 100


def test_only_the_windows_tickets_count() -> None:
    """From its start to before its end, by when they were routed; one that has not ended is counted as left out."""
    truths = world(3, 100)
    happened = events(truths, ends(truths, LOG))
    log = Log(START + timedelta(seconds=10), START + timedelta(seconds=40))
    last = [e for e in happened if e.ticket_id == "t00039" and e.outcome == "answered"]
    for event in happened:
        if event not in last:
            log.add(event)
    assert [t.key[1] for t in log.tickets()] == [f"t{n:05}" for n in range(10, 39)]
    assert log.left_out() == {LeftOut.UNFINISHED: 1}


def test_a_ticket_that_is_routed_again_counts_once() -> None:
    """The first time."""
    truths = world(3, 5)
    log = Log(START, END)
    for event in events(truths, ends(truths, LOG)):
        log.add(event)
        if event.stage == "router":
            log.add(replace(event, event_id=event.event_id + "again", at=event.at + timedelta(minutes=5), p_ok=0.0))
    assert [t.p_ok for t in log.tickets()] == [truth.scores.p_ok for truth in truths]
    assert log.left_out() == {LeftOut.REPEATED: 5}


def test_a_backfill_of_a_ticket_is_another_way() -> None:
    """Its cost, its draft and its label are not the first way's."""
    truths = world(3, 20)
    first, log = ends(truths, a_policy(1.0, 0.5, audit_share=0.0)), Log(START, END)
    again = ends(truths, a_policy(0.0, 0.0, audit_share=1.0))
    for event in events(truths, first):
        log.add(event)
    expected = log.tickets()
    for event in events(truths, again, START + timedelta(minutes=9)):
        log.add(replace(event, event_id=event.event_id + "again", replay_id="b-1"))
    for label in labels(truths, again):
        log.add_label(label)
    assert log.tickets() == expected
    assert log.left_out() == {LeftOut.REPEATED: 20}


def test_a_log_under_two_policies_has_one_budget() -> None:
    """As the router has: a policy that comes does not bring a fresh share for tier-2."""
    truths = [t for t in world(5, 200) if t.scores.in_scope >= 0.05]
    halves = [replace(a_policy(1.0, 0.5, audit_share=0.0, version=v), tier2_share=0.2) for v in ("one", "two")]
    budget, rng, log = Budget(), random.Random(1), Log(START, END)
    for n, truth in enumerate(truths):
        policy = halves[n % 2]
        decision = decide(truth.ticket, truth.scores, policy, budget, ROUTER_USD, rng)
        budget = budget.after(decision.tier, policy)
        for event in events([truth], [Ends(decision, shipped=False)], START + timedelta(seconds=n)):
            log.add(event)
    tickets = [replace(t, draft=t.draft and t.draft._replace(score=None)) for t in log.tickets()]
    found = under_own(tickets, {policy.version: policy for policy in halves})
    assert [row.fate for row in found] == [row.fate for row in as_happened(tickets)]


def test_the_latest_label_of_an_audit_counts_and_no_other() -> None:
    """Feedback and escalations are of tickets that chose themselves; tier-2's label is of another draft."""
    truths = world(4, 30)
    ended = ends(truths, a_policy(0.6, 0.5, audit_share=1.0))
    label = labels(truths, ended)[0]
    log = Log(START, END)
    for event in events(truths, ended):
        log.add(event)
    later = {"at": END + timedelta(days=1), "acceptable": not label.acceptable}
    other: list[Label] = [replace(label, source="feedback", **later), replace(label, tier="tier2", **later)]
    for each in (label, *other):
        log.add_label(each)
    assert log.tickets()[0].acceptable is label.acceptable
    log.add_label(replace(label, source="person", **later))
    log.add_label(label)
    assert log.tickets()[0].acceptable is not label.acceptable


@given(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.booleans())
def test_a_draft_ships_exactly_where_the_checker_ships_it(
    score: float, threshold: float, refused: bool, in_shadow: bool
) -> None:
    """The replay has the checker's verdict without the draft's text."""
    category = CategoryPolicy(p_ok_threshold=0.5, score_threshold=threshold, state="shadow" if in_shadow else "active")
    policy = Policy(scope="default", version="1", default=category)
    gates = (GateReason.EMPTY,) if refused else ()
    given_score = None if refused else score
    verdict = judge(a_draft(routed=a_routed()), gates, given_score, policy, 0.0)
    assert ships(Drafted(given_score, "m", "", "1", START), category) == verdict.accepted


def test_a_tried_ticket_without_a_draft_goes_up() -> None:
    """Tier-1 was away, as it would have been."""
    ticket = next(t for t in logged(world(1, 60), LOG) if t.tier == "tier1")
    (found,) = fates([replace(ticket, draft=None, shipped=False)], a_policy(0.1, 0.1, version="c"))
    assert (found.fate, found.in_sample) == ("escalated", False)


def test_a_drawn_ticket_speaks_for_its_like_and_a_certain_draw_for_itself() -> None:
    """Where every ticket of a category is drawn, nothing is estimated."""
    loose = a_policy(0.1, 0.5, version="c")
    some = fates(logged(world(1, 100), LOG), loose)
    assert {r.fate for r in some if r.in_sample} == {"unseen", "shipped", "escalated"}
    everything = fates(logged(world(1, 100), a_policy(0.6, 0.5, audit_share=1.0)), loose)
    assert not any(row.in_sample or row.fate == "unseen" for row in everything)


@pytest.mark.parametrize("reason", [RouteReason.FORCED, RouteReason.NO_TEXT])
def test_what_no_policy_changes_needs_no_text(reason: RouteReason) -> None:
    """A tier that the helpdesk forced, or a ticket that nothing can be read of."""
    ticket, other = of_reason(reason), a_policy(0.1, 0.1, version="c", languages=("de",))
    assert not needs_text(ticket, other, {LOG.version: LOG})
    assert fates([ticket], other)[0].fate == "straight"


def test_other_rules_need_the_text() -> None:
    """Without it not even the tier is known; with it the rule's word, or the score's, counts."""
    ticket = of_reason(RouteReason.TOO_LONG, p_ok=0.9, in_scope=0.5)
    longer = a_policy(0.5, 0.5, version="c", max_ticket_chars=3_000)
    assert not needs_text(ticket, replace(LOG, version="c"), {LOG.version: LOG})
    assert needs_text(ticket, longer, {LOG.version: LOG})
    assert needs_text(ticket, LOG, {})
    (gone,) = fates([ticket], longer)
    assert (gone.fate, gone.why) == ("undecided", Unsupported.TEXT_GONE)
    (still,) = fates([ticket], longer, {ticket.key: Reading(("tier2", RouteReason.TOO_LONG))})
    assert still.fate == "straight"
    (now,) = fates([ticket], longer, {ticket.key: Reading(None)})
    assert (now.fate, now.why) == ("unknown", Unsupported.NEVER_DRAWN)


def test_another_router_model_decides_by_its_own_scores() -> None:
    """What it sends to tier-2 is known; of what it sends to tier-1 the draft is another one."""
    truths = world(1, 40)
    tickets = logged(truths, LOG)
    candidate = a_policy(0.5, 0.5, version="c", router_model="r2")
    scores = {t.key: truth.scores for t, truth in zip(tickets, truths, strict=True)}
    texts = {key: Reading(None, s) for key, s in scores.items()}
    assert {row.fate for row in fates(tickets, candidate)} == {"undecided"}
    for row in fates(tickets, candidate, texts):
        is_up = scores[row.ticket.key].p_ok < 0.5 or scores[row.ticket.key].in_scope < 0.05
        assert row.fate == ("straight" if is_up else "unknown")
        assert row.why == (None if is_up else Unsupported.RESCORED)
