"""How good are a router's scores on tickets that it has not seen? The figures of its card, each with its interval.

Rows count for the inverse of the probability that they were observed (`labels.weights`), so the figures are about all
tickets, not about those that happened to be labelled.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from workers.learning.labels import LabelledOutcome, weights
from workers.learning.routing_metrics import (
    Booleans,
    Floats,
    Indices,
    auroc,
    bootstrap,
    brier,
    decisive_accuracy,
    oracle_curve,
    pgr_curve,
    reliability,
)

BINS = 10
"""Of the reliability table and of the calibration error. Fewer hide faults, more leave too few rows in each."""

RESAMPLES = 1_000
SEED = 7
"""Of the resamples, so that the same rows give the same intervals."""

LENGTHS_CHARS = (0, 100, 200, 400, 800, 1_600)
"""Where buckets of lengths start. The encoder reads about 1,000 characters: of longer tickets only head and tail."""

Statistic = Callable[[Indices], float]


class Scored(Protocol):
    """What the measures look at in `classifier.Scores`."""

    @property
    def p_ok(self) -> float: ...
    @property
    def p_ok_tier2(self) -> float: ...
    @property
    def category(self) -> str: ...
    @property
    def passages(self) -> tuple[str, ...]: ...
    @property
    def cut_chars(self) -> int: ...


class Figure(Struct, frozen=True):
    """A figure and its 95 % bootstrap interval; without one if the rows are too few to redraw them."""

    estimate: float
    low: float | None
    high: float | None
    rows: int
    """That it is computed on."""


class Bin(Struct, frozen=True):
    """One row of a reliability table."""

    rows: int
    promised: float
    observed: float


class Bucket(Struct, frozen=True):
    """Tickets of about one length: what p_ok promised on average, and what tier-1 kept."""

    from_chars: int
    rows: int
    cut: int
    """Of them, how many the encoder did not read whole."""
    promised: float
    observed: float
    brier: float


class Duel(Struct, frozen=True):
    """Rows whose outcomes with both tiers are known, (rows,) each."""

    gain: Floats
    """The score: how much likelier tier-2's answer is to be acceptable than tier-1's."""
    weak: Floats
    strong: Floats
    weight: Floats


def metrics(rows: Sequence[LabelledOutcome], scores: Sequence[Scored]) -> dict[str, Figure]:
    """Every figure that the rows allow: those about the category need one, those about a tier its outcome.

    `apgr`, `cpt50`, `cpt80` and their `oracle_` need both outcomes and a tier-2 that is the better one; at random APGR
    is 0.5. `decisive_accuracy` is that of sending to tier-2 the half with the largest gain, on the rows that only one
    tier got right; `decisive_shuffled` is what the same decisions would have on other rows.
    """
    found: dict[str, Figure] = {}
    pairs = list(zip(rows, scores, strict=True))
    about = [(r, s) for r, s in pairs if r.category]
    if about:
        found |= _share("category_accuracy", [r for r, _ in about], [s.category == r.category for r, s in about])
    about = [(r, s) for r, s in pairs if r.passage]
    if about:
        found |= _share("passage_first", [r for r, _ in about], [r.passage in s.passages[:1] for r, s in about])
        found |= _share("passage_picked", [r for r, _ in about], [r.passage in s.passages for r, s in about])
    found |= _of_tier("p_ok", *_promises(rows, scores, "tier1"))
    found |= _of_tier("p_ok_tier2", *_promises(rows, scores, "tier2"))
    if (both := duel(rows, scores)) is not None:
        found |= _of_duel(both)
    return found


def _promises(rows: Sequence[LabelledOutcome], scores: Sequence[Scored], tier: str) -> tuple[Floats, Booleans, Floats]:
    """Promised probability, outcome and weight of the rows whose outcome with `tier` is known."""
    outcomes = [row.tier1_ok if tier == "tier1" else row.tier2_ok for row in rows]
    known = [i for i, outcome in enumerate(outcomes) if outcome is not None]
    promised = [scores[i].p_ok if tier == "tier1" else scores[i].p_ok_tier2 for i in known]
    weight = weights([rows[i] for i in known]) if known else np.empty(0)
    return np.array(promised, dtype=np.float64), np.array([outcomes[i] for i in known], dtype=np.bool_), weight


def duel(rows: Sequence[LabelledOutcome], scores: Sequence[Scored]) -> Duel | None:
    """The rows that both tiers were tried on; None if there are none."""
    known = [(r, s) for r, s in zip(rows, scores, strict=True) if r.tier1_ok is not None and r.tier2_ok is not None]
    if not known:
        return None
    return Duel(
        gain=np.array([s.p_ok_tier2 - s.p_ok for _, s in known]),
        weak=np.array([float(r.tier1_ok is True) for r, _ in known]),
        strong=np.array([float(r.tier2_ok is True) for r, _ in known]),
        weight=weights([r for r, _ in known]),
    )


def _share(name: str, rows: Sequence[LabelledOutcome], hits: Sequence[bool]) -> dict[str, Figure]:
    hit, weight = np.array(hits, dtype=np.float64), weights(rows)
    return _figures({name: lambda i: float(np.average(hit[i], weights=weight[i]))}, len(rows))


def _of_tier(name: str, promised: Floats, ok: Booleans, weight: Floats) -> dict[str, Figure]:
    if not len(ok):
        return {}
    statistics: dict[str, Statistic] = {
        f"{name}_observed": lambda i: float(np.average(ok[i], weights=weight[i])),
        f"{name}_mean": lambda i: float(np.average(promised[i], weights=weight[i])),
        f"{name}_brier": lambda i: brier(promised[i], ok[i], weight[i]),
        f"{name}_ece": lambda i: reliability(promised[i], ok[i], BINS, weight[i]).ece,
    }
    ranking: dict[str, Statistic] = {f"{name}_auroc": lambda i: auroc(promised[i], ok[i], weight[i])}
    return _figures(statistics, len(ok)) | _figures(ranking, len(ok))


def _of_duel(d: Duel) -> dict[str, Figure]:
    def halves(i: Indices) -> Booleans:
        return np.asarray(d.gain[i] > np.median(d.gain[i]))

    curves: dict[str, Statistic] = {
        "apgr": lambda i: pgr_curve(d.gain[i], d.weak[i], d.strong[i], d.weight[i]).apgr,
        "cpt50": lambda i: pgr_curve(d.gain[i], d.weak[i], d.strong[i], d.weight[i]).cpt(50),
        "cpt80": lambda i: pgr_curve(d.gain[i], d.weak[i], d.strong[i], d.weight[i]).cpt(80),
        "oracle_apgr": lambda i: oracle_curve(d.weak[i], d.strong[i], d.weight[i]).apgr,
        "oracle_cpt50": lambda i: oracle_curve(d.weak[i], d.strong[i], d.weight[i]).cpt(50),
        "oracle_cpt80": lambda i: oracle_curve(d.weak[i], d.strong[i], d.weight[i]).cpt(80),
    }
    decisions: dict[str, Statistic] = {
        "decisive_accuracy": lambda i: decisive_accuracy(halves(i), d.weak[i], d.strong[i], d.weight[i]).accuracy,
        "decisive_shuffled": lambda i: decisive_accuracy(halves(i), d.weak[i], d.strong[i], d.weight[i]).shuffled,
    }
    return _figures(curves, len(d.gain)) | _figures(decisions, len(d.gain))


def _figures(statistics: Mapping[str, Statistic], rows: int) -> dict[str, Figure]:
    """The figures on all rows, on the same resamples each; those that can't be had even on all rows are left out."""
    names = list(statistics)
    try:
        intervals = bootstrap(
            lambda i: [statistics[name](i) for name in names], rows, np.random.default_rng(SEED), RESAMPLES
        )
    except ValueError:
        return _without_intervals(statistics, rows)
    return {name: Figure(x.estimate, x.low, x.high, rows) for name, x in zip(names, intervals, strict=True)}


def _without_intervals(statistics: Mapping[str, Statistic], rows: int) -> dict[str, Figure]:
    found = {}
    for name, statistic in statistics.items():
        try:
            found[name] = Figure(statistic(np.arange(rows)), None, None, rows)
        except ValueError:
            # Such as an AUROC of outcomes that are all alike: there is no such figure.
            continue
    return found


def reliability_bins(rows: Sequence[LabelledOutcome], scores: Sequence[Scored], tier: str = "tier1") -> list[Bin]:
    """What was promised of a tier (`tier1` or `tier2`) and what came true, the least promising first."""
    promised, ok, weight = _promises(rows, scores, tier)
    if not len(ok):
        return []
    table = reliability(promised, ok, BINS, weight)
    return [Bin(int(n), float(p), float(o)) for n, p, o in zip(table.rows, table.promised, table.observed, strict=True)]


def by_length(rows: Sequence[LabelledOutcome], scores: Sequence[Scored]) -> list[Bucket]:
    """Do the promises hold for long tickets, which the encoder doesn't read whole? Empty buckets are left out."""
    known = [i for i, row in enumerate(rows) if row.tier1_ok is not None]
    if not known:
        return []
    promised, ok, weight = _promises(rows, scores, "tier1")
    lengths: NDArray[np.int64] = np.array([len(rows[i].text) for i in known])
    cut = np.array([scores[i].cut_chars > 0 for i in known])
    bucket_of = np.searchsorted(LENGTHS_CHARS, lengths, side="right") - 1
    found = []
    for number, start in enumerate(LENGTHS_CHARS):
        here = bucket_of == number
        if here.any():
            means = [float(np.average(values[here], weights=weight[here])) for values in (promised, ok)]
            error = brier(promised[here], ok[here], weight[here])
            found.append(Bucket(start, int(here.sum()), int(cut[here].sum()), means[0], means[1], error))
    return found
