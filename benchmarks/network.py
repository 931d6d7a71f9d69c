"""The stage network as a discrete-event simulation: tickets -> router -> tier1 or tier2 -> checker -> answers.

What is simulated is what bounds a stage in streams/runtime: partitions and whose they are, slots that are held until
the commit, calls of whole batches, one commit at a time for a partition, the process's one event loop, the slow lane's
room (the runtime's own function). Not simulated: failures, retries, rebalances, audits, a broker that is itself the
limit. Waiting for a core, for a place in the engine or for the provider's rate counts as added; the time at the model
doesn't.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from benchmarks.network_models import Clock, Cores, queues
from benchmarks.network_process import LANES, Level, Partition, Process, Stage, Ticket
from streams.runtime.lanes import Lane

StageName = Literal["router", "tier1", "tier2", "checker"]


# -- what goes in -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Network:
    """All that a run depends on, the seed included: what a benchmark of the real chain can measure or set."""

    router: Stage
    tier1: Stage
    tier2: Stage
    checker: Stage
    tickets_per_s: float
    """Offered; arrivals are a Poisson process."""
    tickets: int
    tier1_share: float = 0.8
    """Of the tickets, tried on tier-1."""
    refused_share: float = 0.1
    """Of tier-1's drafts, sent up to tier-2 by the checker."""
    fetch_s: float = 0.0
    """From a commit to the next stage's poll."""
    backfill_tickets: int = 0
    """On the slow lane from the start."""
    live_objective_s: float = 30.0
    warm_up: float = 0.1
    """Share of the tickets whose times don't count: they find empty queues."""
    seed: int = 0

    @property
    def stages(self) -> Mapping[StageName, Stage]:
        return {"router": self.router, "tier1": self.tier1, "tier2": self.tier2, "checker": self.checker}


# -- what comes out -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Times:
    """Of live tickets after the warm-up, seconds."""

    mean_s: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class StageFigures:
    tickets: int
    added: Times
    """From the record in the stage's topic to the commit, without the model's time."""
    model_mean_s: float
    inside_mean: float
    """Tickets in the stage, from the topic to the commit: over the whole run, both lanes."""
    waiting_mean: float
    """Of them those that have not begun."""
    waiting_peak: int
    utilisation: Mapping[str, float]
    """Share of the run in which a resource was in use, by resource: of the busiest process or partition, since a mean
    hides one that has more partitions than the others."""


@dataclass(frozen=True, slots=True)
class Figures:
    ended: int
    backfill_ended: int
    seconds: float
    tickets_per_s: float
    """Ended live tickets over the run, the emptying of the queues included."""
    added: Times
    """Over the whole way."""
    stages: Mapping[StageName, StageFigures]
    bottleneck: tuple[StageName, str]
    """Stage and resource with the highest utilisation; of equals the model comes before the slots that wait for it."""


# -- the machinery ------------------------------------------------------------------------------------------------


class StageRun:
    """A stage at work: its processes, and what is counted."""

    def __init__(self, stage: Stage, clock: Clock, network: Network) -> None:
        self.stage, self.clock = stage, clock
        self._fetch_s = network.fetch_s
        self.inside, self.waiting = Level(clock), Level(clock)
        self._queues = queues(stage.model, stage.processes, clock)
        self._processes = [
            Process(
                stage,
                self._queues[number % len(self._queues)],
                clock,
                network.live_objective_s,
                self._finished,
                self.waiting,
            )
            for number in range(stage.processes)
        ]
        self._partitions = {lane: [Partition(lane) for _ in range(stage.partitions)] for lane in LANES}
        self.model_s = 0.0
        self.tickets = 0
        self.added: list[float] = []
        self.send_on: Callable[[Sequence[Ticket]], None] = lambda tickets: None

    def published(self, tickets: Sequence[Ticket]) -> None:
        """Records have become visible on the stage's topic; the next poll has them."""
        self.inside.add(len(tickets))
        self.waiting.add(len(tickets))
        for ticket in tickets:
            ticket.arrived_s = self.clock.now
        if self._fetch_s:
            self.clock.at(self.clock.now + self._fetch_s, self._fetched, tickets)
        else:
            self._fetched(tickets)

    def _fetched(self, tickets: Sequence[Ticket]) -> None:
        touched: dict[Process, None] = {}
        for ticket in tickets:
            number = int(ticket.key * self.stage.partitions)
            process = self._processes[number % len(self._processes)]
            process.take(self._partitions[ticket.lane][number], ticket)
            touched[process] = None
        for process in touched:
            process.dispatch()

    def _finished(self, tickets: Sequence[Ticket]) -> None:
        """A commit is through."""
        self.inside.add(-len(tickets))
        self.tickets += len(tickets)
        for ticket in tickets:
            added = self.clock.now - ticket.arrived_s - ticket.model_s
            ticket.added_s += added
            self.model_s += ticket.model_s
            if ticket.counts:
                self.added.append(added)
        self.send_on(tickets)

    def figures(self, seconds: float) -> StageFigures:
        """After a run of so many seconds."""
        stage = self.stage
        servers = stage.model.cores if isinstance(stage.model, Cores) else 1
        in_use = {
            "model": max(queue.busy_s for queue in self._queues) / servers,
            "loop": max(process.loop_busy_s for process in self._processes),
            "commits": max(p.commits_busy_s for partitions in self._partitions.values() for p in partitions),
            "slots": max(process.held.area for process in self._processes) / stage.in_flight,
        }
        return StageFigures(
            tickets=self.tickets,
            added=times(self.added),
            model_mean_s=self.model_s / max(1, self.tickets),
            inside_mean=self.inside.area / seconds,
            waiting_mean=self.waiting.area / seconds,
            waiting_peak=self.waiting.peak,
            utilisation={resource: busy / seconds for resource, busy in in_use.items()},
        )


def times(values: Sequence[float]) -> Times:
    """Zeros where there are none."""
    if not values:
        return Times(0.0, 0.0, 0.0)
    ordered = sorted(values)
    last = len(ordered) - 1
    return Times(sum(ordered) / len(ordered), ordered[round(last * 0.5)], ordered[round(last * 0.99)])


def simulate(network: Network) -> Figures:
    """Run all tickets to their end. The same network gives the same figures."""
    return Simulation(network).run()


class Simulation:
    """The stages, joined."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.clock = Clock(network.seed)
        self.runs = {n: StageRun(s, self.clock, network) for n, s in network.stages.items()}
        for name, run in self.runs.items():
            run.send_on = partial(self._send_on, name)
        self.added: list[float] = []
        self.ended = dict.fromkeys(LANES, 0)

    def run(self) -> Figures:
        network, clock = self.network, self.clock
        slow = [Ticket(clock.rng.random(), Lane.BACKFILL, counts=False) for _ in range(network.backfill_tickets)]
        if slow:
            self.runs["router"].published(slow)
        clock.at(clock.rng.expovariate(network.tickets_per_s), self._publish, 0)
        clock.run()
        stages = {name: run.figures(clock.now) for name, run in self.runs.items()}
        return Figures(
            ended=self.ended[Lane.LIVE],
            backfill_ended=self.ended[Lane.BACKFILL],
            seconds=clock.now,
            tickets_per_s=self.ended[Lane.LIVE] / clock.now,
            added=times(self.added),
            stages=stages,
            bottleneck=bottleneck(stages),
        )

    def _publish(self, number: int) -> None:
        """A live ticket comes, and the next one is planned."""
        clock, network = self.clock, self.network
        ticket = Ticket(clock.rng.random(), Lane.LIVE, counts=number >= network.warm_up * network.tickets)
        self.runs["router"].published([ticket])
        if number + 1 < network.tickets:
            clock.at(clock.now + clock.rng.expovariate(network.tickets_per_s), self._publish, number + 1)

    def _send_on(self, name: StageName, tickets: Sequence[Ticket]) -> None:
        """A commit's outputs become visible."""
        going: dict[StageName, list[Ticket]] = {}
        for ticket in tickets:
            to = self._next(name, ticket)
            if to is not None:
                going.setdefault(to, []).append(ticket)
                continue
            self.ended[ticket.lane] += 1
            if ticket.counts:
                self.added.append(ticket.added_s)
        for to, those in going.items():
            self.runs[to].published(those)

    def _next(self, name: StageName, ticket: Ticket) -> StageName | None:
        rng, network = self.clock.rng, self.network
        if name == "router":
            ticket.on_tier1 = rng.random() < network.tier1_share
            return "tier1" if ticket.on_tier1 else "tier2"
        if name != "checker":
            return "checker"
        if ticket.on_tier1 and rng.random() < network.refused_share:
            ticket.on_tier1 = False
            return "tier2"
        return None


def bottleneck(stages: Mapping[StageName, StageFigures]) -> tuple[StageName, str]:
    """By utilisation in whole percents, so that slots that are full because their model is don't hide it."""
    shares = [(name, resource, f.utilisation[resource]) for name, f in stages.items() for resource in f.utilisation]
    name, resource, _ = max(shares, key=lambda share: round(share[2], 2))
    return name, resource
