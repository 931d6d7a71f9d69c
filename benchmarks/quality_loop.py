"""Does the wheel turn? Round by round from no labels at all, measured on Fernway's test split; and what it rests on.

    make bench NAME=quality_loop ARGS="--quick --data ../shared/data"
    make bench NAME=quality_loop ARGS="--data ../shared/data"

The whole run teaches encoder, tier-1, router and checker anew in each round (about two hours on two idle cores);
--quick measures the shipped models, which are the last round's. Models and answers are kept under
.headgate/bench/quality_loop, and a second run uses them. `bound_violation_rate` is the share of certificates that
promise too much, each solved on labels drawn from the test split's own drafts, where the truth is known; the other
figures are those of NAME=checker and NAME=drift. The last line is JSON.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import checker, checker_gsm8k, drift
from benchmarks.quality_loop_wheel import Result, Wheel
from workers.learning.plots import rounds
from workers.learning.splits import ROUNDS
from workers.learning.steps import GOAL
from workers.learning.thresholds import Row, Solved, solve
from workers.router.classifier import Classifier

WORK = Path(".headgate") / "bench" / "quality_loop"
DRAWS, DRAWN = 1_000, 500

console = Console(width=120)


def table(results: Sequence[Result]) -> Table:
    """A row a round."""
    cold = results[0]
    made = Table(
        "after round",
        "labels",
        "taught",
        "from tier-1",
        "quality",
        "bad shipped",
        "bound at 90 %",
        "$ per 1,000",
        "of all-tier-2's",
        "audits",
        title="Fernway's test split, 293 tickets",
    )
    for result in results:
        made.add_row(
            str(result.round) if result.round else "cold start",
            str(result.labels),
            str(result.taught),
            f"{result.tier1_share:.1%}",
            f"{result.quality:.4f}",
            f"{result.bad} of {result.shipped}",
            "-" if result.bound is None else f"{result.bound:.1%}",
            f"{1000 * result.cost_usd:.3f}",
            f"{result.cost_usd / cold.cost_usd:.3f}",
            f"{1000 * result.usd.get('audits', 0.0):.3f}",
        )
    return made


def violations(rows: Sequence[Row]) -> float:
    """The share of draws whose certificate promises too much: each is solved on DRAWN draws from these rows, and what
    its thresholds ship is counted among all of them."""
    rng, wrong, certified = np.random.default_rng(0), 0, 0
    now = datetime.now(UTC)
    for _ in range(DRAWS):
        solved = solve([rows[i] for i in rng.integers(0, len(rows), DRAWN)], GOAL, now)
        shipped = [r for r in rows if ships(r, solved)]
        certified += bool(shipped)
        wrong += sum(not r.acceptable for r in shipped) > GOAL.alpha * len(shipped)
    print(f"{certified} of {DRAWS} draws of {DRAWN} labels certify something; {wrong} of these promise too much")
    return wrong / DRAWS


def ships(row: Row, solved: Solved) -> bool:
    """Whether a draft would have been sent."""
    policy = solved.categories.get(row.category, solved.unseen)
    reached = row.p_ok >= policy.p_ok_threshold and row.score >= policy.score_threshold
    return policy.state == "active" and reached


def main() -> None:
    """Turn it, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shipped models as the last round, nothing is learned")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the public sets")
    parser.add_argument("--threads", type=int, default=2, help="tier-1's; take 1 where the machine has other work")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not (args.data / "routellm").is_dir():
        sys.exit(f"quality_loop: there are no public sets in {args.data}: --data names their folder")

    wheel = Wheel(WORK, args.threads)
    results, rows = [wheel.cold()], []
    for number in [ROUNDS] if args.quick else range(1, ROUNDS + 1):
        result, rows = wheel.shipped() if args.quick else wheel.turn(number)
        results.append(result)
        console.print(table(results))
    cold, last = results[0], results[-1]
    chart = rounds(
        ["cold start", *(f"round {r.round}" for r in results[1:])],
        {
            "quality": [r.quality for r in results],
            "answered by tier-1": [r.tier1_share for r in results],
            "cost, audits included": [r.cost_usd / cold.cost_usd for r in results],
        },
        wheel.work / "wheel.svg",
    )
    print(f"the chart: {chart}")
    if last.learning_usd is not None:
        print(f"all labels of all rounds cost ${last.learning_usd:.2f}, once")
    # A gate has the last word: what it refuses has score 0.
    good = np.array([row.acceptable for row in rows])
    auroc, _, catch, _ = checker.figures(np.array([row.score for row in rows]), good)
    grade_school = checker_gsm8k.load(args.data, Classifier(checker.MODEL), checker.MODEL, checker.CACHE)
    report = {
        "quality_ratio": last.quality / cold.quality,
        "cost_ratio": last.cost_usd / cold.cost_usd,
        "tier1_share": last.tier1_share,
        "bound_violation_rate": violations(rows),
        "checker_auroc": auroc,
        "checker_catch_at_10": catch,
        "gsm8k_auroc": checker.grade_school(grade_school, splits=10)[checker_gsm8k.OURS],
        "drift_detection_tickets": float(np.median(drift.delays(calm=500, times=3))),
        "drift_false_alarm_rate": drift.false_alarm_rate(),
    }
    print(json.dumps({name: round(value, 4) for name, value in report.items()}))


if __name__ == "__main__":
    main()
