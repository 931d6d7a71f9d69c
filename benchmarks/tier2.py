"""Tier-2 against a provider that enforces its limits and misbehaves: rate used, recovery, and whose books are right.

    make bench NAME=tier2                      # some eight minutes on two cores
    make bench NAME=tier2 ARGS="--quick"       # one, to try it; its numbers mean little

The provider is the recorded frontier in a process of its own, in both wire
formats: evenly refilling windows that hold five seconds' worth, so that a client
can't live on a saved-up minute. (1) Rates: more tickets than any limit lets
through, first requests that bind, then a limit that doubles and halves, then
tokens that bind. (2) A soak at full speed with one call in ten going wrong. The
client's money for calls whose usage it knows must be what the frontier charged
for the responses that it delivered whole, to the micro-dollar; what the
frontier charged for the others must be within what the client counts at its
worst case, and drafts and handoffs tell the same sums. The last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog

from benchmarks.tier2_rate import MODELS, Change, Durations, Round, measure
from benchmarks.tier2_soak import Soak, soak
from workers.tier2.enforced_limits import USUAL_BURST_S

FOLDER = Path(".headgate/bench/tier2").resolve()


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds and a short soak")
    parser.add_argument(
        "--burst-s", type=float, default=USUAL_BURST_S, help="how many seconds' worth of a limit may come at once"
    )
    parser.add_argument("--calls", type=int, help="of the soak; 20,000 by default")
    parser.add_argument("--seed", type=int, default=6, help="which calls of the soak go wrong")
    parser.add_argument("--only", choices=["rates", "soak"], help="one of the two parts")
    args = parser.parse_args()
    # Thousands of warnings about faults that were asked for.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    print(f"{os.cpu_count()} cores; one run, each frontier in a process of its own\n")
    durations = Durations(5.0, 8.0, 12.0) if args.quick else Durations()
    calls = args.calls or (1_000 if args.quick else 20_000)
    result: dict[str, object] = {}
    if args.only != "soak":
        rounds, changes = await rates(durations, args.burst_s)
        print_rates(rounds, changes)
        result |= rates_json(rounds, changes)
    if args.only != "rates":
        soaked = await soak(calls, args.seed, FOLDER)
        print_soak(soaked)
        result |= soak_json(soaked)
    print(json.dumps(result))


async def rates(durations: Durations, burst_s: float) -> tuple[list[Round], list[Change]]:
    """Both providers at once, each with a client of its own: neither is near a core's worth."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(measure(p, FOLDER, durations, burst_s)) for p in MODELS]
    measured = [task.result() for task in tasks]
    return [r for rounds, _ in measured for r in rounds], [c for _, changes in measured for c in changes]


def print_rates(rounds: Sequence[Round], changes: Sequence[Change]) -> None:
    """Two tables."""
    print(f"{'what binds':34}{'of it used':>12}{'429s':>9}{'calls':>9}")
    for r in rounds:
        print(f"{r.provider + ', ' + r.window:34}{r.rate_used:12.1%}{r.share_429:9.2%}{r.calls:9,}")
    print(f"\n{'the limit of requests':34}{'followed in':>12}{'429s':>9}")
    for c in changes:
        followed = "never" if c.recovery_s is None else f"{c.recovery_s:.1f} s"
        print(f"{c.provider + ', ' + c.title:34}{followed:>12}{c.share_429:9.2%}")
    print()


def rates_json(rounds: Sequence[Round], changes: Sequence[Change]) -> dict[str, object]:
    """The worst of each; null for a limit that was never followed."""
    recoveries = [c.recovery_s for c in changes]
    shares_429 = [r.share_429 for r in rounds] + [c.share_429 for c in changes]
    return {
        "rate_used": round(min(r.rate_used for r in rounds), 4),
        "share_429": round(max(shares_429), 4),
        "recovery_s": None if None in recoveries else round(max(r for r in recoveries if r is not None), 2),
    }


def print_soak(soaked: Soak) -> None:
    """What became of the tickets, what went wrong, and both books."""
    books = soaked.books
    wrong = sum(books.faults.values())
    print(f"soak: {soaked.calls:,} calls for {soaked.tickets:,} tickets in {soaked.seconds:.0f} s")
    print(f"  went wrong: {wrong:,} calls ({wrong / max(1, books.calls):.1%})")
    for name, times in sorted(books.faults.items(), key=lambda item: -item[1]):
        print(f"    {name:32}{times:8,}")
    print("  tickets ended")
    for fate, times in soaked.fates.items():
        print(f"    {fate:32}{times:8,}")
    print("  micro-dollars")
    print(f"    {'client, usage known':32}{soaked.known_micro_usd:14,}")
    print(f"    {'frontier, delivered':32}{books.delivered_micro_usd:14,}  ({books.delivered_calls:,} calls)")
    # Each of the frontier's errors 500 is among the unknown, and free.
    print(f"    {'client, usage unknown, at most':32}{soaked.exposure_micro_usd:14,}  ({soaked.unknown_calls:,} calls)")
    print(f"    {'frontier, broken':32}{books.broken_micro_usd:14,}  ({books.broken_calls:,} calls)")
    print()


def soak_json(soaked: Soak) -> dict[str, object]:
    """Both bars and what they rest on."""
    return {
        "ledger_difference_micro_usd": soaked.known_micro_usd - soaked.books.delivered_micro_usd,
        "tickets_difference_micro_usd": soaked.tickets_micro_usd - soaked.known_micro_usd - soaked.exposure_micro_usd,
        "lost": soaked.lost,
        "exposure_micro_usd": soaked.exposure_micro_usd,
        "broken_micro_usd": soaked.books.broken_micro_usd,
        "unsettled": soaked.unsettled,
        "calls": soaked.calls,
        "tickets": soaked.tickets,
        "soak_s": round(soaked.seconds, 1),
    }


if __name__ == "__main__":
    asyncio.run(main())
