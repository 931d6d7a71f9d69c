"""The chain of benchmarks/pipeline.py as the simulation of the stages' queues (network.py) sees it."""

from collections.abc import Mapping
from math import sqrt

from benchmarks.network import Network, Times, simulate
from benchmarks.network_models import Cores, Provider
from benchmarks.network_process import Stage
from benchmarks.pipeline_chain import Slots
from benchmarks.pipeline_tickets import CHECKER_S, REFUSED_SHARE, ROUTER_S, TIER1_S, TIER1_SHARE, TIER2_S
from streams.settings import CheckerSettings, RouterSettings

TICKETS = 5_000
FETCH_S = 0.002
"""From a commit to the next stage's poll (a guess: a whole hop takes 3 ms, `make bench NAME=stream`)."""


def simulated(
    per_s: float, slots: Slots, partitions: int, cpu_ms: Mapping[str, float], transaction_ms: Mapping[str, float]
) -> Times:
    """What is added to the models' time at a rate. `cpu_ms` is a ticket's processor time, by stage, which its one loop
    spends; a processor is not shared with other processes there."""

    def stage(name: str, model: Cores | Provider, in_flight: int, batch_size: int) -> Stage:
        loop_s, commit_s = cpu_ms[name] / 1000, transaction_ms[name] / 1000
        return Stage(model, partitions, in_flight=in_flight, batch_size=batch_size, loop_s=loop_s, commit_s=commit_s)

    router, checker = RouterSettings().batch_size, CheckerSettings().batch_size
    network = Network(
        # As many cores as tickets: a batch takes as long as one of them.
        router=stage("router", Cores(router, ROUTER_S), 2 * router, router),
        tier1=stage("tier1", _even(TIER1_S), slots.tier1, 1),
        tier2=stage("tier2", _even(TIER2_S), slots.tier2, 1),
        checker=stage("checker", Cores(checker, CHECKER_S), 2 * checker, checker),
        tickets_per_s=per_s,
        tickets=TICKETS,
        tier1_share=TIER1_SHARE,
        refused_share=REFUSED_SHARE,
        fetch_s=FETCH_S,
    )
    return simulate(network).added


def _even(times: tuple[float, float]) -> Provider:
    """Times that are evenly distributed, by their mean and variation."""
    low, high = times
    mean = (low + high) / 2
    return Provider(mean, (high - low) / sqrt(12) / mean)
