"""Static thresholds against a certificate that is watched, on a stream of tickets that shifts; for benchmarks/drift.py.

The drafts that are given are the population: each run draws its labels and its stream from them, with replacement, so
that the certificate's promise holds exactly until the shift.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.learning.drift import DriftTest, EarlyWarning, audit_share, observe, observe_check
from workers.learning.thresholds import Goal, Pair, Row, solve

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Indices = NDArray[np.int64]

ALPHA, DELTA = 0.05, 0.05
LABELS = 1_000
"""Drawn for each run's thresholds."""
CALM, WINDOW = 5_000, 5_000
"""Tickets before the shift, and from the shift on, in each run."""
FOREIGN_SHARE = 0.3
"""Of the stream after the shift. A third as many foreign tickets as the company's own are answered once."""
JUDGE_USD = 0.002
"""An audit: a guess at a frontier judge's call, about twice what the answer costs."""

Figures = dict[str, float | int | None]


class Drafts(NamedTuple):
    """n tier-1 drafts, (n,) each."""

    p_ok: Floats
    """-1 where a rule keeps the ticket from tier-1."""
    score: Floats
    """-1 where a gate refuses the draft."""
    bad: Booleans

    def take(self, rows: Indices) -> "Drafts":
        return Drafts(self.p_ok[rows], self.score[rows], self.bad[rows])

    def joined(self, other: "Drafts") -> "Drafts":
        return Drafts(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def tried(self, pair: Pair) -> Booleans:
        return self.p_ok >= pair.p_ok

    def shipped(self, pair: Pair) -> Booleans:
        return self.tried(pair) & (self.score >= pair.score)

    def bad_share(self, pair: Pair) -> float:
        """Among those shipped."""
        shipped = self.shipped(pair)
        return float(self.bad[shipped].mean()) if shipped.any() else 0.0

    def cost_usd(self, pair: Pair, goal: Goal) -> float:
        """Of a ticket, without audits."""
        return float(self.tried(pair).mean() * goal.tier1_usd + (~self.shipped(pair)).mean() * goal.tier2_usd)


@dataclass(frozen=True, slots=True)
class Watched:
    """One run of (c) under a certificate that is watched."""

    false_alarm: bool
    detected: bool
    tickets: int
    """From the shift to the alarm; the window's where there was none."""
    audited: int
    warned: int | None
    """Tickets from the shift to the early warning; negative: before it."""
    shipped: int
    """Between shift and alarm."""
    bad: int
    audits_calm: int
    cost_usd: float
    """Of the window, audits included."""


def watch(calm: Drafts, window: Drafts, labelled: Drafts, pair: Pair, goal: Goal, rng: random.Random) -> Watched:
    """Send the calm tickets, then the window's, past test and warning, until an alarm or the end."""
    tried = labelled.tried(pair)
    test = DriftTest.start(ALPHA, DELTA)
    warning = EarlyWarning.start(int((tried & ~labelled.shipped(pair)).sum()), int(tried.sum()), DELTA)
    audits_calm, shipped, bad, warned, cost_usd = 0, 0, 0, None, 0.0
    stream = calm.joined(window)
    rows = zip(stream.tried(pair).tolist(), stream.shipped(pair).tolist(), stream.bad.tolist(), strict=True)
    for ticket, (tries, ships, is_bad) in enumerate(rows, 1 - len(calm.bad)):
        if test.is_alarm:
            # Withdrawn: tier-2 answers, and some tickets are drafted and judged in the shadow.
            cost_usd += goal.tier2_usd + goal.shadow_audit_share * (goal.tier1_usd + JUDGE_USD)
            continue
        if tries:
            warning = observe_check(warning, not ships)
            if warned is None and warning.is_warning:
                warned = ticket
        audited = ships and rng.random() < audit_share(goal.audit_share, warning)
        if audited:
            test = observe(test, is_bad)
        if ticket > 0:
            shipped, bad = shipped + ships, bad + (ships and is_bad)
            cost_usd += tries * goal.tier1_usd + (not ships) * goal.tier2_usd + audited * JUDGE_USD
            last = ticket
        elif test.is_alarm:
            return Watched(True, False, 0, 0, warned, 0, 0, test.tickets, 0.0)
        else:
            audits_calm = test.tickets
    return Watched(False, test.is_alarm, last, test.tickets - audits_calm, warned, shipped, bad, audits_calm, cost_usd)


def plug_in_pair(labelled: Drafts, goal: Goal) -> Pair:
    """The cheapest thresholds with at most a share alpha of bad answers on the labels themselves: no promise."""
    best = (math.inf, 1.0, 1.0)
    for p_ok, score in itertools.product(_candidates(labelled.p_ok, 25), _candidates(labelled.score, 200)):
        pair = Pair(p_ok, score)
        shipped = labelled.shipped(pair)
        if (shipped & labelled.bad).sum() <= ALPHA * shipped.sum():
            # Of equally cheap pairs the stricter one.
            best = min(best, (labelled.cost_usd(pair, goal), -score, -p_ok))
    return Pair(-best[2], -best[1]) if best[0] < math.inf else Pair(1.0, 1.0)


def _candidates(values: Floats, count: int) -> list[float]:
    return sorted({round(float(v), 3) for v in np.quantile(values, np.linspace(0, 1, count))})


@dataclass(frozen=True, slots=True)
class Certified:
    """What a run's certified pair does, if nothing is watched; and how it is watched."""

    bad_share_before: float
    """Among those shipped."""
    bad_share_after: float
    bad_of_window: float
    """Bad answers from tier-1 against all tickets of the window."""
    window_usd: float
    """Of a ticket, without audits."""
    calm_usd: float
    audits_usd: float
    """Of a ticket of the calm."""
    watched: Watched


@dataclass(frozen=True, slots=True)
class Run:
    """Labels and a stream of their own."""

    plug_in_before: float
    """The share of bad answers among those shipped under the plug-in pair."""
    plug_in_after: float
    certified: Certified | None
    """None: these labels prove nothing."""


def compare(name: str, before: Drafts, after: Drafts, foreign_rows: int, audits: float, runs: int) -> Figures:
    """The figures of so many runs, which are also printed.

    Of `after`, the last `foreign_rows` are foreign and make FOREIGN_SHARE of the window; the others come alike.

    "bad_among_shipped_until_detection" counts the answers shipped from tier-1 between shift and alarm (or the window's
    end); no test can better it, since until its alarm nothing changes. "bad_of_window" counts bad answers from tier-1
    against all the WINDOW tickets from the shift on, whoever answered them: after the alarm tier-1 ships none.
    """
    goal = Goal(alpha=ALPHA, audit_share=audits)
    own = len(after.bad) - foreign_rows
    chance = np.full(own, (1 - FOREIGN_SHARE * bool(foreign_rows)) / own)
    if foreign_rows:
        chance = np.concatenate([chance, np.full(foreign_rows, FOREIGN_SHARE / foreign_rows)])
    figures = _figures([_run(before, after, chance, goal, seed) for seed in range(runs)])
    print(f"\n{name}")
    for key, value in figures.items():
        print(f"  {key:38} {value}")
    return figures


def _run(before: Drafts, after: Drafts, chance: Floats, goal: Goal, seed: int) -> Run:
    rng = np.random.default_rng(seed)
    labelled = before.take(rng.integers(0, len(before.bad), LABELS))
    window = after.take(rng.choice(len(after.bad), WINDOW, p=chance))
    plug_in = plug_in_pair(labelled, goal)
    rows = [Row("all", p, s, not b) for p, s, b in zip(*(c.tolist() for c in labelled), strict=True)]
    policy = solve(rows, goal, datetime(2026, 11, 25, tzinfo=UTC)).categories["all"]
    certified = None
    if policy.certificate is not None:
        pair = Pair(policy.p_ok_threshold, policy.score_threshold)
        calm = before.take(rng.integers(0, len(before.bad), CALM))
        certified = Certified(
            bad_share_before=before.bad_share(pair),
            bad_share_after=window.bad_share(pair),
            bad_of_window=float((window.shipped(pair) & window.bad).mean()),
            window_usd=window.cost_usd(pair, goal),
            calm_usd=before.cost_usd(pair, goal),
            audits_usd=float(before.shipped(pair).mean()) * goal.audit_share * JUDGE_USD,
            watched=watch(calm, window, labelled, pair, goal, random.Random(seed)),
        )
    return Run(before.bad_share(plug_in), window.bad_share(plug_in), certified)


def _figures(runs: Sequence[Run]) -> Figures:
    certified = [run.certified for run in runs if run.certified]
    sound = [c.watched for c in certified if not c.watched.false_alarm]
    detected = [w for w in sound if w.detected]
    warned = [w.warned for w in sound if w.warned is not None and w.warned > 0]

    def mean(of: Callable[[Certified], float]) -> float | None:
        return _mean(map(of, certified))

    return {
        "certified": _mean(run.certified is not None for run in runs),
        "bad_among_shipped_before_plug_in": _mean(run.plug_in_before for run in runs),
        "bad_among_shipped_before_certified": mean(lambda c: c.bad_share_before),
        "violation_before_plug_in": _mean(run.plug_in_before > ALPHA for run in runs),
        "violation_before_certified": mean(lambda c: c.bad_share_before > ALPHA),
        "bad_among_shipped_after_plug_in": _mean(run.plug_in_after for run in runs),
        "bad_among_shipped_after_static": mean(lambda c: c.bad_share_after),
        "violation_after_static": mean(lambda c: c.bad_share_after > ALPHA),
        "bad_among_shipped_until_detection": _mean(w.bad / w.shipped for w in sound if w.shipped),
        "bad_of_window_static": mean(lambda c: c.bad_of_window),
        "bad_of_window_watched": _mean(w.bad / WINDOW for w in sound),
        "false_alarms_calm": mean(lambda c: c.watched.false_alarm),
        "detected_in_window": _mean(w.detected for w in sound),
        "audited_to_detection_median": _median(w.audited for w in detected),
        "tickets_to_detection_median": _median(w.tickets for w in detected),
        "warned_in_window": _mean(w.warned is not None and w.warned > 0 for w in sound),
        "warned_in_calm": _mean(w.warned is not None and w.warned <= 0 for w in sound),
        "tickets_to_warning_median": _median(warned),
        "usd_per_1000_calm": mean(lambda c: 1000 * c.calm_usd),
        "usd_per_1000_calm_audits": mean(lambda c: 1000 * c.audits_usd),
        "usd_per_1000_window_static": mean(lambda c: 1000 * c.window_usd),
        "usd_per_1000_window_watched": _mean(1000 * w.cost_usd / WINDOW for w in sound),
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(float(np.mean(found)), 4) if found else None


def _median(values: Iterable[int]) -> int | None:
    found = list(values)
    return int(np.median(found)) if found else None
