"""`make chaos`: blows on a real chain, drawn by a seed, and a verdict. Exit codes: 0 every rule held, 1 one did not."""

import argparse
import asyncio
import logging
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import orjson

from streams.local.embedded_kafka import EmbeddedKafkaError
from streams.local.processes import StepError
from tests.chaos.run import PER_S, Outcome, Plan, run
from tests.chaos.verifier import Delivery
from tests.chaos.world import TIER2_IN_FLIGHT, Conditions

FOLDER = Path(".headgate") / "chaos"
SHOWN = 5
"""Offenders named under each broken rule; the first is the one to look for in the logs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, and say how it went."""
    args = _parser().parse_args(arguments)
    conditions = Conditions(delivery=args.delivery, deduplicated=args.dedupe)
    plan = Plan(args.rounds, args.seed, per_s=args.per_second, conditions=conditions)
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "logs").mkdir(parents=True)
    # What helpdesk and witness complain of belongs beside the workers' logs, not on the screen.
    logging.basicConfig(filename=FOLDER / "logs" / "chaos.log", level=logging.WARNING, format="%(asctime)s %(message)s")
    # A client that waits for its broker says so up to a thousand times a second.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    print(f"chaos: {plan.rounds} rounds, seed {plan.seed}, {args.delivery}; logs in {FOLDER / 'logs'}", flush=True)
    try:
        outcome = asyncio.run(run(plan, FOLDER.resolve(), lambda text: print(text, flush=True)))
    except (StepError, EmbeddedKafkaError) as exc:
        print(f"chaos: {exc}", file=sys.stderr)
        return 1
    print("\n".join(_lines(outcome)))
    if args.json:
        print(orjson.dumps(outcome.as_json()).decode())
    return 0 if outcome.holds else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=24, help="blows; about 5 s each (default: 24)")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="draws the blows and the tickets")
    parser.add_argument("--per-second", type=float, default=PER_S, help="tickets published")
    parser.add_argument("--delivery", choices=get_args(Delivery), default="exactly_once", help="kafka.delivery")
    parser.add_argument("--no-dedupe", dest="dedupe", action="store_false", help="answer each publication of a ticket")
    parser.add_argument("--json", action="store_true", help="end with the figures as one line of JSON")
    return parser


def _lines(outcome: Outcome) -> Sequence[str]:
    verdict, plan = outcome.verdict, outcome.plan
    return [
        "",
        f"{plan.rounds} rounds in {outcome.rounds_s:.0f} s, seed {plan.seed}",
        f"{verdict.tickets} tickets, published {outcome.publications} times",
        f"{outcome.ended_under_fire} of them ended before the last round did",
        f"{outcome.aborted_records} records of aborted transactions lie in the log",
        f"{outcome.paid_calls} paid calls, {verdict.paid_repeats} of them repeats; at most {outcome.paid_bound} may be "
        f"({TIER2_IN_FLIGHT} for each tier-2 process that a round cut off)",
        f"workers that ended by themselves, by exit code: {dict(outcome.ended_by_themselves) or 'none'}; "
        f"not stopped in time: {outcome.late_stops or 'none'}",
        *(f"tolerated: {len(ids)} {rule}: {', '.join(ids[:SHOWN])}" for rule, ids in verdict.tolerated.items()),
        *(f"BROKEN: {len(ids)} {rule}: {', '.join(ids[:SHOWN])}" for rule, ids in verdict.broken.items()),
        *(["BROKEN: a worker gave up for good (exit code 2)"] if verdict.holds and not outcome.holds else []),
        "every rule held" if outcome.holds else f"logs: {FOLDER / 'logs'}",
    ]


if __name__ == "__main__":
    sys.exit(main())
