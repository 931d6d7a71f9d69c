"""How well does the checker tell good drafts from bad ones? On Fernway's test tickets, and on Mixtral's GSM8K answers.

    make bench NAME=checker ARGS="--data ../shared/data"

Fernway: tier-1 answers here and now (kept for the next run), the rubric labels, the shipped gates and scorer are
measured as one classifier. GSM8K: what can be seen of an answer without log-probabilities is learned and tested on
--splits random splits. *Catch at 10 %* is the share of bad drafts refused where 10 % of the good ones are refused, too;
the thresholds are read off the tested rows themselves, so it is a figure of the ranking, not of a policy.
The last line is JSON.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import checker_gsm8k as gsm8k
from benchmarks.checker_fernway import CACHE, SCORER, Drafts, measured
from benchmarks.quality import FERNWAY
from workers.learning.routing_metrics import auroc, bootstrap, over_splits, reliability
from workers.router.classifier import Classifier

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

ESCALATIONS = (0.05, 0.1, 0.2)
"""Shares of good drafts that are refused in vain."""

LEAST_OF_EACH = 3
"""Good and bad drafts that a category needs for a line of its own."""

MODEL = FERNWAY / "router" / "model.onnx"

console = Console()


def catch(score: Floats, good: Booleans, false_escalations: float) -> float:
    """The largest share of bad rows that a threshold refuses with at most a share `false_escalations` of the good."""
    limits = np.append(np.unique(score), np.inf)
    refused_good = np.searchsorted(np.sort(score[good]), limits) / good.sum()
    refused_bad = np.searchsorted(np.sort(score[~good]), limits) / (~good).sum()
    return float(refused_bad[refused_good <= false_escalations + 1e-9].max())


def figures(score: Floats, good: Booleans) -> list[float]:
    """AUROC, then the catch at each of ESCALATIONS."""
    return [auroc(score, good), *(catch(score, good, share) for share in ESCALATIONS)]


def fernway(drafts: Drafts) -> list[float]:
    """Print the tables; returns the checker's figures."""
    good = drafts.good
    headings = ("AUROC", *(f"catch at {share:.0%}" for share in ESCALATIONS))
    table = Table(f"Fernway, {len(good)} drafts, {(~good).sum()} bad", *headings)
    for name, score in drafts.scores.items():
        cells = [f"{value:.3f}" for value in figures(score, good)]
        table.add_row(name, *cells, style="bold" if name == "checker" else "")
    console.print(table)
    ours = drafts.scores["checker"]
    spread = bootstrap(lambda i: figures(ours[i], good[i]), len(good), np.random.default_rng(0), 500)
    console.print(
        f"  95 % of redrawn rows: AUROC {spread[0].low:.3f} to {spread[0].high:.3f}, catch at 10 % "
        f"{spread[2].low:.2f} to {spread[2].high:.2f}; gates refuse {(drafts.gated & ~good).sum()} bad and "
        f"{(drafts.gated & good).sum()} good drafts; the scorer's calibration error {calibration_error(drafts):.3f}",
        highlight=False,
    )
    by_category(drafts)
    return figures(ours, good)


def calibration_error(drafts: Drafts) -> float:
    """Of the scorer, on the drafts that it decides: those that pass the gates."""
    decided = ~drafts.gated
    return reliability(drafts.scores[SCORER][decided], drafts.good[decided], bins=10).ece


def by_category(drafts: Drafts) -> None:
    """Print the checker's figures by the tickets' category, at the thresholds that all categories share."""
    score, good = drafts.scores["checker"], drafts.good
    limits = [float(np.quantile(score[good], share)) for share in ESCALATIONS]
    table = Table("category", "drafts", "bad", "AUROC", *(f"caught at {share:.0%}" for share in ESCALATIONS))
    for category in sorted(set(drafts.categories)):
        mine = np.array([c == category for c in drafts.categories])
        bad = mine & ~good
        enough = min(bad.sum(), (mine & good).sum()) >= LEAST_OF_EACH
        caught = [f"{(score[bad] < limit).sum()} of {bad.sum()}" for limit in limits]
        table.add_row(
            category,
            str(mine.sum()),
            str(bad.sum()),
            f"{auroc(score[mine], good[mine]):.3f}" if enough else "",
            *caught,
        )
    console.print(table)


def grade_school(responses: gsm8k.Responses, splits: int) -> dict[str, float]:
    """Print the table; returns mean AUROCs by method."""
    found: dict[str, list[list[float]]] = {}
    for seed in range(splits):
        for name, (score, test) in gsm8k.scored(responses, seed).items():
            found.setdefault(name, []).append(figures(score, responses.right[test]))
    right = responses.right
    headings = ("AUROC", *(f"catch at {share:.0%}" for share in ESCALATIONS))
    table = Table(f"GSM8K, {len(right)} answers, {(~right).sum()} wrong, {splits} splits", *headings)
    means = {}
    for name, rows in found.items():
        spreads = [over_splits(column) for column in zip(*rows, strict=True)]
        style = "bold" if name == gsm8k.OURS else ""
        table.add_row(name, *(f"{x.mean:.3f} ± {x.sd:.3f}" for x in spreads), style=style)
        means[name] = spreads[0].mean
    console.print(table)
    return means


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the public sets")
    parser.add_argument("--splits", type=int, default=10)
    args = parser.parse_args()
    if not (args.data / "routellm").is_dir():
        sys.exit(f"checker: there are no public sets in {args.data}: --data names their folder")
    means = grade_school(gsm8k.load(args.data, Classifier(MODEL), MODEL, CACHE), args.splits)
    drafts = measured()
    ours = fernway(drafts)
    others = {
        "checker_auroc_logprob": "mean log-probability",
        "checker_auroc_length": "answer's length",
        "checker_auroc_self_check": "self-check",
    }
    report = {
        "checker_auroc": ours[0],
        **{f"checker_catch_at_{share * 100:.0f}": value for share, value in zip(ESCALATIONS, ours[1:], strict=True)},
        "checker_calibration_error": calibration_error(drafts),
        **{key: auroc(drafts.scores[name], drafts.good) for key, name in others.items()},
        "gsm8k_auroc": means[gsm8k.OURS],
        "gsm8k_auroc_length": means[gsm8k.LENGTH],
        "gsm8k_auroc_embeddings": means[gsm8k.EMBEDDINGS],
    }
    print(json.dumps({name: round(value, 4) for name, value in report.items()}))


if __name__ == "__main__":
    main()
