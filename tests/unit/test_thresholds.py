"""Thresholds by category: what is certified, what stays in the shadow, and that the certificates hold."""

import random
from datetime import UTC, datetime, timedelta
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.learning.thresholds import Goal, Row, chain, solve, thinned

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def rows(n: int, seed: int = 0, category: str = "billing", sharpness: float = 3.0, **fields: float) -> list[Row]:
    """Drafts whose score and p_ok tell good from bad; 30 % are bad."""
    rng = np.random.default_rng(seed)
    good = rng.random(n) >= 0.3
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + np.where(good, sharpness, -sharpness) / 2)))
    p_ok = 1 / (1 + np.exp(-(rng.normal(size=n) + np.where(good, 0.5, -0.5))))
    return [Row(category, float(p), float(s), bool(g), **fields) for p, s, g in zip(p_ok, score, good, strict=True)]


def test_a_category_with_labels_enough_has_its_own_certificate() -> None:
    """It says what it rests on, and its thresholds ship what it counts."""
    solved = solve(rows(600), Goal(valid_for=timedelta(days=30)), NOW)
    found = solved.categories["billing"]
    certificate = found.certificate
    assert certificate is not None
    assert (certificate.labels, certificate.pooled, found.state) == (600, (), "active")
    ships = [r for r in rows(600) if r.p_ok >= found.p_ok_threshold and r.score >= found.score_threshold]
    assert (certificate.shipped, certificate.bad) == (len(ships), sum(not r.acceptable for r in ships))
    assert certificate.bad / certificate.shipped < certificate.upper_bound == 0.05
    assert certificate.valid_until == datetime(2026, 12, 25, tzinfo=UTC)


def test_categories_with_few_labels_share_a_certificate() -> None:
    """It names them all: it speaks of the pool, not of each."""
    few = [*rows(150, 1, "billing"), *rows(180, 2, "orders"), *rows(200, 3, "roaming")]
    solved = solve(few, Goal(), NOW)
    assert {c: p.certificate.pooled for c, p in solved.categories.items() if p.certificate} == dict.fromkeys(
        ("billing", "orders", "roaming"), ("billing", "orders", "roaming")
    )


def test_a_category_without_any_labels_ships_nothing() -> None:
    """However good the others are."""
    assert solve(rows(600), Goal(), NOW).unseen.state == "shadow"


def test_too_few_labels_certify_nothing_and_say_how_many_are_missing() -> None:
    """With as many more of the same kind there is a certificate."""
    found = solve(rows(60), Goal(), NOW).categories["billing"]
    assert (found.state, found.certificate, found.labels) == ("shadow", None, 60)
    assert found.labels_missing is not None
    assert found.labels_missing > 20
    assert solve(rows(60 + 4 * found.labels_missing), Goal(), NOW).categories["billing"].state == "active"


def test_where_nothing_tells_good_from_bad_nobody_can_say_how_many_are_missing() -> None:
    """Three in ten are bad at every threshold: no number of labels proves 5 %."""
    found = solve(rows(2_000, sharpness=0.0), Goal(), NOW).categories["billing"]
    assert (found.state, found.labels_missing) == ("shadow", None)


def test_a_draft_that_a_gate_refused_ships_under_no_threshold() -> None:
    """A score of 0 is below every pair."""
    refused = [r._replace(score=0.0) if i % 2 else r for i, r in enumerate(rows(1_000))]
    found = solve(refused, Goal(), NOW).categories["billing"]
    assert found.score_threshold > 0


def test_a_judge_who_misses_bad_answers_makes_thresholds_stricter() -> None:
    """Fewer ship on the same labels."""
    trusting = solve(rows(1_500), Goal(), NOW).categories["billing"]
    knowing = solve(rows(1_500), Goal(judge_miss=0.6, judge_delta=0.02), NOW).categories["billing"]
    assert trusting.certificate is not None
    assert knowing.certificate is not None
    assert knowing.certificate.shipped < trusting.certificate.shipped
    assert knowing.certificate.judge_miss == 0.6


@given(st.integers(60, 400), st.integers(0, 5))
def test_pairs_are_tested_from_strict_to_loose(n: int, seed: int) -> None:
    """They come from the scores alone: a label could not change their order."""
    some = rows(n, seed)
    pairs = chain(np.array([r.p_ok for r in some]), np.array([r.score for r in some]), Goal())
    assert pairs == sorted(pairs, key=lambda pair: -pair.score)
    assert len({pair.score for pair in pairs}) == len(pairs)


def test_tickets_that_hardly_ever_ship_are_not_tried() -> None:
    """Where tier-1 is dear, the router keeps those from it whose drafts the checker would refuse."""
    some = [r._replace(score=0.01 if r.p_ok < 0.3 else r.score) for r in rows(2_000)]
    cheap = solve(some, Goal(tier1_usd=0.0), NOW).categories["billing"]
    dear = solve(some, Goal(tier1_usd=0.0003), NOW).categories["billing"]
    assert cheap.p_ok_threshold < 0.1
    assert 0.25 < dear.p_ok_threshold < 0.6


def test_rows_that_were_drawn_more_often_are_thinned() -> None:
    """What is left is a sample in which all count alike."""
    mixed = [*rows(4_000, 1, propensity=1.0), *rows(500, 2, propensity=0.25)]
    kept = thinned(mixed, random.Random(1))
    assert sum(r.propensity == 0.25 for r in kept) == 500
    assert abs(sum(r.propensity == 1.0 for r in kept) - 1_000) < 100


@pytest.mark.parametrize(("n", "sharpness", "uneven"), [(300, 3.0, False), (1_000, 2.0, False), (800, 3.0, True)])
@pytest.mark.timeout(300)
def test_a_certificate_is_wrong_no_more_often_than_delta(n: int, sharpness: float, uneven: bool) -> None:
    """2,000 sets of labels; the truth is what their thresholds ship of 50,000 tickets."""
    draws, goal = 2_000, Goal(own_from=1)
    truth = rows(50_000, 99, sharpness=sharpness)
    p_ok, score = np.array([r.p_ok for r in truth]), np.array([r.score for r in truth])
    good = np.array([r.acceptable for r in truth])
    wrong = np.zeros(draws, dtype=bool)
    pick = np.random.default_rng(7)
    for draw in range(draws):
        chosen = pick.integers(0, len(truth), n)
        labels = [Row("c", p_ok[i], score[i], bool(good[i])) for i in chosen]
        if uneven:
            # Good drafts' tickets are judged more often than others with low scores.
            drawn = [r._replace(propensity=1.0 if r.score > 0.8 else 0.4) for r in labels]
            labels = [r for r in drawn if r.propensity == 1.0 or pick.random() < 0.4]
        found = solve(labels, goal, NOW, seed=draw).categories["c"]
        if found.state == "active":
            ships = (p_ok >= found.p_ok_threshold) & (score >= found.score_threshold)
            wrong[draw] = (ships & ~good).sum() > goal.alpha * ships.sum()
    assert wrong.mean() <= goal.delta + 3 * sqrt(goal.delta * (1 - goal.delta) / draws)
