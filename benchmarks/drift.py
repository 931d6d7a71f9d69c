"""How soon does the drift test see a shift, how often does it alarm without one, and what does that save on Fernway?

    make bench NAME=drift
    make bench NAME=drift ARGS="--no-fernway"

(a) False alarms over 10,000 audited tickets. (b) Audited tickets to detection, after calm stretches of several lengths.
(c) Fernway's shift: what tier-1 really says to its validation and test tickets, routed and scored by the committed
models. These drafts are the population: each run draws its labels and its stream from them, with replacement, so that
the certificate's promise holds exactly until the shift. Static thresholds against a certificate that is watched. For
the foreign tickets the public sets are needed (--data). The last line is JSON.
"""

import argparse
import asyncio
import csv
import gzip
import itertools
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.policies import load_policy
from workers.checker.checker import Checker
from workers.checker.scorer import load_scorer
from workers.knowledge import Passage
from workers.learning.company import Company, Example, as_ticket, load_company
from workers.learning.drift import (
    ODDS,
    DriftTest,
    EarlyWarning,
    audit_share,
    growth,
    observe,
    observe_check,
    unspent,
)
from workers.learning.labelling import as_draft, outcomes
from workers.learning.rubric import Claim, Fact, Rubric, grade
from workers.learning.serving import served_engine
from workers.learning.steps import MAX_TOKENS, passage_of
from workers.learning.thresholds import Goal, Pair, Row, solve
from workers.router.budget import Budget
from workers.router.classifier import Classifier, ticket_text
from workers.router.policy import AUDITABLE, decide
from workers.tier1.engine import Engine

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Indices = NDArray[np.int64]

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
ALPHA, DELTA = 0.05, 0.05
TICKETS = 10_000
RUNS = 2_000

LABELS = 1_000
"""Drawn for each run's thresholds."""
CALM, WINDOW = 5_000, 5_000
"""Tickets before the shift, and from the shift on, in each run of (c)."""
FOREIGN_SHARE = 0.3
"""Of the stream after the shift. A third as many foreign tickets as Fernway's own are answered once."""
AUDIT_SHARE, HIGH_AUDIT_SHARE = 0.05, 0.25
"""Of the tickets: the default of `thresholds.Goal`, and what an early warning makes of it."""
JUDGE_USD = 0.002
"""An audit: a guess at a frontier judge's call, about twice what the answer costs."""
PRICES = {
    "billing.late_fee": ("8", "11"),
    "billing.paper_bill": ("2.50", "3.75"),
    "equipment.return_router": ("85", "95"),
    "installation.reschedule": ("25", "32"),
    "mobile.lost_phone": ("5", "9"),
    "moving.fee": ("35", "42"),
}
"""Six fees, by the passage that names them: the old one and the new one, in dollars."""


def alarms(rates: Sequence[float], runs: int, seed: int) -> Indices:
    """The ticket of each run's alarm, (runs,), past the end where there is none: `observe` on all runs at once."""
    rng = np.random.default_rng(seed)
    odds = np.array(ODDS)[:, None]
    good, bad = growth(odds, ALPHA, False), growth(odds, ALPHA, True)
    bets, found = np.zeros((len(ODDS), runs)), np.full(runs, len(rates) + 1)
    for ticket, rate in enumerate(rates, 1):
        stake = unspent(ticket - 1) - unspent(ticket)
        bets = (bets + stake) * np.where(rng.random(runs) < rate, bad, good)
        rich = bets.mean(0) + unspent(ticket) >= 1 / DELTA
        found[rich & (found > ticket)] = ticket
        # Past its alarm a run is done: what it would win is of no use, and would overflow.
        bets = np.where(rich, 1 / DELTA, bets)
    return found


def same_as_the_test(rates: Sequence[float], runs: int, seed: int) -> bool:
    """Whether `alarms` finds what `observe` does, on the same draws."""
    rng = np.random.default_rng(seed)
    bad = np.stack([rng.random(runs) < rate for rate in rates])
    found = []
    for run in range(runs):
        test = DriftTest.start(ALPHA, DELTA)
        for outcome in bad[:, run]:
            test = observe(test, bool(outcome))
        found.append(test.alarmed_at or len(rates) + 1)
    return found == alarms(rates, runs, seed).tolist()


def false_alarm_rate(rate: float = ALPHA) -> float:
    """The share of certificates that fall within TICKETS audited tickets though nothing changes."""
    return float((alarms([rate] * TICKETS, RUNS, seed=0) <= TICKETS).mean())


def delays(calm: int, times: float, runs: int = 500) -> Indices:
    """Audited tickets from a shift to `times` alpha to the alarm, after so many at half of alpha. False alarms out."""
    found = alarms([ALPHA / 2] * calm + [times * ALPHA] * 4_000, runs, seed=int(calm + 10 * times))
    return found[found > calm] - calm


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


def compare(
    name: str, before: Drafts, after: Drafts, foreign_rows: int, audits: float, runs: int
) -> dict[str, float | int | None]:
    """Static thresholds against a watched certificate, over runs with labels and streams of their own.

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
    plug_in_before, plug_in_after, before_share, after_share = [], [], [], []
    static_window, watched_window, static_usd, calm_usd, audits_usd, found = [], [], [], [], [], []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        labelled = before.take(rng.integers(0, len(before.bad), LABELS))
        window = after.take(rng.choice(len(after.bad), WINDOW, p=chance))
        plug_in = plug_in_pair(labelled, goal)
        plug_in_before.append(before.bad_share(plug_in))
        plug_in_after.append(window.bad_share(plug_in))
        rows = [Row("all", p, s, not b) for p, s, b in zip(*(c.tolist() for c in labelled), strict=True)]
        policy = solve(rows, goal, datetime(2026, 11, 25, tzinfo=UTC)).categories["all"]
        if policy.certificate is None:
            continue
        pair = Pair(policy.p_ok_threshold, policy.score_threshold)
        before_share.append(before.bad_share(pair))
        after_share.append(window.bad_share(pair))
        static_window.append(float((window.shipped(pair) & window.bad).mean()))
        static_usd.append(window.cost_usd(pair, goal))
        calm_usd.append(before.cost_usd(pair, goal))
        audits_usd.append(before.shipped(pair).mean() * goal.audit_share * JUDGE_USD)
        calm = before.take(rng.integers(0, len(before.bad), CALM))
        seen = watch(calm, window, labelled, pair, goal, random.Random(seed))
        found.append(seen)
        if not seen.false_alarm:
            watched_window.append(seen.bad / WINDOW)
    sound = [f for f in found if not f.false_alarm]
    detected = [f for f in sound if f.detected]
    warned = [f.warned for f in sound if f.warned is not None and f.warned > 0]
    figures: dict[str, float | int | None] = {
        "certified": _mean([1.0] * len(found) + [0.0] * (runs - len(found))),
        "bad_among_shipped_before_plug_in": _mean(plug_in_before),
        "bad_among_shipped_before_certified": _mean(before_share),
        "violation_before_plug_in": _mean([s > ALPHA for s in plug_in_before]),
        "violation_before_certified": _mean([s > ALPHA for s in before_share]),
        "bad_among_shipped_after_plug_in": _mean(plug_in_after),
        "bad_among_shipped_after_static": _mean(after_share),
        "violation_after_static": _mean([s > ALPHA for s in after_share]),
        "bad_among_shipped_until_detection": _mean([f.bad / f.shipped for f in sound if f.shipped]),
        "bad_of_window_static": _mean(static_window),
        "bad_of_window_watched": _mean(watched_window),
        "false_alarms_calm": _mean([f.false_alarm for f in found]),
        "detected_in_window": _mean([f.detected for f in sound]),
        "audited_to_detection_median": _median([f.audited for f in detected]),
        "tickets_to_detection_median": _median([f.tickets for f in detected]),
        "warned_in_window": round(len(warned) / len(sound), 4) if sound else None,
        "warned_in_calm": _mean([f.warned is not None and f.warned <= 0 for f in sound]),
        "tickets_to_warning_median": _median(warned),
        "usd_per_1000_calm": _mean([1000 * c for c in calm_usd]),
        "usd_per_1000_calm_audits": _mean([1000 * a for a in audits_usd]),
        "usd_per_1000_window_static": _mean([1000 * c for c in static_usd]),
        "usd_per_1000_window_watched": _mean([1000 * f.cost_usd / WINDOW for f in sound]),
    }
    print(f"\n{name}")
    for key, value in figures.items():
        print(f"  {key:38} {value}")
    return figures


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _median(values: Sequence[int]) -> int | None:
    return int(np.median(values)) if values else None


def priced(text: str, old: str, new: str) -> str:
    """A text, or a rubric's pattern, with one price in place of another."""
    for before, after in ((f"${old}", f"${new}"), (rf"\${re.escape(old)}", rf"\${re.escape(new)}")):
        text = re.sub(re.escape(before) + r"(?!\d|\.\d|\\\.\d)", lambda _, after=after: after, text)
    return text


def repriced(example: Example) -> Example:
    """The example under the new prices; itself where its passage names none of them."""
    if example.kind != "routine" or passage_of(example) not in PRICES:
        return example
    old, new = PRICES[passage_of(example)]
    rubric = Rubric(
        states=tuple(Fact(f.fact, tuple(priced(p, old, new) for p in f.any)) for f in example.rubric.states),
        forbids=(*example.rubric.forbids, Claim("the old price", (rf"\${re.escape(old)}(?!\d|\.\d)",))),
        numbers=example.rubric.numbers | {new},
    )
    changed = replace(example, reference=priced(example.reference, old, new), rubric=rubric)
    if not grade(changed.reference, rubric).acceptable or grade(example.reference, rubric).acceptable:
        raise RuntimeError(f"{example.ticket_id}: its rubric does not tell the new price from the old one")
    return changed


def repriced_passages(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """What a company writes down that keeps its knowledge up to date."""
    return tuple(replace(p, text=priced(p.text, *PRICES[p.id])) if p.id in PRICES else p for p in passages)


def foreign_examples(data: Path, count: int) -> list[Example]:
    """Tickets of other companies, as if sent to Fernway: no answer that tier-1 could give them is right."""
    with gzip.open(data / "bitext" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for line in file]
    with gzip.open(data / "banking77" / "test.csv.gz", "rt", encoding="utf-8", newline="") as file:
        texts += [row["text"] for row in csv.DictReader(file)]
    nothing = Rubric(states=(Fact("what Fernway can't know", (r"(?!)",)),), forbids=(), numbers=frozenset())
    return [
        Example(f"foreign-{i}", "test", "complex", "", "", 0, "web", "en", "", text, (), "", nothing, ())
        for i, text in enumerate(random.Random(0).sample(texts, count))
    ]


class House:
    """Fernway's router and checker, and tier-1 at the other end of an engine."""

    def __init__(self) -> None:
        self.company: Company = load_company(FERNWAY)
        self.classifier = Classifier(FERNWAY / "router" / "model.onnx")
        self.policy = load_policy(FERNWAY / "policy.json")

    async def drafts(
        self, examples: Sequence[Example], passages: Sequence[Passage], engine: Engine
    ) -> tuple[Drafts, list[str]]:
        """Route, answer from these passages, score and grade every example; also what tier-1 said."""
        scores = self.classifier.classify([ticket_text(as_ticket(e)) for e in examples])
        rng, unlimited = random.Random(0), Budget()
        decided = [
            decide(as_ticket(e), s, self.policy, unlimited, 0.0, rng) for e, s in zip(examples, scores, strict=True)
        ]
        texts = {p.id: p.text for p in passages}
        made = await outcomes(examples, [d.passages for d in decided], texts, engine, "Fernway", MAX_TOKENS)
        checker = Checker(
            self.classifier, load_scorer(FERNWAY / "checker" / "scorer.onnx"), passages, lambda _: self.policy, 0.0
        )
        verdicts = checker.check([as_draft(e, d, o) for e, d, o in zip(examples, decided, made, strict=True)])
        found = Drafts(
            np.array([d.p_ok if d.reason in AUDITABLE else -1.0 for d in decided]),
            np.array([-1.0 if v.score is None else v.score for v in verdicts]),
            np.array([not o.acceptable for o in made]),
        )
        return found, [o.generation.text for o in made]


async def fernway(data: Path, tickets: int, runs: int) -> dict[str, float | int | None]:
    """(c): each shift by itself."""
    house = House()
    examples = house.company.split("validation") + house.company.split("test")
    examples = random.Random(0).sample(examples, min(tickets, len(examples)))
    passages, new_passages = house.company.passages, repriced_passages(house.company.passages)
    new = [repriced(e) for e in examples]
    touched = np.array([i for i, (a, b) in enumerate(zip(examples, new, strict=True)) if a is not b])
    found: dict[str, float | int | None] = {}
    # One thread: two wait for each other as soon as the machine has other work, and then take twenty times as long.
    async with served_engine(FERNWAY / "tier1" / "adapter.gguf", threads=1) as engine:
        before, said = await house.drafts(examples, passages, engine)
        retold, _ = await house.drafts([new[i] for i in touched], new_passages, engine)
        try:
            strangers = foreign_examples(data, len(examples) // 3)
        except FileNotFoundError as exc:
            strangers = []
            print(f"no foreign tickets: {exc.filename} is missing (--data names the folder of the public sets)")
        foreign = (await house.drafts(strangers, passages, engine))[0] if strangers else None
    print(f"\n{len(examples)} drafts, {before.bad.mean():.3f} bad; {len(touched)} name a fee that changes")

    stale = before._replace(bad=np.array([not grade(t, e.rubric).acceptable for t, e in zip(said, new, strict=True)]))
    updated = Drafts(*(column.copy() for column in before))
    for column, changed in zip(updated, retold, strict=True):
        column[touched] = changed
    shifts = {
        "prices_unnoticed": ("six fees change, nobody tells Headgate", stale, 0, AUDIT_SHARE),
        "prices_unnoticed_audits": (
            f"the same, and {HIGH_AUDIT_SHARE:.0%} of the tickets audited",
            stale,
            0,
            HIGH_AUDIT_SHARE,
        ),
        "prices_written_down": ("six fees change, in the knowledge passages too", updated, 0, AUDIT_SHARE),
    }
    if foreign:
        shifts["foreign"] = (
            f"{FOREIGN_SHARE:.0%} foreign tickets",
            before.joined(foreign),
            len(foreign.bad),
            AUDIT_SHARE,
        )
    for key, (name, after, foreign_rows, audits) in shifts.items():
        figures = compare(f"{key}: {name}", before, after, foreign_rows, audits, runs)
        found |= {f"{key}.{figure}": value for figure, value in figures.items()}
    return found


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the public sets")
    parser.add_argument("--runs", type=int, default=100, help="of (c), for each shift")
    parser.add_argument("--tickets", type=int, default=1_000, help="of Fernway's, for (c); there are 464")
    parser.add_argument("--no-fernway", action="store_true", help="only (a) and (b)")
    args = parser.parse_args()
    if not same_as_the_test([ALPHA] * 400 + [3 * ALPHA] * 200, runs=20, seed=1):
        raise RuntimeError("the simulation does not do what the test does: its figures would say nothing")

    figures: dict[str, float | int | None] = {}
    for key, rate in (("drift_false_alarm_rate", ALPHA), ("drift_false_alarm_rate_half_alpha", ALPHA / 2)):
        figures[key] = false_alarm_rate(rate)
        print(f"alarms over {TICKETS:,} audited tickets at a rate of {rate}: {figures[key]:.4f} of {RUNS:,} runs")
    print("\naudited tickets from the shift to the alarm: median, 90 % quantile")
    for calm in (0, 500, 5_000):
        for times in (2, 3, 6):
            found = delays(calm, times)
            median, most = int(np.median(found)), int(np.quantile(found, 0.9))
            print(f"  {times} alpha, after {calm:5,} at half of alpha: {median:5} {most:5}")
            figures[f"detection_{times}_alpha_after_{calm}"] = median
    figures["drift_detection_tickets"] = figures["detection_3_alpha_after_500"]
    if not args.no_fernway:
        figures |= await fernway(args.data, args.tickets, args.runs)
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main())
