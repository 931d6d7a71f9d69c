"""Routing metrics: small cases by hand, brute force over all orders, and what must hold for any rows."""

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.learning.routing_metrics import (
    RANDOM,
    Interval,
    PgrCurve,
    auroc,
    bootstrap,
    brier,
    decisive_accuracy,
    operating_point,
    oracle_curve,
    over_splits,
    pgr_curve,
    reliability,
)

Floats = NDArray[np.float64]
Rows = tuple[Floats, Floats, Floats]

GRADES = st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def some_rows(draw: st.DrawFn, most: int = 12) -> Rows:
    """Score, weak and strong quality: few distinct scores, so that ties are common; the strong model is better."""
    drawn = draw(st.lists(st.tuples(st.integers(-3, 3), GRADES, GRADES), min_size=1, max_size=most))
    score, weak, strong = np.array(drawn, dtype=np.float64).T
    assume(weak.sum() != strong.sum())
    return (score, weak, strong) if strong.sum() > weak.sum() else (score, strong, weak)


def by_every_order(score: Floats, weak: Floats, strong: Floats) -> Floats:
    """PGR after 0, 1, ..., n strong calls: the mean over every order of the rows in which the score never rises."""
    gain = strong - weak
    curves = [
        np.append(0.0, np.cumsum(gain[list(order)])) / gain.sum()
        for order in itertools.permutations(range(len(score)))
        if all(score[a] >= score[b] for a, b in itertools.pairwise(order))
    ]
    return np.asarray(np.mean(curves, axis=0))


def graded(text: str) -> Floats:
    return np.array([float(letter == "+") for letter in text])


def flags(text: str) -> NDArray[np.bool_]:
    return np.array([letter == "+" for letter in text])


# Four rows, best score first. The strong model gains +1, 0, -1 and +1 on them: a gap of 1/4.
SCORE = np.array([4.0, 3.0, 2.0, 1.0])
WEAK, STRONG = graded("-++-"), graded("++-+")


def test_a_curve_by_hand() -> None:
    """Gains +1, 0, -1, +1 in the order of the score, over a total of 1."""
    curve = pgr_curve(SCORE, WEAK, STRONG)
    assert curve.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.pgr.tolist() == [0, 1, 1, 0, 1]
    assert curve.apgr == (0.5 + 1 + 0.5 + 0.5) / 4
    assert [curve.cpt(percent) for percent in (0, 50, 80, 100)] == [0, 12.5, 20, 25]
    assert curve.at([0.125, 0.625]).tolist() == [0.5, 0.5]


def test_rows_of_one_score_are_a_straight_line() -> None:
    """The first two rows tie, and the last two: two lines, from which any row order is gone."""
    curve = pgr_curve([2, 2, 1, 1], WEAK, STRONG)
    assert curve.share.tolist() == [0, 0.5, 1]
    assert curve.pgr.tolist() == [0, 1, 1]
    assert curve.cpt(50) == 25


def test_the_oracle_by_hand() -> None:
    """Both gains first, then the row where nothing is gained, then the loss: the curve rises to twice the gap."""
    curve = oracle_curve(WEAK, STRONG)
    assert curve.share.tolist() == [0, 0.5, 0.75, 1]
    assert curve.pgr.tolist() == [0, 2, 2, 1]
    assert curve.cpt(100) == 25


def test_a_forced_tier_is_an_infinite_score() -> None:
    """Infinite scores rank first and last, and tie among themselves."""
    forced = pgr_curve([math.inf, math.inf, 0.5, -math.inf], WEAK, STRONG)
    finite = pgr_curve([9, 9, 5, 0], WEAK, STRONG)
    assert forced.share.tolist() == finite.share.tolist()
    assert forced.pgr.tolist() == finite.pgr.tolist()


@settings(max_examples=50, deadline=None)
@given(some_rows(most=6))
def test_a_curve_is_the_mean_over_every_way_to_break_ties(rows: Rows) -> None:
    """Brute force: all orders of up to six rows that agree with the score."""
    expected = by_every_order(*rows)
    curve = pgr_curve(*rows)
    shares = np.linspace(0, 1, len(expected))
    assert curve.at(shares) == pytest.approx(expected)
    assert curve.apgr == pytest.approx(np.trapezoid(expected, shares))


@settings(max_examples=30, deadline=None)
@given(some_rows(most=5))
def test_apgr_of_random_scores_is_one_half_on_average(rows: Rows) -> None:
    """Over all orders of distinct scores the mean is exactly a half, whatever the rows, and so is that of no score."""
    _, weak, strong = rows
    each = [pgr_curve(order, weak, strong).apgr for order in itertools.permutations(range(len(weak)))]
    assert np.mean(each) == pytest.approx(0.5)
    assert pgr_curve(np.zeros(len(weak)), weak, strong).apgr == pytest.approx(0.5)
    assert RANDOM.apgr == 0.5


@given(some_rows())
def test_a_score_upside_down_recovers_what_the_score_leaves(rows: Rows) -> None:
    """Calling the last rows first mirrors the curve through its middle, so the areas add up to one."""
    score, weak, strong = rows
    assert pgr_curve(-score, weak, strong).apgr + pgr_curve(score, weak, strong).apgr == pytest.approx(1)


@given(some_rows(), st.randoms(use_true_random=False))
def test_row_order_changes_nothing(rows: Rows, shuffler: random.Random) -> None:
    """A permutation of the rows leaves the curve and an operating point as they are."""
    order = list(range(len(rows[0])))
    shuffler.shuffle(order)
    score, weak, strong = (column[order] for column in rows)
    before, after = pgr_curve(*rows), pgr_curve(score, weak, strong)
    assert after.share.tolist() == before.share.tolist()
    assert after.pgr == pytest.approx(before.pgr)
    here, there = operating_point(rows[0] > 0, *rows[1:]), operating_point(score > 0, weak, strong)
    assert [getattr(there, name) for name in here.__slots__] == pytest.approx(
        [getattr(here, name) for name in here.__slots__]
    )


@given(some_rows())
def test_only_the_order_of_scores_counts(rows: Rows) -> None:
    """A rising transformation, and rows that all come twice, leave the curve as it is."""
    score, weak, strong = rows
    before = pgr_curve(*rows)
    for other in (
        pgr_curve(np.exp(5 * score) - 7, weak, strong),
        pgr_curve(np.tile(score, 2), np.tile(weak, 2), np.tile(strong, 2)),
    ):
        assert other.share.tolist() == before.share.tolist()
        assert other.pgr == pytest.approx(before.pgr)


@given(some_rows())
def test_no_score_beats_the_oracle(rows: Rows) -> None:
    """At any share, so in the area and in CPT as well."""
    curve, oracle = pgr_curve(*rows), oracle_curve(*rows[1:])
    shares = np.linspace(0, 1, 41)
    assert (oracle.at(shares) >= curve.at(shares) - 1e-9).all()
    assert oracle.apgr >= curve.apgr - 1e-9
    assert oracle.cpt(50) <= curve.cpt(50) + 1e-9


@given(some_rows(), st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_more_of_the_gap_takes_no_fewer_calls(rows: Rows, percents: list[float]) -> None:
    """CPT never falls as its percentage rises, and lies on the curve."""
    curve = pgr_curve(*rows)
    shares = [curve.cpt(percent) for percent in sorted(percents)]
    assert shares == sorted(shares)
    assert curve.at(np.array(shares) / 100) == pytest.approx(np.array(sorted(percents)) / 100, abs=1e-9)


@given(some_rows(), st.floats(0, 100))
def test_cpt_is_the_first_crossing(rows: Rows, percent: float) -> None:
    """Brute force: at no share on a fine grid below it is the level reached."""
    curve = pgr_curve(*rows)
    below = np.linspace(0, curve.cpt(percent) / 100, 500, endpoint=False)
    if curve.cpt(percent) > 0:
        assert (curve.at(below) < percent / 100 + 1e-9).all()


def test_deciles_cut_the_bulge_of_the_curve() -> None:
    """All is recovered at 5 %: exactly 0.975, but 0.95 by RouteLLM's eleven points, and CPT(50) 5 instead of 2.5."""
    curve = PgrCurve(np.array([0, 0.05, 1]), np.array([0.0, 1, 1]))
    assert curve.apgr == pytest.approx(0.975)
    assert curve.sampled().apgr == pytest.approx(0.95)
    assert (curve.cpt(50), curve.sampled().cpt(50)) == pytest.approx((2.5, 5))
    assert RANDOM.sampled().apgr == pytest.approx(0.5)
    assert RANDOM.sampled().cpt(80) == pytest.approx(80)


def test_deciles_are_the_eleven_routings_of_routellm() -> None:
    """Routed one by one at 0, 10, ..., 100 % of 40 rows, with the area and CPT taken from those accuracies."""
    rng = np.random.default_rng(3)
    weak, strong = rng.random(40) < 0.4, rng.random(40) < 0.9
    score = rng.permutation(40) + 30 * (strong & ~weak)
    score = score + rng.permutation(40) / 100
    ranks = np.argsort(np.argsort(-score))
    accuracy = np.array([np.where(ranks < 4 * tenth, strong, weak).mean() for tenth in range(11)])
    pgr = (accuracy - weak.mean()) / (strong.mean() - weak.mean())
    sampled = pgr_curve(score, weak, strong).sampled()
    assert sampled.apgr == pytest.approx((pgr[1:] + pgr[:-1]).mean() / 2)
    rising = np.maximum.accumulate(pgr)
    after = int(np.argmax(rising >= 0.5))
    inside = (0.5 - pgr[after - 1]) / (pgr[after] - pgr[after - 1])
    assert sampled.cpt(50) == pytest.approx(10 * (after - 1 + inside))


def test_an_operating_point_by_hand() -> None:
    """The first and third row are called: +1 and -1 cancel, where chance has half the gap and the oracle twice it."""
    point = operating_point(flags("+-+-"), WEAK, STRONG)
    assert (point.strong_share, point.quality, point.pgr) == (0.5, 0.5, 0)
    assert (point.shuffled_pgr, point.shuffled_quality, point.oracle_pgr) == (0.5, 0.625, 2)
    # Gains +1, 0, -1, +1 have variance 11/16; two of four drawn: 2 * 2 / 3 of it.
    assert point.shuffled_sd == pytest.approx(math.sqrt(4 / 3 * 11 / 16))


@settings(max_examples=50, deadline=None)
@given(some_rows(most=6))
def test_the_shuffled_control_is_the_mean_over_all_shuffles(rows: Rows) -> None:
    """Brute force: every deal of the decisions to the rows, against the closed forms."""
    score, weak, strong = rows
    chosen = score > 0
    deals = list(itertools.permutations(chosen.tolist()))
    points = [operating_point(np.array(deal), weak, strong) for deal in deals]
    point = operating_point(chosen, weak, strong)
    assert np.mean([p.pgr for p in points]) == pytest.approx(point.shuffled_pgr)
    assert np.std([p.pgr for p in points]) == pytest.approx(point.shuffled_sd)
    assert np.mean([p.quality for p in points]) == pytest.approx(point.shuffled_quality)
    assert max(p.pgr for p in points) == pytest.approx(point.oracle_pgr)
    if (weak != strong).any() and set(weak) | set(strong) <= {0.0, 1.0}:
        each = [decisive_accuracy(np.array(deal), weak, strong).accuracy for deal in deals]
        assert np.mean(each) == pytest.approx(decisive_accuracy(chosen, weak, strong).shuffled)


@given(some_rows(), st.integers(-3, 3))
def test_a_threshold_on_the_score_is_a_knot_of_its_curve(rows: Rows, threshold: int) -> None:
    """Decisions by `score >= threshold` and the curve at their share agree."""
    score, weak, strong = rows
    point = operating_point(score >= threshold, weak, strong)
    assert point.pgr == pytest.approx(pgr_curve(*rows).at(point.strong_share))


def test_decisive_accuracy_by_hand() -> None:
    """Rows 1, 3, 4 are decisive; of the decisions strong, strong, weak only the first picks the right model."""
    found = decisive_accuracy(flags("+++-"), WEAK, STRONG)
    assert (found.rows, found.strong_only) == (3, 2)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.shuffled == pytest.approx((2 * 0.75 + 1 * 0.25) / 3)


def test_a_reliability_table_by_hand() -> None:
    """Two bins of two rows: promised 0.2 and 0.7, observed 0.5 and 0.5."""
    table = reliability([0.3, 0.8, 0.1, 0.6], graded("-++-"), bins=2)
    assert table.rows.tolist() == [2, 2]
    assert table.promised == pytest.approx([0.2, 0.7])
    assert table.observed == pytest.approx([0.5, 0.5])
    assert table.ece == pytest.approx((0.3 + 0.2) / 2)


def test_rows_of_one_probability_are_not_torn_apart() -> None:
    """Three of four rows tie: they share the bin of their middle rank, and the fourth has the other."""
    for outcome in ("+--+", "-+-+", "--++"):
        table = reliability([0.4, 0.4, 0.4, 0.9], graded(outcome), bins=2)
        assert table.rows.tolist() == [3, 1]
        assert table.ece == pytest.approx(3 / 4 * (0.4 - 1 / 3) + 1 / 4 * 0.1)
    constant = reliability([0.5] * 10, graded("+++-------"), bins=5)
    assert constant.rows.tolist() == [10]
    assert constant.ece == pytest.approx(0.2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True), st.integers(1, 12), st.data())
def test_bins_are_even_without_ties(probability: list[float], bins: int, data: st.DataObject) -> None:
    """Brute force: sorted rows, each bin the stretch between two edges; sizes differ by one at most."""
    outcome = data.draw(st.lists(GRADES, min_size=len(probability), max_size=len(probability)))
    ranked = sorted(zip(probability, outcome, strict=True))
    stretches: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for rank, row in enumerate(ranked):
        stretches[(2 * rank + 1) * bins // (2 * len(ranked))].append(row)
    assert max(map(len, stretches)) - min(map(len, stretches)) <= 1
    table = reliability(probability, outcome, bins)
    expected = [np.mean(stretch, axis=0) for stretch in stretches if stretch]
    assert table.rows.tolist() == [len(stretch) for stretch in stretches if stretch]
    assert table.promised == pytest.approx([p for p, _ in expected])
    assert table.observed == pytest.approx([o for _, o in expected])
    gaps = [len(stretch) * abs(np.mean([p - o for p, o in stretch])) for stretch in stretches if stretch]
    assert table.ece == pytest.approx(sum(gaps) / len(ranked), abs=1e-9)


def test_brier_by_hand() -> None:
    """Sure and right costs nothing, sure and wrong one, a half a quarter."""
    assert brier([1.0, 0.0, 0.5, 1.0], graded("+-+-")) == (0 + 0 + 0.25 + 1) / 4


def test_a_bootstrap_repeats_with_its_seed() -> None:
    """One seed gives one interval, another seed another; the estimate is that of the rows as they are."""
    rng = np.random.default_rng(5)
    weak, strong = rng.random(200) < 0.5, rng.random(200) < 0.9
    score = rng.random(200)

    def figures(rows: NDArray[np.int64]) -> Sequence[float]:
        curve = pgr_curve(score[rows], weak[rows], strong[rows])
        return curve.apgr, curve.cpt(50)

    def intervals(seed: int) -> tuple[Interval, ...]:
        return bootstrap(figures, 200, np.random.default_rng(seed), resamples=100)

    assert intervals(1) == intervals(1)
    assert intervals(1) != intervals(2)
    apgr, cpt = intervals(1)
    assert apgr.estimate == pgr_curve(score, weak, strong).apgr
    assert apgr.low < apgr.estimate < apgr.high
    assert 0 < cpt.low < cpt.high < 100


def test_a_bootstrapped_mean_has_the_normal_interval() -> None:
    """On 400 rows the percentiles of a mean are 1.96 standard errors away, and its level is obeyed."""
    values = np.random.default_rng(11).normal(size=400)
    error = values.std() / math.sqrt(400)
    for level, width in ((0.95, 1.960), (0.5, 0.674)):
        (found,) = bootstrap(lambda rows: [values[rows].mean()], 400, np.random.default_rng(12), 4000, level)
        assert (found.high - found.low) / (2 * error) == pytest.approx(width, rel=0.05)
        assert found.level == level


def test_a_resample_without_a_gap_is_named() -> None:
    """Rows too few for an interval fail with the reason instead of leaving resamples out."""

    def figures(rows: NDArray[np.int64]) -> list[float]:
        return [pgr_curve(SCORE[rows], WEAK[rows], STRONG[rows]).apgr]

    with pytest.raises(ValueError, match=r"resample \d+ of 4 rows: no gap to recover"):
        bootstrap(figures, 4, np.random.default_rng(1))


def test_a_spread_over_splits_by_hand() -> None:
    """The standard deviation is a sample's, with n - 1."""
    spread = over_splits([0.6, 0.7, 0.8])
    assert (spread.mean, spread.sd) == pytest.approx((0.7, 0.1))
    assert spread.splits == 3


@pytest.mark.parametrize(
    ("score", "weak", "strong", "message"),
    [
        ([1, 2], [0, 1], [1, 0], "no gap to recover: mean quality 0.5000"),
        ([1, 2], [1, 1], [1, 0], "no gap to recover"),
        ([1, 2, 3], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1], "no gap to recover"),
        ([1], [0, 0], [1, 1], "score has 1 rows where the others have 2"),
        ([1, 2], [0, 0], [1], "strong_correct has 1 rows where the others have 2"),
        ([1, math.nan], [0, 0], [1, 1], "score is NaN in row 1"),
        ([1, 2], [0, 0], [math.nan, 1], "strong_correct is NaN in row 0"),
        ([1, 2], [0, -0.5], [1, 1], "weak_correct is -0.5 in row 1"),
        ([1, 2], [0, 0], [1, 7], "strong_correct is 7.0 in row 1"),
        ([[1, 2]], [0, 0], [1, 1], r"score has shape \(1, 2\)"),
        ([], [], [], r"weak_correct has shape \(0,\)"),
    ],
)
def test_bad_rows_are_named(score: list[float], weak: list[float], strong: list[float], message: str) -> None:
    """A curve that can't be says which array is at fault, and where."""
    with pytest.raises(ValueError, match=message):
        pgr_curve(score, weak, strong)


def test_decisions_are_booleans_of_every_row() -> None:
    """A score passed for decisions would be read as nearly always yes."""
    with pytest.raises(ValueError, match="to_strong holds float64"):
        operating_point(SCORE, WEAK, STRONG)
    with pytest.raises(ValueError, match=r"to_strong has shape \(3,\) where the others have 4 rows"):
        decisive_accuracy(flags("+-+"), WEAK, STRONG)
    with pytest.raises(ValueError, match="none of 4 rows is decisive"):
        decisive_accuracy(flags("+-+-"), STRONG, STRONG)


def test_bad_arguments_are_named() -> None:
    """Each message holds the value that is wrong."""
    with pytest.raises(ValueError, match=r"CPT\(101\)"):
        RANDOM.cpt(101)
    with pytest.raises(ValueError, match="1 points"):
        RANDOM.sampled(1)
    with pytest.raises(ValueError, match=r"probability is 1.5 in row 0"):
        brier([1.5], [1.0])
    with pytest.raises(ValueError, match="outcome has 2 rows where the others have 1"):
        reliability([0.5], [1.0, 0.0])
    with pytest.raises(ValueError, match="0 bins"):
        reliability([0.5], [1.0], bins=0)
    with pytest.raises(ValueError, match="no interval from 0 rows"):
        bootstrap(lambda rows: [0.0], 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="one split"):
        over_splits([0.6])
    with pytest.raises(ValueError, match="figures is NaN in row 1"):
        over_splits([0.6, math.nan])


REPEATS = st.lists(st.integers(1, 3), min_size=12, max_size=12)


@given(some_rows(), REPEATS)
def test_a_weight_counts_like_as_many_equal_rows(rows: Rows, repeats: list[int]) -> None:
    """For every measure that takes weights."""
    score, weak, strong = rows
    times = np.array(repeats[: len(score)])
    more = [np.repeat(values, times) for values in rows]
    assume(float((times * (strong - weak)).sum()) > 0)
    weighted, repeated = pgr_curve(score, weak, strong, times), pgr_curve(*more)
    assert weighted.share == pytest.approx(repeated.share)
    assert weighted.pgr == pytest.approx(repeated.pgr)
    assert oracle_curve(weak, strong, times).apgr == pytest.approx(oracle_curve(more[1], more[2]).apgr)
    chance = (score + 3) / 6
    assert brier(chance, weak, times) == pytest.approx(brier(np.repeat(chance, times), more[1]))
    one_bin = reliability(chance, weak, 1, times), reliability(np.repeat(chance, times), more[1], 1)
    assert one_bin[0].ece == pytest.approx(one_bin[1].ece)
    right = strong >= 0.5
    if right.any() and not right.all():
        assert auroc(score, right, times) == pytest.approx(auroc(more[0], np.repeat(right, times)))


def test_decisive_accuracy_weighs_the_decisive_rows() -> None:
    """Wrong on a row of 3, right on one of 1; decisions dealt at random would be right half the time."""
    found = decisive_accuracy(flags("+-"), graded("++"), graded("--"), [3, 1])
    assert (found.rows, found.accuracy, found.shuffled) == (2, 0.25, 0.5)


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    """Ties count half."""
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), flags("--++")) == 0.75
    assert auroc(np.array([0.5, 0.5]), flags("-+")) == 0.5
    assert auroc(np.array([0.9, 0.1]), flags("-+")) == 0.0


def test_auroc_needs_outcomes_of_both_kinds_as_booleans() -> None:
    """A probability passed for an outcome would be read as true."""
    with pytest.raises(ValueError, match="all 2 outcomes are alike"):
        auroc([0.1, 0.2], flags("++"))
    with pytest.raises(ValueError, match="outcome holds float64"):
        auroc([0.1, 0.2], graded("+-"))  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [[1, 0], [1, -1], [1, math.inf], [1, math.nan], [1]])
def test_weights_are_positive_and_finite(weight: list[float]) -> None:
    """A row that counts for nothing is to be left out."""
    with pytest.raises(ValueError, match="weight"):
        brier([0.5, 0.5], [0, 1], weight)
