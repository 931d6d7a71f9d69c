"""How well does a router spend the strong model's calls? Measures over rows whose outcomes with both models are known.

Pure functions of arrays, one element a row. A score says how much a row should go to the strong model (higher: sooner);
only its order counts. Rows with equal scores share one fate: every figure is the mean over all ways to break the tie,
so none depends on the order of the rows. Quality is graded 0 to 1, `weak_correct` and `strong_correct` (booleans will
do). The *gap* is the strong model's mean quality minus the weak one's; what part of it a routing keeps is its PGR,
performance gap recovered.

Where rows were not observed with equal probability, each counts for its weight (`labels.weights`), (rows,) and
positive; without weights each counts for one.

Source: RouteLLM, arXiv 2406.18665, for PGR, APGR and CPT.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Indices = NDArray[np.int64]

LEAST_GAP = 1e-9
"""Smaller gaps are rounding: equal qualities, summed in another order."""

RIGHT_FROM = 0.5
"""The grade from which a graded answer counts as right, where right or wrong is asked. A guess; 0 and 1 don't care."""

DECILES = 11
"""Points of RouteLLM's curves: the edges of ten bins with equally many scores."""


@dataclass(frozen=True, slots=True, eq=False)
class PgrCurve:
    """PGR at each share of strong calls: straight lines between knots.

    Between two knots lie rows with equal scores (or a single row), of which any part may be called: the line is the
    mean over all choices of that part.
    """

    share: Floats
    """(knots,) shares of the rows that are sent to the strong model, rising from 0 to 1."""
    pgr: Floats
    """(knots,) 0 at share 0 and 1 at share 1; between them it may leave [0, 1]."""

    def at(self, shares: ArrayLike) -> Floats:
        """PGR at `shares`, of any shape; beyond [0, 1] that of the end."""
        return np.asarray(np.interp(np.asarray(shares, dtype=np.float64), self.share, self.pgr))

    @property
    def apgr(self) -> float:
        """Average PGR over all shares: the area under the curve.

        The trapezoidal rule on the knots, which is exact for straight lines: no grid, no further interpolation.
        Random calls have 0.5, and a score turned upside down 1 minus the score's.
        """
        return float(np.trapezoid(self.pgr, self.share))

    def cpt(self, percent: float) -> float:
        """Call-performance threshold: the smallest share of strong calls, in percent, with `percent` of the gap.

        The first crossing, interpolated on its line. A curve of few rows is jagged, and its first crossing comes a
        little early: compare figures of equally many rows.

        Raises: ValueError if `percent` is not within [0, 100].
        """
        level = percent / 100
        if not 0 <= level <= 1:
            raise ValueError(f"CPT({percent}): a percentage of the gap is between 0 and 100")
        after = int(np.argmax(self.pgr >= level))
        if after == 0:
            return 0.0
        low, high = self.pgr[after - 1], self.pgr[after]
        start, end = self.share[after - 1], self.share[after]
        return float(100 * (start + (end - start) * (level - low) / (high - low)))

    def sampled(self, points: int = DECILES) -> "PgrCurve":
        """The curve through `points` evenly spaced shares; with eleven its APGR and CPT are computed as RouteLLM's are.

        RouteLLM's paper calls APGR the average of PGR over ten thresholds. Its evaluation code routes at the eleven
        edges of ten equally filled bins of scores, takes the area by the trapezoidal rule, and interpolates CPT
        between those points. The published figures are the code's: their random router has 0.500, whereas the
        average at 10, 20, ..., 100 % would be 0.05 more (0.55). Against the exact area this one misses the bulge of the
        curve over its chords: on RouteLLM's MMLU 0.003 to 0.006 for the scores we tried, 0.017 for the oracle.

        Raises: ValueError if there are fewer than two points.
        """
        if points < 2:
            raise ValueError(f"{points} points don't make a curve: it takes two")
        shares = np.linspace(0, 1, points)
        return PgrCurve(shares, self.at(shares))


RANDOM = PgrCurve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
"""The expected curve of calls drawn at random: each share recovers that share of the gap."""


def pgr_curve(
    score: ArrayLike, weak_correct: ArrayLike, strong_correct: ArrayLike, weight: ArrayLike | None = None
) -> PgrCurve:
    """The curve of a score; all are (rows,), and a score may be infinite (a forced tier).

    Raises: ValueError if lengths differ, there are no rows, a value is NaN, a quality is not within [0, 1], a weight
    is not positive, or the strong model is no better than the weak one.
    """
    weak, strong = _qualities(weak_correct, strong_correct)
    counts_for = _weights(weight, len(weak))
    scores = _column("score", score, len(weak))
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, len(ranked))
    gained = np.cumsum((counts_for * (strong - weak))[order])[ends - 1]
    called = np.cumsum(counts_for[order])[ends - 1]
    _gap(weak, strong, counts_for)
    return PgrCurve(np.append(0.0, called / called[-1]), np.append(0.0, gained / gained[-1]))


def oracle_curve(weak_correct: ArrayLike, strong_correct: ArrayLike, weight: ArrayLike | None = None) -> PgrCurve:
    """The best curve there is: rows in the order of what the strong model really gains on them; all are (rows,).

    Rises above 1 where the weak model is right and the strong one wrong on some rows.

    Raises: ValueError as `pgr_curve`.
    """
    weak, strong = _qualities(weak_correct, strong_correct)
    return pgr_curve(strong - weak, weak, strong, weight)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a policy's decisions come to, beside the same number of strong calls placed by chance or by an oracle."""

    strong_share: float
    """Of the rows, 0 to 1."""
    quality: float
    """Mean grade of the answers that the policy picks."""
    pgr: float
    shuffled_quality: float
    """The expected quality of the same decisions dealt to other rows."""
    shuffled_sd: float
    """Standard deviation of PGR over all such deals: what of `pgr - shuffled_pgr` may be luck."""
    oracle_pgr: float
    """The most that this share of strong calls can recover."""

    @property
    def shuffled_pgr(self) -> float:
        """The expected PGR of the same decisions dealt to other rows: the share itself, whatever the rows."""
        return self.strong_share


def operating_point(to_strong: Booleans, weak_correct: ArrayLike, strong_correct: ArrayLike) -> OperatingPoint:
    """Measure decisions, `to_strong` (rows,) bool; the control over all shuffles is in closed form, not sampled.

    Shuffled decisions are a draw of rows without replacement, so the mean PGR is the share m/n and its variance
    m (n - m) / (n - 1) times the variance of a row's gain, over the total gain squared.

    Raises: ValueError as `pgr_curve`, and if decisions are not booleans.
    """
    weak, strong = _qualities(weak_correct, strong_correct)
    chosen = _decisions("to_strong", to_strong, len(weak))
    gap = _gap(weak, strong)
    gain, rows, called = strong - weak, len(weak), int(chosen.sum())
    share = called / rows
    variance = called * (rows - called) / max(1, rows - 1) * gain.var()
    return OperatingPoint(
        strong_share=share,
        quality=float(np.where(chosen, strong, weak).mean()),
        pgr=float(gain[chosen].sum() / (rows * gap)),
        shuffled_quality=float(weak.mean() + share * gap),
        shuffled_sd=float(np.sqrt(variance) / (rows * gap)),
        oracle_pgr=float(oracle_curve(weak, strong).at(share)),
    )


@dataclass(frozen=True, slots=True)
class DecisiveAccuracy:
    """Decisions on the rows where it matters: exactly one of the models is right."""

    rows: int
    strong_only: int
    """Of them, those where the strong model is the right one."""
    accuracy: float
    """Share of the decisive rows that went to the model that is right."""
    shuffled: float
    """What the same decisions would have if they were dealt to other rows, on average over all deals."""


def decisive_accuracy(
    to_strong: Booleans, weak_correct: ArrayLike, strong_correct: ArrayLike, weight: ArrayLike | None = None
) -> DecisiveAccuracy:
    """Accuracy of decisions, `to_strong` (rows,) bool, on decisive rows; a grade counts as right from RIGHT_FROM.

    Needs no gap.

    Raises: ValueError for bad arrays as `operating_point`, and if no row is decisive.
    """
    weak, strong = (quality >= RIGHT_FROM for quality in _qualities(weak_correct, strong_correct))
    chosen = _decisions("to_strong", to_strong, len(weak))
    decisive = weak != strong
    rows, strong_only = int(decisive.sum()), int((strong & ~weak).sum())
    if rows == 0:
        raise ValueError(f"none of {len(weak)} rows is decisive: both models are right, or both wrong, on every one")
    counts_for = _weights(weight, len(weak))[decisive]
    share, strong_share = chosen.mean(), np.average(strong[decisive], weights=counts_for)
    shuffled = strong_share * share + (1 - strong_share) * (1 - share)
    accuracy = np.average((chosen == strong)[decisive], weights=counts_for)
    return DecisiveAccuracy(rows, strong_only, float(accuracy), float(shuffled))


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Promised against observed, by bins of about equally many rows, the least promising first."""

    rows: Indices
    """(bins,) rows in each; they add up to all, and none is empty."""
    promised: Floats
    """(bins,) mean probability."""
    observed: Floats
    """(bins,) mean outcome."""
    weight: Floats
    """(bins,) what the rows of each count for together; without weights, how many they are."""

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of |promised - observed|, each bin weighed by what its rows count for.

        Not 0 for a perfect forecast: chance leaves about sqrt(2 p (1 - p) bins / (pi rows)).
        """
        return float(np.average(np.abs(self.promised - self.observed), weights=self.weight))


def reliability(
    probability: ArrayLike, outcome: ArrayLike, bins: int = 15, weight: ArrayLike | None = None
) -> Reliability:
    """The reliability table of probabilities; both are (rows,) within [0, 1].

    Rows with one probability go to one bin, that of their middle rank: splitting them would let the order of the rows
    into the figure. Bins that this leaves empty are left out, so there may be fewer than `bins`.

    Raises: ValueError if lengths differ, there are no rows, a value is NaN or not within [0, 1], or `bins` or a
    weight is not positive.
    """
    promised = _graded("probability", probability)
    observed = _graded("outcome", outcome, len(promised))
    counts_for = _weights(weight, len(promised))
    if bins < 1:
        raise ValueError(f"{bins} bins: it takes at least one")
    _, group, sizes = np.unique(promised, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    # The middle rank, doubled, so that all is whole numbers and a rank on an edge always falls to the same side.
    bin_of = ((2 * ends - sizes) * bins // (2 * len(promised)))[group]
    rows = np.bincount(bin_of, minlength=bins)
    total = np.bincount(bin_of, weights=counts_for, minlength=bins)
    filled = rows > 0
    means = [
        np.bincount(bin_of, weights=counts_for * values, minlength=bins)[filled] / total[filled]
        for values in (promised, observed)
    ]
    return Reliability(rows[filled], means[0], means[1], total[filled].astype(np.float64))


def brier(probability: ArrayLike, outcome: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Mean squared distance of probabilities from outcomes; both are (rows,) within [0, 1]. Lower is better.

    Raises: ValueError as `reliability`.
    """
    promised = _graded("probability", probability)
    distances = (promised - _graded("outcome", outcome, len(promised))) ** 2
    return float(np.average(distances, weights=_weights(weight, len(promised))))


def auroc(score: ArrayLike, outcome: Booleans, weight: ArrayLike | None = None) -> float:
    """The probability that a random row with the outcome scores higher than a random one without; ties count half.

    Raises: ValueError for bad arrays as `pgr_curve`, if outcomes are not booleans, or all alike.
    """
    scores = _column("score", score)
    good = _decisions("outcome", outcome, len(scores))
    if good.all() or not good.any():
        raise ValueError(f"all {len(good)} outcomes are alike: there is nothing to tell apart")
    counts_for = _weights(weight, len(scores))
    _, rank = np.unique(scores, return_inverse=True)
    with_it, without = (np.bincount(rank, weights=counts_for * side) for side in (good, ~good))
    below = np.cumsum(without) - without / 2
    return float((with_it * below).sum() / (with_it.sum() * without.sum()))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its bootstrap percentile interval over rows."""

    estimate: float
    """On the rows as they are."""
    low: float
    high: float
    level: float
    """The interval's nominal coverage, 0 to 1."""


def bootstrap(
    statistics: Callable[[Indices], Sequence[float]],
    rows: int,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[Interval, ...]:
    """Percentile intervals of figures that `statistics` computes from row indices, (rows,) int64, drawn with repeats.

    All figures of one call are computed on the same resamples, so a difference between two routers is one figure
    with its own interval. Intervals come in the figures' order. They say what another draw of rows would change,
    nothing of another training run: for that see `over_splits`.

    Raises: ValueError if there are no rows or resamples, `level` is not between 0 and 1, or a resample has no figure,
    as when its gap is gone: then the rows are too few for an interval.
    """
    if rows < 1 or resamples < 1 or not 0 < level < 1:
        raise ValueError(f"no interval from {rows} rows, {resamples} resamples, level {level}")
    estimates = statistics(np.arange(rows))
    drawn = np.empty((resamples, len(estimates)))
    for number in range(resamples):
        try:
            drawn[number] = statistics(rng.integers(0, rows, rows))
        except ValueError as exc:
            raise ValueError(f"resample {number + 1} of {rows} rows: {exc}") from exc
    tail = (1 - level) / 2
    ends = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return tuple(
        Interval(float(e), float(low), float(high), level) for e, low, high in zip(estimates, *ends, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over random splits."""

    mean: float
    sd: float
    """Of one split, with n - 1; splits of one set overlap, so the mean's error is not sd / sqrt(splits)."""
    splits: int


def over_splits(figures: Sequence[float]) -> Spread:
    """Mean and standard deviation of a figure, one value a split.

    Raises: ValueError if there are fewer than two splits, or a value is NaN.
    """
    values = _column("figures", figures)
    if len(values) < 2:
        raise ValueError("one split has no spread: it takes two")
    return Spread(float(values.mean()), float(values.std(ddof=1)), len(values))


def _column(name: str, values: ArrayLike, rows: int | None = None) -> Floats:
    """Values as (rows,) float64.

    Raises: ValueError naming what is wrong with them.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) == 0:
        raise ValueError(f"{name} has shape {column.shape}: it takes one value a row, and at least one row")
    if rows is not None and len(column) != rows:
        raise ValueError(f"{name} has {len(column)} rows where the others have {rows}")
    if np.isnan(column).any():
        raise ValueError(f"{name} is NaN in row {int(np.argmax(np.isnan(column)))} (from 0)")
    return column


def _graded(name: str, values: ArrayLike, rows: int | None = None) -> Floats:
    column = _column(name, values, rows)
    outside = (column < 0) | (column > 1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"{name} is {column[row]} in row {row} (from 0): it must be within [0, 1]")
    return column


def _weights(values: ArrayLike | None, rows: int) -> Floats:
    if values is None:
        return np.ones(rows)
    column = _column("weight", values, rows)
    if (column <= 0).any() or not np.isfinite(column).all():
        raise ValueError("a weight is not positive and finite: a row that counts for nothing is to be left out")
    return column


def _qualities(weak_correct: ArrayLike, strong_correct: ArrayLike) -> tuple[Floats, Floats]:
    weak = _graded("weak_correct", weak_correct)
    return weak, _graded("strong_correct", strong_correct, len(weak))


def _decisions(name: str, values: Booleans, rows: int) -> Booleans:
    chosen = np.asarray(values)
    # A score passed by mistake would otherwise be read as "everything but 0".
    if chosen.dtype != np.bool_:
        raise ValueError(f"{name} holds {chosen.dtype}: it takes booleans")
    if chosen.shape != (rows,):
        raise ValueError(f"{name} has shape {chosen.shape} where the others have {rows} rows")
    return chosen


def _gap(weak: Floats, strong: Floats, counts_for: Floats | None = None) -> float:
    low, high = (float(np.average(quality, weights=counts_for)) for quality in (weak, strong))
    if high - low < LEAST_GAP:
        raise ValueError(f"no gap to recover: mean quality {low:.4f} (weak), {high:.4f} (strong)")
    return high - low
