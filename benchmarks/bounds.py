"""Do the certificates hold, and what do they cost? By simulation, where the truth is known exactly.

    make bench NAME=bounds
    make bench NAME=bounds ARGS="--draws 500 --seed 1"

Each draw is a set of labels. `thresholds.solve` makes a policy of it, and what that policy ships is compared with the
truth, beside two methods on the score alone: the loosest threshold at which these labels show no more than alpha
(plug-in), and conformal risk control, which promises less: a mean, of all tickets. Four worlds: two normal scores; the
same with dear drafts, so that the router's threshold matters too; one whose highest scores are bad more often than the
rest; one whose labels a judge made who accepts some bad answers. The last line is JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import nan, sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import expit, logit
from scipy.stats import norm

from workers.learning.bounds import conformal_risk, upper_bound
from workers.learning.thresholds import Goal, Row, solve

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Name = Literal["plain", "dear", "bad top", "judge"]

ALPHA, DELTA = 0.05, 0.1
LABELS = (200, 500, 1_000, 5_000)
AUROCS = (0.7, 0.8, 0.9, 0.95)
OTHER_AUROCS = (0.9, 0.95)
"""Of the worlds that are not plain: below, hardly anything is certified anywhere."""

BAD_SHARE = 0.3
P_OK_SHIFT = 0.5
"""Between good and bad drafts, in standard deviations: the router sees the ticket only, and knows less (AUROC 0.64)."""
TOP_SHARE, TOP_BAD_SHARE = 0.03, 0.4
"""Of the tickets, those that score above all others, and the share of them whose draft is bad."""
DEAR_USD = 0.0003
"""A draft at a quarter of tier-2's price."""
MISS, DOUBLE_LABELLED, MISS_DELTA = 0.2, 100, 0.02
"""The judge accepts so many bad answers; it is known from so many bad drafts that people judged too, at 98 %."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class World:
    """Tickets whose draft is good or bad, and whose p_ok and score, given that, are independent of each other."""

    name: Name
    auroc: float
    """Of the score, among those tickets that are not at the top of a world with a bad top."""

    @property
    def top(self) -> float:
        return TOP_SHARE if self.name == "bad top" else 0.0

    @property
    def shift(self) -> float:
        return sqrt(2) * float(norm.ppf(self.auroc))

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Floats, Floats, Booleans]:
        """p_ok, score and whether the draft is bad, (n,) each."""
        top = rng.random(n) < self.top
        bad = rng.random(n) < np.where(top, TOP_BAD_SHARE, BAD_SHARE)
        score = (1 - self.top) * expit(rng.normal(size=n) + self.shift * ~bad)
        p_ok = expit(rng.normal(size=n) + P_OK_SHIFT * ~bad)
        return p_ok, np.where(top, 1 - self.top * rng.random(n), score), bad

    def shipped(self, p_ok: Floats | float, score: Floats) -> tuple[Floats, Floats]:
        """Of all tickets, the shares with a bad and with a good answer shipped under these thresholds."""
        above = np.clip((1 - score) / self.top, 0, 1) if self.top else np.zeros_like(score)
        limit = logit(np.clip(score / (1 - self.top), 0, 1))
        bad = self.top * TOP_BAD_SHARE * above + (1 - self.top) * BAD_SHARE * norm.sf(limit)
        good = self.top * (1 - TOP_BAD_SHARE) * above + (1 - self.top) * (1 - BAD_SHARE) * norm.sf(limit - self.shift)
        router = logit(np.clip(p_ok, 0, 1))
        return bad * norm.sf(router), good * norm.sf(router - P_OK_SHIFT)

    def tried(self, p_ok: float) -> float:
        """Of all tickets, the share that tier-1 drafts an answer to."""
        bad_share = self.top * TOP_BAD_SHARE + (1 - self.top) * BAD_SHARE
        router = logit(p_ok)
        return float(bad_share * norm.sf(router) + (1 - bad_share) * norm.sf(router - P_OK_SHIFT))


class Cell(NamedTuple):
    world: World
    labels: int


class Shipped(NamedTuple):
    """What each draw's thresholds ship of all tickets, (draws,) each."""

    bad: Floats
    good: Floats

    def violations(self) -> float:
        """Share of the draws that ship more than a share alpha of bad answers."""
        return float((self.bad > ALPHA * (self.bad + self.good)).mean())


class Figures(NamedTuple):
    """A cell's figures, over its draws."""

    cell: Cell
    violations: float
    plug_in_violations: float
    crc_risk: float
    """Mean share of all tickets that get a bad answer."""
    crc_violations: float
    """Of what conformal risk control doesn't promise: the share among those shipped."""
    certified: float
    shipped: float
    """Mean share of all tickets; nothing ships in the shadow."""
    oracle: float
    """Share of all tickets that whoever knows the truth ships, at the least cost."""

    @property
    def of_oracle(self) -> float:
        return self.shipped / self.oracle if self.oracle else nan


def goal_of(world: World, rng: np.random.Generator) -> Goal:
    """What is asked of the thresholds; the judge's error is estimated anew each time."""
    if world.name == "judge":
        missed = int(rng.binomial(DOUBLE_LABELLED, MISS))
        miss = upper_bound(missed, DOUBLE_LABELLED, MISS_DELTA)
        return Goal(alpha=ALPHA, delta=DELTA, own_from=1, judge_miss=miss, judge_delta=MISS_DELTA)
    if world.name == "dear":
        return Goal(alpha=ALPHA, delta=DELTA, own_from=1, tier1_usd=DEAR_USD)
    return Goal(alpha=ALPHA, delta=DELTA, own_from=1)


def oracle(world: World, goal: Goal) -> float:
    """The share shipped by the pair of thresholds that costs least, of those that truly ship at most alpha bad."""
    scores = np.unique(
        np.concatenate([expit(np.linspace(-6, 10, 4_001)) * (1 - world.top), np.linspace(0.9, 1, 2_001)])
    )
    best_usd, share = goal.tier2_usd, 0.0
    for p_ok in [0.0, *expit(np.linspace(-3, 3, 121))]:
        bad, good = world.shipped(float(p_ok), scores)
        usd = world.tried(float(p_ok)) * goal.tier1_usd + (1 - bad - good) * goal.tier2_usd
        usd[bad > ALPHA * (bad + good)] = np.inf
        if usd.min() < best_usd:
            best_usd, share = float(usd.min()), float((bad + good)[usd.argmin()])
    return share


def plug_in(scores: Floats, bad: Booleans) -> float:
    """The loosest threshold at which these labels show no more than alpha; infinity if none does."""
    order = np.argsort(-scores)
    allowed = np.flatnonzero(np.cumsum(bad[order]) <= ALPHA * np.arange(1, len(order) + 1))
    return float(scores[order][allowed[-1]]) if len(allowed) else np.inf


def measure(cell: Cell, draws: int, seed: int) -> Figures:
    """Each draw's thresholds against the truth; a cell's draws depend on the seed and the cell alone."""
    world, n = cell
    rng = np.random.default_rng([seed, n, round(100 * world.auroc), *world.name.encode()])
    ours, plugged, crc, certified = np.empty((draws, 2)), np.empty(draws), np.empty(draws), 0
    for draw in range(draws):
        p_ok, score, bad = world.draw(n, rng)
        if world.name == "judge":
            bad &= rng.random(n) >= MISS
        rows = [Row("all", p, s, not b) for p, s, b in zip(p_ok.tolist(), score.tolist(), bad.tolist(), strict=True)]
        found = solve(rows, goal_of(world, rng), NOW).categories["all"]
        certified += found.state == "active"
        # A shadow's thresholds ship nothing, as do those past the highest score.
        ours[draw] = (found.p_ok_threshold, found.score_threshold) if found.state == "active" else (1.0, 1.0)
        plugged[draw], crc[draw] = plug_in(score, bad), conformal_risk(score, bad, ALPHA)
    shipped = Shipped(*world.shipped(ours[:, 0], ours[:, 1]))
    mild = Shipped(*world.shipped(0.0, crc))
    return Figures(
        cell,
        violations=shipped.violations(),
        plug_in_violations=Shipped(*world.shipped(0.0, plugged)).violations(),
        crc_risk=float(mild.bad.mean()),
        crc_violations=mild.violations(),
        certified=certified / draws,
        shipped=float((shipped.bad + shipped.good).mean()),
        oracle=oracle(world, goal_of(world, rng)),
    )


def cells() -> list[Cell]:
    plain = [World("plain", auroc) for auroc in AUROCS]
    others: tuple[Name, ...] = ("dear", "bad top", "judge")
    return [Cell(w, n) for w in [*plain, *(World(o, a) for o in others for a in OTHER_AUROCS)] for n in LABELS]


def limit(draws: int) -> float:
    """What chance alone explains of a violation rate of delta: three standard deviations."""
    return DELTA + 3 * sqrt(DELTA * (1 - DELTA) / draws)


def summary(found: Sequence[Figures], draws: int) -> dict[str, float]:
    """The last line: of several cells the worst, unless it is called a mean."""

    def of(name: Name) -> list[Figures]:
        return [f for f in found if f.cell.world.name == name]

    def at(labels: int, auroc: float) -> Figures:
        return next(f for f in of("plain") if f.cell == Cell(World("plain", auroc), labels))

    figures = {
        "bound_violation_rate": max(f.violations for f in of("plain")),
        "bound_violation_rate_dear": max(f.violations for f in of("dear")),
        "bound_violation_rate_nonmonotone": max(f.violations for f in of("bad top")),
        "bound_violation_rate_judge": max(f.violations for f in of("judge")),
        "violation_limit": limit(draws),
        "plug_in_violation_rate": float(np.mean([f.plug_in_violations for f in of("plain")])),
        "crc_mean_risk": max(f.crc_risk for f in of("plain")),
        "crc_mean_risk_nonmonotone": max(f.crc_risk for f in of("bad top")),
        "certified_share_n500_auroc90": at(500, 0.9).certified,
        "certified_share_n1000_auroc90": at(1_000, 0.9).certified,
        "shipped_of_oracle_n500_auroc90": at(500, 0.9).of_oracle,
        "shipped_of_oracle_n5000_auroc90": at(5_000, 0.9).of_oracle,
        "certified_share_nonmonotone": float(np.mean([f.certified for f in of("bad top")])),
        "draws": draws,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def table(found: Sequence[Figures], draws: int) -> Table:
    shown = Table(title=f"Draws of more than {ALPHA:.0%} bad, of {draws:,} each (chance allows {limit(draws):.1%})")
    for column in ("world", "AUROC"):
        shown.add_column(column)
    for column in ("labels", "ours", "plug-in", "CRC", "CRC, of all", "certified", "ours ships", "of oracle's"):
        shown.add_column(column, justify="right")
    for f in found:
        shares = (f.violations, f.plug_in_violations, f.crc_violations, f.crc_risk, f.certified, f.shipped, f.of_oracle)
        world, labels = f.cell
        texts = [f"[red]{f.violations:.1%}[/red]" if f.violations > limit(draws) else f"{f.violations:.1%}"]
        texts += ["-" if share != share else f"{share:.1%}" for share in shares[1:]]
        shown.add_row(world.name, f"{world.auroc:g}", f"{labels:,}", *texts, end_section=labels == LABELS[-1])
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(partial(measure, draws=arguments.draws, seed=arguments.seed), cells()))
    console = Console(width=120)
    console.print(table(found, arguments.draws))
    console.print(f"{time.monotonic() - started:.0f} s on {os.cpu_count()} processors, seed {arguments.seed}")
    print(json.dumps(summary(found, arguments.draws)))


if __name__ == "__main__":
    main()
