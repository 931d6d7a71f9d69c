"""How well does the router spend the strong model's calls? On public routing sets, on Fernway, and on foreign tickets.

    make bench NAME=router_quality ARGS="--data ../shared/data"

RouteLLM's MMLU and GSM8K and LLMRouter's set: prompts whose outcome with a weak and a strong model is known. What the
product learns from (workers/learning: phrases and embedding, one calibrated success model for each tier, score
P(strong right) - P(weak right)) is trained and tested on --splits random splits; contaminated prompts are dropped and
only the prompt's text is read. APGR and CPT are counted as RouteLLM counts them (routing_metrics, `sampled`).
--all adds the methods that were tried and not kept, --curve the figures by number of labels.
Fernway: tier-1 answers the test tickets here and now, and the rubric says which answers are acceptable.
Plots go to .headgate/router_quality. The last line is JSON.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.routing_fernway import foreign, kept_on_tier1
from benchmarks.routing_methods import Method, Methods
from benchmarks.routing_sets import TRAINING_LABELS, Name, RoutingSet, load
from workers.learning import plots
from workers.learning.measures import Duel
from workers.learning.routing_metrics import (
    bootstrap,
    decisive_accuracy,
    operating_point,
    oracle_curve,
    over_splits,
    pgr_curve,
    reliability,
)
from workers.router.classifier import Classifier

MODEL = Path(__file__).parent.parent / "examples" / "fernway" / "router" / "model.onnx"
OUT = Path(".headgate") / "router_quality"

PUBLISHED = {
    "mmlu": "RouteLLM's best: APGR 0.603, CPT 35.4 / 70.3",
    "gsm8k": "RouteLLM's best: APGR 0.622 (an 8B model)",
    "llmrouter": "none published for this pair",
}

FIGURES = ("APGR", "CPT(50)", "CPT(80)")
CURVE = (250, 500, 1_000, 1_500, 3_000, 6_000, 9_000)
CURVE_SPLITS = 4

console = Console()


class Bench:
    """The sets and the methods, and every split's figures by method."""

    def __init__(self, data: Path, seeds: Sequence[int]) -> None:
        import onnxruntime

        self.data, self.seeds = data, seeds
        self.classifier = Classifier(MODEL)
        metadata = onnxruntime.InferenceSession(MODEL).get_modelmeta().custom_metadata_map
        self.methods = Methods(metadata["tokenizer"])

    def load(self, name: Name) -> RoutingSet:
        return load(name, self.data, self.classifier, MODEL, OUT)

    def measured(
        self, rows: RoutingSet, method: str, labels: int, seeds: Sequence[int] | None = None
    ) -> list[tuple[float, float, float]]:
        """FIGURES of each split; splits go side by side."""
        # Two workers: each holds a set's matrices. Their BLAS would start as many threads again.
        with ProcessPoolExecutor(2, initializer=threadpool_limits, initargs=(1,)) as pool:
            return list(pool.map(partial(_figures, self.methods.named(method), rows, labels), seeds or self.seeds))


def scored(score: Method, rows: RoutingSet, labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that were tested on, and their scores."""
    parts = [(test, score(rows, train, test)) for train, test in rows.splits(seed, labels)]
    return np.concatenate([test for test, _ in parts]), np.concatenate([scores for _, scores in parts])


def _figures(score: Method, rows: RoutingSet, labels: int, seed: int) -> tuple[float, float, float]:
    tested, scores = scored(score, rows, labels, seed)
    curve = pgr_curve(scores, rows.weak[tested], rows.strong[tested]).sampled()
    return curve.apgr, curve.cpt(50), curve.cpt(80)


def compare(bench: Bench, rows: RoutingSet, labels: int, everything: bool) -> list[float]:
    """Print a table of methods; returns our mean FIGURES."""
    shown = {"mmlu": f"MMLU, {labels} labels", "gsm8k": "GSM8K, 5 folds", "llmrouter": "LLMRouter, 5 folds"}[rows.name]
    table = Table(f"{shown}, {len(bench.seeds)} splits", *FIGURES, title=PUBLISHED[rows.name], title_justify="left")
    oracle = oracle_curve(rows.weak, rows.strong).sampled()
    table.add_row("oracle, all rows", f"{oracle.apgr:.3f}", f"{oracle.cpt(50):.1f}", f"{oracle.cpt(80):.1f}")
    table.add_row("random", "0.500", "50.0", "80.0")
    ours: list[float] = []
    for method in ("Headgate", *bench.methods.baselines, *(bench.methods.tried if everything else ())):
        spreads = [over_splits(column) for column in zip(*bench.measured(rows, method, labels), strict=True)]
        apgr, *cpts = spreads
        cells = [f"{apgr.mean:.3f} ± {apgr.sd:.3f}", *(f"{x.mean:.1f} ± {x.sd:.1f}" for x in cpts)]
        table.add_row(method, *cells, style="bold" if method == "Headgate" else "")
        if method == "Headgate":
            ours = [spread.mean for spread in spreads]
    console.print(table)
    return ours


def closer_look(bench: Bench, rows: RoutingSet, labels: int) -> None:
    """One split in full: interval, controls at the same rate, decisive rows, calibration; and its plot."""
    tested, scores = scored(bench.methods.headgate, rows, labels, bench.seeds[0])
    weak, strong = rows.weak[tested], rows.strong[tested]
    curve = pgr_curve(scores, weak, strong).sampled()
    (interval,) = bootstrap(
        lambda i: [pgr_curve(scores[i], weak[i], strong[i]).sampled().apgr], len(tested), np.random.default_rng(0), 500
    )
    called = scores > np.quantile(scores, 1 - curve.cpt(50) / 100)
    point = operating_point(called, weak, strong)
    decisive = decisive_accuracy(called, weak, strong)
    console.print(
        f"  first split: APGR {interval.estimate:.3f}, 95 % of redrawn rows {interval.low:.3f} to {interval.high:.3f}; "
        f"at {point.strong_share:.0%} strong calls PGR {point.pgr:.2f} "
        f"(shuffled {point.shuffled_pgr:.2f} ± {point.shuffled_sd:.2f}, oracle {point.oracle_pgr:.2f}); right on "
        f"{decisive.accuracy:.0%} of {decisive.rows} decisive rows (shuffled {decisive.shuffled:.0%})",
        highlight=False,
    )
    train, test = next(iter(rows.splits(bench.seeds[0], labels)))
    of_weak, of_strong = bench.methods.probabilities(rows, train, test)
    eces = [reliability(p, g[test]).ece for p, g in ((of_weak, rows.weak), (of_strong, rows.strong))]
    console.print(f"  calibration error: weak {eces[0]:.3f}, strong {eces[1]:.3f} on {len(test)} rows", highlight=False)
    OUT.mkdir(parents=True, exist_ok=True)
    duel = Duel(scores, weak, strong, np.ones(len(tested)))
    console.print(f"  plot: {plots.pgr(duel, OUT / f'{rows.name}.svg')}", highlight=False)


def curve_of_labels(bench: Bench, rows: RoutingSet) -> None:
    """MMLU's figures by the number of labels that were learned from."""
    seeds = bench.seeds[:CURVE_SPLITS]
    table = Table(f"MMLU, labels, {len(seeds)} splits", *FIGURES)
    for labels in CURVE:
        figures = zip(*bench.measured(rows, "Headgate", labels, seeds), strict=True)
        spreads = [over_splits(column) for column in figures]
        table.add_row(str(labels), f"{spreads[0].mean:.3f}", *(f"{x.mean:.1f}" for x in spreads[1:]))
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the public sets")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--all", action="store_true", help="also the methods that were tried and not kept")
    parser.add_argument("--curve", action="store_true", help="also MMLU by number of labels")
    args = parser.parse_args()
    if not (args.data / "routellm").is_dir():
        sys.exit(f"router_quality: there are no public sets in {args.data}: --data names their folder")
    bench = Bench(args.data, range(args.splits))

    mmlu = bench.load("mmlu")
    few = compare(bench, mmlu, 1_500, args.all)
    many = compare(bench, mmlu, TRAINING_LABELS, args.all)
    closer_look(bench, mmlu, TRAINING_LABELS)
    if args.curve:
        curve_of_labels(bench, mmlu)
    gsm8k = bench.load("gsm8k")
    grade_school = compare(bench, gsm8k, 0, args.all)
    closer_look(bench, gsm8k, 0)
    llmrouter = bench.load("llmrouter")
    other_pair = compare(bench, llmrouter, 0, args.all)
    closer_look(bench, llmrouter, 0)

    kept = asyncio.run(kept_on_tier1(bench.classifier, console))
    caught = foreign(bench.classifier, args.data, console)
    figures = {
        "mmlu_1500_apgr": few[0],
        "mmlu_9000_apgr": many[0],
        "mmlu_cpt50": many[1],
        "mmlu_cpt80": many[2],
        "gsm8k_apgr": grade_school[0],
        "llmrouter_apgr": other_pair[0],
        "fernway_kept": kept,
        "oos_caught": caught,
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
