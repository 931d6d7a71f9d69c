"""How soon does the drift test see a shift, how often does it alarm without one, and what does that save on Fernway?

    make bench NAME=drift
    make bench NAME=drift ARGS="--no-fernway"

(a) False alarms over 10,000 audited tickets. (b) Audited tickets to detection, after calm stretches of several lengths.
(c) Fernway's shifts (drift_fernway.py): static thresholds against a certificate that is watched (drift_stream.py). For
the foreign tickets the public sets are needed (--data). The last line is JSON.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.drift_fernway import fernway
from benchmarks.drift_stream import ALPHA, DELTA, Figures, Indices
from workers.learning.drift import ODDS, DriftTest, growth, observe, unspent

TICKETS = 10_000
RUNS = 2_000


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

    figures: Figures = {}
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
