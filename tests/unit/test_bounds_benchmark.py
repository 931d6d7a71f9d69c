"""What the bounds benchmark compares with: its worlds' truth, the methods beside ours, and its summary."""

from math import inf

import numpy as np
import pytest

from benchmarks.bounds import (
    ALPHA,
    BAD_SHARE,
    LABELS,
    TOP_BAD_SHARE,
    TOP_SHARE,
    Cell,
    Figures,
    Name,
    Shipped,
    World,
    cells,
    goal_of,
    limit,
    measure,
    oracle,
    plug_in,
    summary,
    table,
)

WORLDS = [World("plain", 0.7), World("plain", 0.95), World("bad top", 0.9), World("judge", 0.9)]
N = 200_000


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("auroc", [0.7, 0.95])
def test_a_worlds_scores_have_the_auroc_that_it_names(auroc: float) -> None:
    """A good draft scores above a bad one so often."""
    _, score, bad = World("plain", auroc).draw(N, rng())
    good_scores, bad_scores = score[~bad][: bad.sum()], score[bad]
    assert (good_scores > bad_scores).mean() == pytest.approx(auroc, abs=0.01)
    assert bad.mean() == pytest.approx(BAD_SHARE, abs=0.01)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("p_ok", "limit_"), [(0.0, 0.0), (0.0, 0.8), (0.6, 0.5), (0.4, 0.985), (0.3, 1.0)])
def test_a_worlds_truth_is_what_many_tickets_show(world: World, p_ok: float, limit_: float) -> None:
    """The exact shares of bad and good answers shipped, and of drafts tried, against counts."""
    drawn_p_ok, score, bad = world.draw(N, rng())
    ships = (drawn_p_ok >= p_ok) & (score >= limit_)
    true_bad, true_good = world.shipped(p_ok, np.array([limit_]))
    assert true_bad[0] == pytest.approx((ships & bad).mean(), abs=0.005)
    assert true_good[0] == pytest.approx((ships & ~bad).mean(), abs=0.005)
    assert world.tried(p_ok) == pytest.approx((drawn_p_ok >= p_ok).mean(), abs=0.005)


@pytest.mark.parametrize("world", WORLDS)
def test_thresholds_without_end_ship_nothing_or_everything(world: World) -> None:
    """Conformal risk control may answer with an infinite one."""
    bad, good = world.shipped(0.0, np.array([inf, -inf]))
    assert bad + good == pytest.approx([0.0, 1.0])


def test_the_highest_scores_of_a_bad_top_are_bad_more_often_than_the_rest() -> None:
    """So a stricter threshold can ship worse answers."""
    _, score, bad = World("bad top", 0.9).draw(N, rng())
    top = score > 1 - TOP_SHARE
    assert top.mean() == pytest.approx(TOP_SHARE, abs=0.002)
    assert bad[top].mean() == pytest.approx(TOP_BAD_SHARE, abs=0.02)
    assert bad[top].mean() > bad[~top].mean()


def test_the_oracle_ships_as_much_as_the_truth_allows() -> None:
    """With free drafts no pair within alpha that is drawn at random ships more; a score that knows more ships more."""
    world = World("plain", 0.9)
    share = oracle(world, goal_of(world, rng()))
    pairs = rng().random((500, 2))
    for p_ok, score in pairs:
        bad, good = world.shipped(p_ok, np.array([score]))
        assert bad[0] > ALPHA * (bad + good)[0] or (bad + good)[0] <= share + 0.005
    assert share < oracle(World("plain", 0.95), goal_of(world, rng())) < 1


def test_dear_drafts_leave_the_oracle_fewer_tickets() -> None:
    """Its router keeps those from tier-1 that would seldom ship."""
    dear, plain = World("dear", 0.8), World("plain", 0.8)
    assert oracle(dear, goal_of(dear, rng())) < oracle(plain, goal_of(plain, rng()))


def test_a_plug_in_threshold_is_the_loosest_that_looks_right() -> None:
    """One bad answer in twenty is within 5 %, even where it is the strictest of them."""
    scores = np.linspace(1, 0.5, 22)
    bad = np.zeros(22, dtype=bool)
    bad[[0, 20, 21]] = True
    assert plug_in(scores, bad) == scores[19]
    assert plug_in(scores[:3], bad[:3]) == inf


def test_the_judges_error_is_bounded_from_above() -> None:
    """From 100 double-labelled drafts the bound is over the truth in nearly every draw, and differs between draws."""
    one = rng()
    misses = [goal_of(World("judge", 0.9), one).judge_miss for _ in range(500)]
    assert np.mean([miss < 0.2 for miss in misses]) < 0.04
    assert len(set(misses)) > 5
    assert goal_of(World("plain", 0.9), one).judge_miss == 0.0


def test_draws_over_alpha_are_counted_and_the_shadow_is_not_one() -> None:
    """Nothing shipped is nothing bad."""
    shipped = Shipped(bad=np.array([0.06, 0.04, 0.0, 0.006]), good=np.array([0.94, 0.96, 0.0, 0.1]))
    assert shipped.violations() == 0.5


def test_a_cell_depends_on_its_seed_alone() -> None:
    """The order in which processes take cells changes nothing."""
    cell = Cell(World("judge", 0.95), 500)
    assert measure(cell, 5, 3) == measure(cell, 5, 3) != measure(cell, 5, 4)


def test_the_methods_differ_as_they_must() -> None:
    """On the same labels: ours is seldom over alpha, a plug-in often; conformal risk control is near alpha."""
    found = measure(Cell(World("plain", 0.95), 500), 200, 0)
    assert found.violations <= limit(200) < 0.3 < found.plug_in_violations
    assert found.crc_risk == pytest.approx(ALPHA, abs=0.01)
    assert found.certified > 0.9
    assert 0.4 < found.of_oracle < 1


def figures(cell: Cell, violations: float) -> Figures:
    return Figures(cell, violations, 0.5, 0.05, 1.0, certified=0.8, shipped=0.3, oracle=0.6)


def test_the_summary_names_the_worst_cell_of_each_world() -> None:
    """And what is certified at 500 labels and an AUROC of 0.9."""
    worst: dict[Name, float] = {"plain": 0.09, "dear": 0.08, "bad top": 0.2, "judge": 0.04}
    found = [figures(cell, worst[cell.world.name] if cell.labels == LABELS[1] else 0.01) for cell in cells()]
    line = summary(found, 2_000)
    assert line["bound_violation_rate"] == 0.09
    assert line["bound_violation_rate_dear"] == 0.08
    assert line["bound_violation_rate_nonmonotone"] == 0.2
    assert line["bound_violation_rate_judge"] == 0.04
    assert line["certified_share_n500_auroc90"] == 0.8
    assert line["shipped_of_oracle_n500_auroc90"] == 0.5
    assert line["violation_limit"] == 0.1201
    assert table(found, 2_000).row_count == len(cells())
