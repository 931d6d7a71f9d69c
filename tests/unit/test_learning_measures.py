"""The figures of a router's card."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from workers.learning.labels import LabelledOutcome
from workers.learning.measures import Bin, by_length, duel, metrics, reliability_bins


@dataclass(frozen=True)
class Scored:
    """What the measures look at of a model's scores."""

    p_ok: float = 0.5
    p_ok_tier2: float = 0.9
    category: str = "billing"
    passages: tuple[str, ...] = ("billing.a", "billing.b")
    cut_chars: int = 0


def row(**fields: Any) -> LabelledOutcome:
    return LabelledOutcome(**{"text": "Hello", **fields})


def test_figures_are_of_the_rows_that_know_them() -> None:
    """Without a category, a passage or an outcome a row counts for none of the figures about it."""
    rows = [
        row(category="billing", passage="billing.a", tier1_ok=True),
        row(category="faults", tier1_ok=False),
        row(category="billing", passage="billing.b"),
        row(),
    ]
    found = metrics(rows, [Scored(1.0), Scored(0.0), Scored(), Scored()])
    assert {name: (round(x.estimate, 4), x.rows) for name, x in found.items()} == {
        "category_accuracy": (0.6667, 3),
        "passage_first": (0.5, 2),
        "passage_picked": (1.0, 2),
        "p_ok_observed": (0.5, 2),
        "p_ok_mean": (0.5, 2),
        "p_ok_brier": (0.0, 2),
        "p_ok_ece": (0.0, 2),
        "p_ok_auroc": (1.0, 2),
    }


def test_too_few_rows_have_a_figure_without_an_interval() -> None:
    """Two rows, redrawn, are soon two of one kind, and then there is no AUROC."""
    found = metrics([row(tier1_ok=True), row(tier1_ok=False)], [Scored(0.9), Scored(0.1)])
    assert (found["p_ok_auroc"].estimate, found["p_ok_auroc"].low, found["p_ok_auroc"].high) == (1.0, None, None)
    assert found["p_ok_brier"].low is not None


def test_outcomes_that_are_all_alike_have_no_auroc() -> None:
    """There is nothing to tell apart."""
    assert "p_ok_auroc" not in metrics([row(tier1_ok=True)] * 3, [Scored()] * 3)


def test_no_rows_have_no_figures() -> None:
    """A cold start's tickets may know nothing at all."""
    assert metrics([], []) == {}
    assert metrics([row()], [Scored()]) == {}
    assert (reliability_bins([row()], [Scored()]), by_length([row()], [Scored()]), duel([row()], [Scored()])) == (
        [],
        [],
        None,
    )


def test_a_row_counts_for_the_inverse_of_its_propensity() -> None:
    """One row in four of the failures was observed: the share of acceptable answers is a half, not 0.8."""
    rows = [row(tier1_ok=True)] * 40 + [row(tier1_ok=False, propensity=0.25)] * 10
    found = metrics(rows, [Scored()] * 50)
    assert found["p_ok_observed"].estimate == pytest.approx(0.5)
    assert found["p_ok_brier"].estimate == pytest.approx(0.25)


def simulated(n: int, skill: float) -> tuple[list[LabelledOutcome], list[Scored]]:
    rng = np.random.default_rng(3)
    truth = rng.random(n)
    rows = [row(tier1_ok=bool(rng.random() < p), tier2_ok=bool(rng.random() < 0.95)) for p in truth]
    return rows, [Scored(float(skill * p + (1 - skill) * rng.random()), 0.95) for p in truth]


def test_routing_is_measured_where_both_tiers_were_tried() -> None:
    """A router with skill is above chance and below the oracle, and its interval excludes chance."""
    found = metrics(*simulated(300, skill=1.0))
    apgr = found["apgr"]
    assert apgr.low is not None
    assert 0.5 < apgr.low < apgr.estimate < found["oracle_apgr"].estimate
    assert found["oracle_cpt50"].estimate < found["cpt50"].estimate < 50
    assert found["decisive_accuracy"].estimate > found["decisive_shuffled"].estimate + 0.1


def test_without_skill_routing_is_chance() -> None:
    """The interval of APGR holds 0.5."""
    apgr = metrics(*simulated(300, skill=0.0))["apgr"]
    assert apgr.low is not None
    assert apgr.high is not None
    assert apgr.low < 0.5 < apgr.high


def test_a_tier2_that_is_no_better_leaves_no_gap_to_recover() -> None:
    """The figures about the gap are left out; those about each tier stay."""
    rows = [row(tier1_ok=True, tier2_ok=False), row(tier1_ok=True, tier2_ok=True)]
    found = metrics(rows, [Scored(), Scored()])
    assert "apgr" not in found
    assert found["p_ok_tier2_observed"].estimate == 0.5


def test_the_reliability_table_pairs_promise_and_outcome() -> None:
    """For either tier."""
    rows = [row(tier1_ok=i < 3, tier2_ok=True) for i in range(6)]
    scores = [Scored(0.9 if i < 3 else 0.2) for i in range(6)]
    tier1 = reliability_bins(rows, scores)
    assert [(b.rows, round(b.promised, 6), b.observed) for b in tier1] == [(3, 0.2, 0.0), (3, 0.9, 1.0)]
    assert [replace_promise(b) for b in reliability_bins(rows, scores, "tier2")] == [Bin(6, 0.9, 1.0)]


def replace_promise(found: Bin) -> Bin:
    return Bin(found.rows, round(found.promised, 6), found.observed)


def test_quality_by_length_counts_the_tickets_that_were_not_read_whole() -> None:
    """A text of 100 characters is in the bucket from 100; empty buckets are left out."""
    rows = [row(text="x" * n, tier1_ok=ok) for n, ok in ((99, True), (100, False), (5_000, True), (2_000, False))]
    scores = [Scored(0.5), Scored(0.5), replace(Scored(1.0), cut_chars=4_000), Scored(0.0)]
    found = [(b.from_chars, b.rows, b.cut, b.promised, b.observed, b.brier) for b in by_length(rows, scores)]
    assert found == [(0, 1, 0, 0.5, 1.0, 0.25), (100, 1, 0, 0.5, 0.0, 0.25), (1_600, 2, 1, 0.5, 0.5, 0.0)]
