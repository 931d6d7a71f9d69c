"""The simulated stage network against what queueing theory knows, and against what the runtime promises."""

from dataclasses import replace
from math import factorial

import pytest

from benchmarks.network import Figures, Network, Times, simulate, times
from benchmarks.network_models import Cores, Engine, Model, Provider
from benchmarks.network_process import Stage
from streams.runtime.partition import COMMIT_RECORDS

FREE = Stage(Provider(0.0), in_flight=10_000)
N = 8_000
ERROR = 0.2
"""Of a mean wait over so many tickets: two standard errors, found from 60 repetitions of M/M/3 at a load of 0.6."""


def network(model: Model, tickets_per_s: float, tickets: int = N, **stage: int | float) -> Network:
    """One stage that takes time, the router's; the others take none."""
    router = replace(Stage(model, partitions=1, in_flight=10_000), **stage)  # type: ignore[arg-type]
    return Network(router, FREE, FREE, FREE, tickets_per_s=tickets_per_s, tickets=tickets, warm_up=0.05)


def router_added_s(of: Network) -> float:
    return simulate(of).stages["router"].added.mean_s


def erlang_c_wait_s(servers: int, arrivals_per_s: float, service_s: float) -> float:
    """Mean wait of an M/M/c queue."""
    load = arrivals_per_s * service_s
    waits = load**servers / factorial(servers) * servers / (servers - load)
    waits /= sum(load**k / factorial(k) for k in range(servers)) + waits
    return waits * service_s / (servers - load)


@pytest.mark.parametrize(("cores", "arrivals_per_s"), [(1, 5.0), (3, 18.0)])
def test_calls_wait_for_cores_as_erlang_says(cores: int, arrivals_per_s: float) -> None:
    """M/M/1 and M/M/3, at a load of 0.5 and 0.6."""
    wait_s = router_added_s(network(Cores(cores, 0.1, cv=1.0), arrivals_per_s))
    assert wait_s == pytest.approx(erlang_c_wait_s(cores, arrivals_per_s, 0.1), rel=ERROR)


def test_records_wait_for_slots_as_erlang_says() -> None:
    """A provider without a limit and 4 slots are 4 servers: M/M/4, the queue being Kafka."""
    wait_s = router_added_s(network(Provider(0.1, cv=1.0), 24.0, in_flight=4))
    assert wait_s == pytest.approx(erlang_c_wait_s(4, 24.0, 0.1), rel=ERROR)


def test_a_slot_is_held_until_the_commit() -> None:
    """One slot, 60 ms at the model and 40 ms for the transaction: a server of 100 ms, M/D/1. The wait is
    Pollaczek and Khinchine's, and the transaction comes on top."""
    load, wait_s = 0.5, 0.5 * 0.1 / (2 * (1 - 0.5))
    found = router_added_s(network(Provider(0.06), load / 0.1, in_flight=1, commit_s=0.04))
    assert found == pytest.approx(wait_s + 0.04, rel=ERROR)


def test_a_rate_limit_is_a_server() -> None:
    """10 calls a second of any latency: M/D/1 at a load of 0.5."""
    wait_s = router_added_s(network(Provider(2.0, cv=0.5, calls_per_s=10.0), 5.0))
    assert wait_s == pytest.approx(0.5 * 0.1 / (2 * (1 - 0.5)), rel=ERROR)


@pytest.mark.parametrize("cv", [0.0, 1.5])
def test_an_engine_shares_its_rate(cv: float) -> None:
    """M/G/1 with processor sharing: the mean time is that of an empty engine over 1 - load, whatever the lengths."""
    figures = simulate(network(Engine(10_000, 400.0, 400.0, tokens=40.0, cv=cv), 5.0))
    assert figures.stages["router"].model_mean_s == pytest.approx(0.1 / (1 - 0.5), rel=ERROR)


def test_a_sequence_has_a_ceiling() -> None:
    """An engine with room to spare serves each at its own rate."""
    figures = simulate(network(Engine(1_000, 1e6, 50.0, tokens=40.0), 20.0, tickets=500))
    assert figures.stages["router"].model_mean_s == pytest.approx(0.8)
    assert figures.stages["router"].utilisation["model"] < 0.01


def test_a_full_engine_lets_the_others_wait() -> None:
    """Two places, ten at once: the last pair waits for four pairs of 100 ms."""
    busy = network(Engine(2, 800.0, 400.0, tokens=40.0), 1e6, tickets=10)
    assert simulate(replace(busy, warm_up=0.0)).stages["router"].added.p99_s == pytest.approx(0.4, abs=1e-3)


CHAIN = Network(
    router=Stage(Cores(2, 0.002, cv=0.3), processes=2, in_flight=64, batch_size=32, loop_s=5e-5, commit_s=0.003),
    tier1=Stage(Engine(64, 4_000.0, 80.0, 40.0, cv=0.5), processes=4, in_flight=64, loop_s=5e-5, commit_s=0.003),
    tier2=Stage(Provider(2.0, cv=0.5), processes=4, in_flight=64, loop_s=5e-5, commit_s=0.003),
    checker=Stage(Cores(2, 0.004, cv=0.3), processes=2, in_flight=64, batch_size=32, loop_s=5e-5, commit_s=0.003),
    tickets_per_s=200.0,
    tickets=2_000,
    fetch_s=0.001,
)


@pytest.fixture(scope="module")
def chain() -> Figures:
    return simulate(replace(CHAIN, warm_up=0.0, backfill_tickets=500))


def test_every_ticket_leaves(chain: Figures) -> None:
    """Both lanes; and each stage sees those that the shares send there."""
    assert (chain.ended, chain.backfill_ended) == (2_000, 500)
    stages = chain.stages
    assert stages["router"].tickets == 2_500
    assert stages["checker"].tickets == stages["tier1"].tickets + stages["tier2"].tickets
    assert stages["tier1"].tickets == pytest.approx(0.8 * 2_500, rel=0.05)
    assert stages["tier2"].tickets == pytest.approx(0.28 * 2_500, rel=0.1)


def test_littles_law_holds_in_every_stage() -> None:
    """Tickets inside = rate x time inside; the two are counted apart."""
    figures = simulate(replace(CHAIN, warm_up=0.0))
    for stage in figures.stages.values():
        time_s = stage.added.mean_s + stage.model_mean_s
        assert stage.inside_mean == pytest.approx(stage.tickets / figures.seconds * time_s, rel=1e-6)


def test_the_same_network_gives_the_same_figures() -> None:
    """And another seed others."""
    small = replace(CHAIN, tickets=300)
    assert simulate(small) == simulate(small) != simulate(replace(small, seed=1))


@pytest.mark.parametrize(
    ("change", "bottleneck"),
    [
        ({"router": replace(CHAIN.router, model=Cores(1, 0.02))}, ("router", "model")),
        ({"tier1": replace(CHAIN.tier1, model=Engine(64, 1_000.0, 80.0, 40.0))}, ("tier1", "model")),
        ({"tier2": replace(CHAIN.tier2, in_flight=16, model=Provider(2.0, calls_per_s=10.0))}, ("tier2", "model")),
        ({"tier2": replace(CHAIN.tier2, in_flight=8)}, ("tier2", "slots")),
        ({"checker": replace(CHAIN.checker, model=Cores(2, 0.02))}, ("checker", "model")),
        ({"checker": replace(CHAIN.checker, loop_s=0.02)}, ("checker", "loop")),
        ({"tier1": replace(CHAIN.tier1, partitions=1, processes=1, in_flight=64)}, ("tier1", "model")),
    ],
)
def test_a_saturated_stage_is_the_bottleneck(change: dict[str, Stage], bottleneck: tuple[str, str]) -> None:
    """Whichever it is, with the resource that is short; and the queue stands before it."""
    figures = simulate(replace(CHAIN, tickets=1_200, **change))  # type: ignore[arg-type]
    assert figures.bottleneck == bottleneck
    waiting = {name: stage.waiting_mean for name, stage in figures.stages.items()}
    assert max(waiting, key=waiting.__getitem__) == bottleneck[0]


def test_one_process_with_more_partitions_is_found() -> None:
    """Three partitions on two processes: one has two thirds of the load, and saturates at 150 a second."""
    uneven = network(Cores(1, 0.01), 170.0, tickets=3_000, partitions=3, processes=2)
    assert simulate(uneven).stages["router"].utilisation["model"] > 0.97
    even = simulate(replace(uneven, router=replace(uneven.router, partitions=4)))
    assert even.stages["router"].utilisation["model"] == pytest.approx(0.85, abs=0.05)


def test_a_commit_takes_what_has_settled_meanwhile() -> None:
    """Under load commits grow instead of queueing: a partition's rate is a commit's size over its time."""
    busy = network(Provider(0.0), 1e5, tickets=10_000, commit_s=0.1)
    figures = simulate(busy)
    assert figures.seconds == pytest.approx(0.1 * 10_000 / COMMIT_RECORDS, rel=0.2)


def test_the_slow_lane_costs_live_no_more_than_its_room() -> None:
    """A backfill that takes all that is spare: a live ticket waits at most for the one slow batch that it may find on
    its core, and its commit."""
    batch_s = 32 * 0.002
    one = Stage(Cores(1, 0.002), partitions=4, in_flight=64, batch_size=32, commit_s=0.003)
    quiet = Network(one, FREE, FREE, FREE, tickets_per_s=100.0, tickets=1_500)
    alone, beside = simulate(quiet), simulate(replace(quiet, backfill_tickets=4_000))
    assert beside.backfill_ended == 4_000
    assert beside.added.p99_s > alone.added.p99_s
    assert beside.added.p99_s <= alone.added.p99_s + batch_s + one.commit_s


def test_a_quarter_of_the_slots_is_lives_own() -> None:
    """Long calls: a live ticket finds a free slot at once, however much waits on the slow lane."""
    calls = Stage(Provider(1.0), partitions=4, in_flight=64, commit_s=0.003)
    quiet = Network(calls, FREE, FREE, FREE, tickets_per_s=5.0, tickets=250)
    alone, beside = simulate(quiet), simulate(replace(quiet, backfill_tickets=2_500))
    assert beside.stages["router"].utilisation["slots"] > 0.6
    assert beside.added.p99_s == pytest.approx(alone.added.p99_s, abs=2 * calls.commit_s)


def test_percentiles_are_of_the_values() -> None:
    """And zeros where there are none."""
    assert times([float(n) for n in range(101)]) == Times(50.0, 50.0, 99.0)
    assert times([]) == Times(0.0, 0.0, 0.0)
