"""What 1,000, 10,000 and 100,000 tickets a second take: partitions, processes, GPUs, brokers, dollars.

    make bench NAME=scale

Prints the tables of docs/scale.md, which says where each number below is from, and ends with one line of JSON.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from benchmarks.network import Network, simulate
from benchmarks.network_models import Cores, Engine, Provider
from benchmarks.network_process import Stage
from benchmarks.scale_records import examples, sizes, tokens
from schemas.topics import TOPICS, all_names

RATES = (1_000, 10_000, 100_000)
BUSY = 0.6
"""Of anything, at the rate that it is planned for (assumed): the rest is for peaks, and for uneven partitions."""

# Measured here (docs/figures.md).
ROUTER_PER_CORE_S = 26.8
"""Tickets of 64 word pieces, a second and thread."""
CHECKER_TO_ROUTER = 2.1
"""Its processor time for a draft, to the router's for the ticket."""
LOOP_S = 44e-6
COMMIT_S = 0.003
TIER2_USD = 0.299 / (20 / 120) / 1_000
"""A call, in `make demo`: of the tickets that tier-1 is not let answer, which are the longer ones."""
SHIPPED = 0.75
"""Of the tickets, answered by tier-1."""
SCOREBOARD_EVENTS_S = 1_000
SEEN_BYTES, SEEN_LIMIT = 300, 100_000
SPEND_STEP_S = 30e-3 / 5_000 + 4e-6
"""To apply one step, and to fetch it."""

# Published.
ENGINE_TOKENS_S = 12_450.0 * 4
"""An H100, prompt and answer: four times what an 8B model has (the factor is assumed)."""
TIER_CALLS_MIN = 4_000
BROKER_MB_S = 500 / 15
BROKER_REPLICAS = 1_000

# Assumed.
TRIED = 0.8
"""Of the tickets, on tier-1: so one draft in sixteen is refused."""
TIER2_S = 3.0
TIER2_IN_FLIGHT = 256
AUDITED, JUDGE_USD = 0.02, 0.002
CORES = 8
"""Of a router or checker process."""
CORE_USD_H, GPU_USD_H, BROKER_USD_H, DISK_USD_GB = 0.05, 3.0, 0.42, 0.10
MONTH_H = 720
REPLICATION = 3
ENGINE_SLOTS = 256
SEQUENCE_TOKENS_S = 500.0

Table = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate of tickets takes. `bytes_of` and `tokens_of` are what scale_records measures."""

    tickets_s: float
    bytes_of: Mapping[str, int]
    tokens_of: Mapping[str, int]

    @property
    def tier1_s(self) -> float:
        return self.tickets_s * TRIED

    @property
    def tier2_s(self) -> float:
        return self.tickets_s * (1 - SHIPPED)

    @property
    def drafts_s(self) -> float:
        return self.tier1_s + self.tier2_s

    @property
    def events_s(self) -> float:
        """One of the router's for a ticket, one of the tier's and one of the checker's for a draft; the judge's."""
        return self.tickets_s * (1 + AUDITED) + 2 * self.drafts_s

    @property
    def router_processes(self) -> int:
        return ceil(self.tickets_s / ROUTER_PER_CORE_S / BUSY / CORES)

    @property
    def checker_processes(self) -> int:
        return ceil(self.drafts_s / ROUTER_PER_CORE_S * CHECKER_TO_ROUTER / BUSY / CORES)

    @property
    def gpus(self) -> int:
        """And tier-1 processes: one engine each."""
        return ceil(self.tier1_s * (self.tokens_of["tier1"] + self.tokens_of["answer"]) / ENGINE_TOKENS_S / BUSY)

    @property
    def tier2_processes(self) -> int:
        return ceil(self.tier2_s * TIER2_S / TIER2_IN_FLIGHT / BUSY)

    @property
    def processes(self) -> Sequence[int]:
        return (self.router_processes, self.gpus, self.tier2_processes, self.checker_processes)

    @property
    def partitions(self) -> int:
        """One count for all topics, four for each process of the largest stage, in eights: then the busiest process
        has a quarter more than the mean at most."""
        return 8 * ceil(4 * max(self.processes) / 8)

    @property
    def replicas(self) -> int:
        """Of partitions, over all topics."""
        counts = [self.partitions if topic.partitions is None else topic.partitions for topic in all_names().values()]
        return sum(counts) * REPLICATION

    @property
    def cores(self) -> int:
        """Of the stages; one for each process without a model of its own, or with a GPU."""
        return CORES * (self.router_processes + self.checker_processes) + self.tier2_processes + self.gpus

    def bytes_s(self, topic: str) -> float:
        """Written, before replication."""
        rate = {
            "tickets": self.tickets_s,
            "tier1, tier2": self.drafts_s,
            "drafts": self.drafts_s,
            "answers": self.tickets_s,
            "events": self.events_s,
            "audits": self.tickets_s * AUDITED,
            "seen": self.tickets_s,
            "spend": 2 * self.calls_s,
        }[topic]
        return rate * self.bytes_of[topic]

    @property
    def calls_s(self) -> float:
        """Paid ones: tier-2's and the judge's."""
        return self.tier2_s + self.tickets_s * AUDITED

    @property
    def written_mb_s(self) -> float:
        return sum(self.bytes_s(topic) for topic in self.bytes_of) / 1e6

    def disk_gb(self, topic: str) -> float:
        """With all copies, when the topic is as old as it gets."""
        kept_s = next(t.retention_ms for t in TOPICS if t.name == topic.split(", ")[0]) / 1000
        return self.bytes_s(topic) * kept_s * REPLICATION / 1e9

    @property
    def brokers(self) -> int:
        return max(3, ceil(self.written_mb_s / BROKER_MB_S / BUSY), ceil(self.replicas / BROKER_REPLICAS))

    @property
    def usd(self) -> Mapping[str, float]:
        """A month."""
        month_s = MONTH_H * 3600
        return {
            "tier-2's provider": self.tier2_s * TIER2_USD * month_s,
            "judge (the same provider)": self.tickets_s * AUDITED * JUDGE_USD * month_s,
            "GPUs": self.gpus * GPU_USD_H * MONTH_H,
            "cores of the stages": self.cores * CORE_USD_H * MONTH_H,
            "brokers": self.brokers * BROKER_USD_H * MONTH_H,
            "disks": sum(self.disk_gb(topic) for topic in self.bytes_of) * DISK_USD_GB,
        }

    @property
    def spend_share(self) -> float:
        """Of each tier-2 process's one loop, to read everybody's steps."""
        return 2 * self.calls_s * SPEND_STEP_S


def record_table(plan: Plan) -> Table:
    """Bytes of a record; what the first rate writes and keeps of them."""
    return [
        (topic, (f"{size:,}", f"{plan.bytes_s(topic) / 1e6:.2f}", f"{plan.disk_gb(topic) / 1000:.2f}"))
        for topic, size in plan.bytes_of.items()
    ]


def _rows(plans: Sequence[Plan], rows: Mapping[str, Callable[[Plan], str]]) -> Table:
    return [(name, [value(plan) for plan in plans]) for name, value in rows.items()]


def size_table(plans: Sequence[Plan]) -> Table:
    """What is to be had."""
    return _rows(
        plans,
        {
            "partitions of each topic": lambda p: f"{p.partitions:,}",
            "router processes of 8 cores": lambda p: f"{p.router_processes:,}",
            "tier-1 processes, a GPU each": lambda p: f"{p.gpus:,}",
            "tier-2 processes, 256 in flight each": lambda p: f"{p.tier2_processes:,}",
            "checker processes of 8 cores": lambda p: f"{p.checker_processes:,}",
            "cores of all stages": lambda p: f"{p.cores:,}",
            "written to Kafka, MB/s": lambda p: f"{p.written_mb_s:,.0f}",
            "partition replicas": lambda p: f"{p.replicas:,}",
            "brokers": lambda p: f"{p.brokers:,}",
            "disk with three copies, TB": lambda p: f"{sum(map(p.disk_gb, p.bytes_of)) / 1000:,.0f}",
        },
    )


def money_table(plans: Sequence[Plan]) -> Table:
    """Thousands of dollars a month."""
    rows: dict[str, Callable[[Plan], str]] = {
        part: lambda p, part=part: f"{p.usd[part] / 1000:,.0f}"  # type: ignore[misc]
        for part in plans[0].usd
    }
    rows["all"] = lambda p: f"{sum(p.usd.values()) / 1000:,.0f}"
    rows["share of the provider"] = lambda p: f"{sum(list(p.usd.values())[:2]) / sum(p.usd.values()):.0%}"
    return _rows(plans, rows)


def limit_table(plans: Sequence[Plan]) -> Table:
    """Where a provider or our own design ends."""
    return _rows(
        plans,
        {
            "provider: requests a minute": lambda p: f"{p.calls_s * 60:,.0f}",
            "... to the largest published tier's": lambda p: f"{p.calls_s * 60 / TIER_CALLS_MIN:,.1f}",
            "provider: input tokens a minute, millions, the cached system prompt left out": lambda p: (
                f"{p.calls_s * 60 * p.tokens_of['tier2'] / 1e6:,.1f}"
            ),
            "provider: output tokens a minute, millions": lambda p: (
                f"{p.calls_s * 60 * p.tokens_of['answer'] / 1e6:,.1f}"
            ),
            "calls in flight": lambda p: f"{p.tier2_s * TIER2_S:,.0f}",
            "events a second": lambda p: f"{p.events_s:,.0f}",
            "... to what the scoreboard counts": lambda p: f"{p.events_s / SCOREBOARD_EVENTS_S:,.1f}",
            "`spend`: steps a second in its one partition": lambda p: f"{2 * p.calls_s:,.0f}",
            "... of each tier-2 process's loop": lambda p: f"{p.spend_share:.1%}",
            "... of all of them, cores": lambda p: f"{p.spend_share * p.tier2_processes:,.2f}",
            "memory of a day's tickets, GB": lambda p: f"{p.tickets_s * 86_400 * SEEN_BYTES / 1e9:,.0f}",
            "`kafka.dedupe_limit` remembers, minutes": lambda p: f"{SEEN_LIMIT * p.partitions / p.tickets_s / 60:,.0f}",
        },
    )


def network(plan: Plan, tickets: int) -> Network:
    """The plan as a network to simulate."""
    work = {"partitions": plan.partitions, "loop_s": LOOP_S, "commit_s": COMMIT_S}
    answer = float(plan.tokens_of["answer"])
    # The engine's rate in tokens of answers: a prompt takes its share of the same time.
    engine_tokens_s = ENGINE_TOKENS_S * answer / (answer + plan.tokens_of["tier1"])
    router = Stage(Cores(CORES, 1 / ROUTER_PER_CORE_S), processes=plan.router_processes, batch_size=32, **work)  # type: ignore[arg-type]
    return Network(
        router=router,
        tier1=replace(
            router,
            model=Engine(ENGINE_SLOTS, engine_tokens_s, SEQUENCE_TOKENS_S, answer, cv=0.5),
            processes=plan.gpus,
            in_flight=ENGINE_SLOTS,
            batch_size=1,
        ),
        tier2=replace(
            router,
            model=Provider(TIER2_S, cv=0.5),
            processes=plan.tier2_processes,
            in_flight=TIER2_IN_FLIGHT,
            batch_size=1,
        ),
        checker=replace(
            router,
            model=Cores(CORES, CHECKER_TO_ROUTER / ROUTER_PER_CORE_S),
            processes=plan.checker_processes,
        ),
        tickets_per_s=plan.tickets_s,
        tickets=tickets,
        tier1_share=TRIED,
        refused_share=1 - SHIPPED / TRIED,
        fetch_s=0.001,
    )


def simulated_table(of: Network, backfill: int) -> Table:
    """The plan's own load, the same beside a backfill, and too much."""
    runs = {
        "as planned": of,
        "a backfill beside": replace(of, backfill_tickets=backfill),
        "1.5 times the tickets": replace(of, tickets_per_s=1.5 * of.tickets_per_s),
        "twice the tickets": replace(of, tickets_per_s=2 * of.tickets_per_s),
    }
    rows = []
    for name, run in runs.items():
        f = simulate(run)
        added = [f"{f.added.p50_s * 1000:,.0f}", f"{f.added.p99_s * 1000:,.0f}"]
        by_stage = [f"{stage.added.p99_s * 1000:,.0f}" for stage in f.stages.values()]
        rows.append((name, [*added, *by_stage, " ".join(f.bottleneck)]))
    return rows


def markdown(head: Sequence[str], table: Table) -> str:
    """As docs/scale.md has it."""
    lines = [head, ["---"] * len(head), *((name, *cells) for name, cells in table)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(plans: Sequence[Plan], tickets: int, backfill: int) -> Mapping[str, str]:
    """All tables, by what they are about."""
    rates = [f"{p.tickets_s:,.0f}/s" for p in plans]
    stages = ["router p99", "tier1 p99", "tier2 p99", "checker p99"]
    return {
        "records": markdown(["topic", "bytes", "MB/s at 1,000/s", "TB kept at 1,000/s"], record_table(plans[0])),
        "what it takes": markdown(["", *rates], size_table(plans)),
        "thousands of dollars a month": markdown(["", *rates], money_table(plans)),
        "limits": markdown(["", *rates], limit_table(plans)),
        "simulated, ms added at 1,000/s": markdown(
            ["", "p50", "p99", *stages, "busiest"], simulated_table(network(plans[0], tickets), backfill)
        ),
    }


def plans() -> Sequence[Plan]:
    """One a rate."""
    of = examples()
    bytes_of, tokens_of = sizes(of), tokens(of)
    return [Plan(rate, bytes_of, tokens_of) for rate in RATES]


SIMULATED, BACKFILL = 6_000, 3_000
"""Tickets of each simulated run."""


def main() -> None:
    """Print."""
    planned = plans()
    for title, table in tables(planned, SIMULATED, BACKFILL).items():
        print(f"\n{title}\n\n{table}")
    figures = {
        f"{name}_{p.tickets_s:.0f}": value
        for p in planned
        for name, value in {
            "partitions": p.partitions,
            "cores": p.cores,
            "gpus": p.gpus,
            "brokers": p.brokers,
            "usd_per_month": round(sum(p.usd.values())),
        }.items()
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
