"""Replays of logs whose truth is known: what is estimated covers it, and what the log can't say is said."""

import json
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import jsonschema
import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from schemas.policy import Certificate, Policy
from schemas.replays import Outcome, Range, Replay
from tests.replay_world import END, START, Figures, a_policy, logged, truth_of, with_category, world
from workers.learning.replay import LEAST, replay
from workers.learning.replay_fates import Unsupported
from workers.learning.replay_log import Logged

SCHEMA = Path(__file__).parents[2] / "schemas" / "published" / "Replay.schema.json"
STRICT = a_policy(0.75, 0.55, audit_share=0.4)
LOOSE = a_policy(0.35, 0.5, audit_share=0.0, version="loose")
"""Tries tickets on tier-1 that STRICT sends straight to tier-2."""
STRICTER = a_policy(0.85, 0.7, audit_share=0.0, version="stricter")


def replayed(tickets: list[Logged], candidate: Policy, *log: Policy) -> Replay:
    known = {policy.version: policy for policy in log or (STRICT,)}
    return replay(tickets, candidate, known, {}, (START, END), {})


def holds(found: Range, truth: float) -> bool:
    # The sum of many costs may differ in its last digits.
    return found.low - 1e-9 <= truth <= found.high + 1e-9


def point(found: Range) -> float:
    assert found.value is not None
    return found.value


def test_the_logs_own_policy_gives_what_happened() -> None:
    """Ticket by ticket, and to the last cent but for audits, which are what was to be expected of chance."""
    truths = world(1)
    log = with_category(STRICT, "moving", state="shadow", audit_share=0.5)
    tickets = logged(truths, log)
    found = replayed(tickets, log, log)
    assert found.check is not None
    assert (found.check.tickets, found.check.policy_unknown, found.check.ends_differ) == (600, 0, 0)
    for outcome in (found.check.replayed, found.everything.candidate):
        happened = found.everything.happened
        assert outcome.tier1_share == happened.tier1_share
        assert outcome.escalated_share == happened.escalated_share
        assert outcome.straight_share == happened.straight_share
        assert outcome.bad == happened.bad
        assert outcome.parts is not None
        assert happened.parts is not None
        for part in ("router_usd", "tier1_usd", "checker_usd", "tier2_usd"):
            assert getattr(outcome.parts, part) == pytest.approx(getattr(happened.parts, part), rel=1e-12)
        assert outcome.parts.audits_usd == pytest.approx(happened.parts.audits_usd, rel=0.2)
    truth = truth_of(truths, log)
    assert point(found.everything.happened.tier1_share) == pytest.approx(truth.tier1_share)
    assert not any("otherwise" in note for note in found.notes)


def test_a_log_that_its_policies_do_not_explain_is_told() -> None:
    """The check can fail: another policy of the same version ends other tickets on tier-1."""
    found = replayed(logged(world(1), STRICT), LOOSE, a_policy(0.75, 0.65))
    assert found.check is not None
    assert found.check.ends_differ > 10
    assert any("end otherwise in the replay" in note for note in found.notes)


def test_a_stricter_policy_is_known_without_doubt() -> None:
    """All that it tries, the log tried; only tier-2's price for tickets that it never saw is a mean."""
    truths = world(2)
    found, truth = replayed(logged(truths, STRICT), STRICTER), truth_of(truths, STRICTER)
    would = found.everything.candidate
    for name in ("tier1_share", "escalated_share", "straight_share"):
        figure = getattr(would, name)
        assert figure.low == figure.value == figure.high == pytest.approx(getattr(truth, name))
    assert point(would.cost_per_1000_usd) == pytest.approx(truth.cost_per_1000_usd, rel=0.15)
    assert found.priced > 0
    assert any("category's mean price" in note for note in found.notes)


RUNS = 80


class Run(NamedTuple):
    """A looser policy's replay, and what would really have happened."""

    found: Outcome
    truth: Figures
    naive: float
    """The share that tier-1 would answer, as the tickets that were really tried have it."""


@pytest.fixture(scope="module")
def simulated() -> list[Run]:
    """Many logs of 300 tickets."""
    runs = []
    for seed in range(RUNS):
        truths = world(seed, 300)
        tickets, truth = logged(truths, STRICT, seed), truth_of(truths, LOOSE)
        scores = [t.draft.score or 0.0 for t in tickets if t.tier == "tier1" and t.draft]
        naive = (1 - truth.straight_share) * float(np.mean([score >= 0.5 for score in scores]))
        runs.append(Run(replayed(tickets, LOOSE).everything.candidate, truth, naive))
    return runs


@pytest.mark.parametrize("name", ["tier1_share", "escalated_share", "cost_per_1000_usd"])
def test_the_interval_covers_what_would_have_happened(simulated: list[Run], name: str) -> None:
    """About as often as it says; the log alone chose who was tried, and the estimate is not off for it."""
    pairs = [(getattr(run.found, name), getattr(run.truth, name)) for run in simulated]
    assert sum(holds(found, truth) for found, truth in pairs) / RUNS >= 0.9
    errors = [point(found) - truth for found, truth in pairs]
    assert abs(np.mean(errors)) < 3 * np.std(errors) / RUNS**0.5
    # Not by being so wide that it says nothing: about as wide as it must be.
    assert np.mean([found.high - found.low for found, _ in pairs]) < 6 * np.std(errors)


def test_the_share_of_bad_answers_is_covered_too(simulated: list[Run]) -> None:
    """From labels of drawn tickets alone."""
    pairs = [(run.found.bad.share, run.truth.bad) for run in simulated]
    known = [(found, truth) for found, truth in pairs if found]
    assert len(known) > 0.9 * RUNS
    assert sum(holds(found, truth) for found, truth in known) / len(known) >= 0.9
    assert abs(np.mean([point(found) - truth for found, truth in known])) < 0.015


def test_counting_the_tried_tickets_alone_would_be_wrong(simulated: list[Run]) -> None:
    """The simulation is one in which weights matter: those that were tried are the easy ones."""
    naive = np.mean([run.naive - run.truth.tier1_share for run in simulated])
    weighted = np.mean([point(run.found.tier1_share) - run.truth.tier1_share for run in simulated])
    assert abs(weighted) < 0.015 < 0.03 < naive


def test_unequal_propensities_are_weighted() -> None:
    """One category is drawn four times as often as the other, and ships less: unweighted it would drag the share."""
    log = with_category(a_policy(0.75, 0.55, audit_share=0.2), "moving", audit_share=0.8)
    candidate = with_category(LOOSE, "moving", score_threshold=0.8)
    errors, unweighted = [], []
    for seed in range(8):
        truths = world(seed, 800)
        tickets, truth = logged(truths, log, seed), truth_of(truths, candidate)
        errors.append(point(replayed(tickets, candidate, log).everything.candidate.tier1_share) - truth.tier1_share)
        drawn = [t for t in tickets if t.audited and t.p_ok >= 0.35 and t.draft]
        ships = [(t.draft.score or 0) >= candidate.of(t.category).score_threshold for t in drawn if t.draft]
        unweighted.append((1 - truth.straight_share) * float(np.mean(ships)) - truth.tier1_share)
    assert abs(np.mean(errors)) < 0.02
    assert np.mean(unweighted) < -0.05


def test_a_ticket_that_tier2_answered_for_nothing_leaves_the_others_their_weight() -> None:
    """Without the provider a ticket costs nothing: what the others save is still weighed by dollars."""
    truths = world(3, 900)
    # What ships is cheap at tier-2: by tickets the saving would be taken for far more.
    truths = [t._replace(tier2_usd=0.0005 if (t.draft or 0) >= 0.5 else 0.005) for t in truths]
    tickets = logged(truths, STRICT)
    spared = next(t.key[1] for t in tickets if t.audited and t.tier == "tier2" and t.p_ok >= 0.35)
    free = [
        replace(t, spent=t.spent._replace(tier2_usd=0.0, tier2_check_usd=0.0)) if t.key[1] == spared else t
        for t in tickets
    ]
    paid, one_free = (point(replayed(each, LOOSE).everything.candidate.cost_per_1000_usd) for each in (tickets, free))
    assert one_free == pytest.approx(paid, rel=0.01)


def test_what_no_label_speaks_for_is_the_most_that_it_can_be() -> None:
    """Its share is of answers of which some are themselves estimated."""
    log = with_category(STRICT, "moving", audit_share=0.0)
    truths = world(4)
    bad = replayed(logged(truths, log), LOOSE, log).everything.candidate.bad
    silent = [t for t in truths if t.scores.category == "moving"]
    shipped = truth_of([t for t in truths if t.scores.category == "billing"], LOOSE).tier1_share * 300
    sent = truth_of(silent, LOOSE)
    most = (1 - sent.straight_share) * 300
    assert bad.unlabelled_share > most / (most + shipped)


def test_what_was_never_drawn_is_bounded_and_not_extrapolated() -> None:
    """Without audits nothing is known of the tickets that only the candidate tries: the range is as wide as they are,
    holds the truth, and the replay says so in words."""
    log, truths = a_policy(0.75, 0.55, audit_share=0.0), world(3)
    found = replayed(logged(truths, log), LOOSE, log)
    group, truth = found.everything, truth_of(truths, LOOSE)
    newly_tried = sum(0.35 <= t.scores.p_ok < 0.75 and t.scores.in_scope >= 0.05 for t in truths)
    assert group.unsupported == {Unsupported.NEVER_DRAWN: newly_tried}
    would = group.candidate
    assert would.tier1_share.value is would.cost_per_1000_usd.value is would.parts is None
    assert would.tier1_share.high - would.tier1_share.low == pytest.approx(newly_tried / len(truths))
    assert holds(would.tier1_share, truth.tier1_share)
    assert holds(would.escalated_share, truth.escalated_share)
    assert holds(would.cost_per_1000_usd, truth.cost_per_1000_usd)
    assert would.bad.share is None
    assert would.bad.unlabelled_share == 1.0
    assert would.bad.share_of_all == Range(value=None, low=0.0, high=1.0)
    assert any(f"{newly_tried} of 600 tickets: a rule kept it from tier-1" in note for note in found.notes)


def test_a_category_without_audits_leaves_the_others_as_they_are() -> None:
    """Its tickets are bounded; the other category's estimate is a point, and all together is a range."""
    log = with_category(STRICT, "moving", audit_share=0.0)
    found = replayed(logged(world(4), log), LOOSE, log)
    billing, moving = found.categories
    assert (billing.category, moving.category) == ("billing", "moving")
    assert not billing.unsupported
    assert billing.candidate.tier1_share.value is not None
    assert moving.candidate.tier1_share.value is found.everything.candidate.tier1_share.value is None
    assert set(moving.unsupported) == {Unsupported.NEVER_DRAWN}
    bad = found.everything.candidate.bad
    assert bad.share is not None
    assert 0.3 < bad.unlabelled_share < 0.7
    assert bad.share_of_all.low < bad.share.low < bad.share.high < bad.share_of_all.high


def test_too_few_drawn_tickets_are_no_sample() -> None:
    """Fewer than LEAST speak for nobody but themselves."""
    log = a_policy(0.75, 0.55, audit_share=0.06)
    truths = world(5, 300)
    group = replayed(logged(truths, log), LOOSE, log).everything
    assert group.sampled == group.drawn == 0
    assert group.unsupported[Unsupported.FEW_DRAWN] > 50
    assert group.candidate.tier1_share.value is None
    assert holds(group.candidate.tier1_share, truth_of(truths, LOOSE).tier1_share)


def test_too_few_labels_say_nothing_of_quality() -> None:
    """The figure is withheld and the note names how many there are."""
    tickets = logged(world(6), STRICT)
    labelled = [n for n, t in enumerate(tickets) if t.acceptable is not None]
    keep = set(labelled[:20])
    few = [t if n in keep else replace(t, acceptable=None) for n, t in enumerate(tickets)]
    found = replayed(few, STRICT)
    assert found.everything.candidate.bad.share is None
    assert found.everything.candidate.bad.labels <= 20 < LEAST
    assert any(f"fewer than {LEAST}" in note for note in found.notes)


def test_scores_and_drafts_of_other_models_say_nothing() -> None:
    """A candidate for another scorer, or another tier-1 model, can't be judged by this log's drafts."""
    tickets = logged(world(7), STRICT)
    tried = sum(t.tier == "tier1" for t in tickets)
    for fields, why in (
        ({"scorer": "s2"}, Unsupported.OTHER_SCORER),
        ({"tier1_model": "other"}, Unsupported.OTHER_TIER1),
    ):
        group = replayed(tickets, replace(STRICT, version="c", **fields)).everything
        # Of a draft that a gate refused the scorer is not asked.
        assert 0.9 * tried < group.unsupported[why] <= tried
        assert group.candidate.tier1_share.low == 0.0
    same = replayed(tickets, replace(STRICT, version="c", scorer="s1", tier1_model="small")).everything
    assert not same.unsupported


def test_an_ended_certificate_ships_nothing() -> None:
    """A candidate is what it would have been when a ticket was routed."""
    half = START + timedelta(seconds=300)
    certificate = Certificate(
        method="learn_then_test",
        alpha=0.05,
        delta=0.1,
        labels=100,
        shipped=50,
        bad=0,
        upper_bound=0.05,
        solved_at=START,
        valid_until=half,
    )
    candidate = replace(STRICT, version="c", default=replace(STRICT.default, certificate=certificate))
    tickets = logged(world(8), STRICT)
    would = replayed(tickets, candidate).everything.candidate
    assert point(would.tier1_share) == sum(t.shipped and t.at < half for t in tickets) / len(tickets)
    assert point(would.straight_share) > 0.5


def test_audits_cost_what_the_candidates_shares_let_expect() -> None:
    """Twice the share of audits, twice their cost."""
    tickets = logged(world(9), STRICT)
    once, twice = (
        replayed(tickets, a_policy(0.75, 0.55, share, version="c")).everything.candidate.parts for share in (0.1, 0.2)
    )
    assert once is not None
    assert twice is not None
    assert once.audits_usd > 0
    assert twice.audits_usd == pytest.approx(2 * once.audits_usd)


def test_a_share_for_tier2_is_kept_and_noted() -> None:
    """What the score sends up past it goes to tier-1, as a router process would have it."""
    truths = world(10)
    candidate = replace(a_policy(0.75, 0.55, 0.0, version="c"), tier2_share=0.5)
    found, truth = replayed(logged(truths, a_policy(0.0, 0.55, 0.1)), candidate), truth_of(truths, candidate)
    assert point(found.everything.candidate.tier1_share) == pytest.approx(truth.tier1_share)
    assert any("one router process" in note for note in found.notes)


def test_the_same_log_gives_the_same_bytes_that_fit_the_schema() -> None:
    """No clock and no chance is in them."""
    made = [msgspec.json.encode(replayed(logged(world(11), STRICT), LOOSE)) for _ in range(2)]
    assert made[0] == made[1]
    jsonschema.validate(json.loads(made[0]), json.loads(SCHEMA.read_bytes()))


def test_nothing_to_replay_is_an_error() -> None:
    """And no division by zero."""
    with pytest.raises(ValueError, match="no ticket"):
        replayed([], LOOSE)
