"""The router's speed: the bare onnxruntime session, the worker on texts, and the whole stage on real Kafka.

    make bench NAME=router_speed
    make bench NAME=router_speed ARGS="--fp32 FILE"
    make bench NAME=router_speed ARGS="--device cuda --fp32 FILE --fp16 FILE"

One run, the same tickets for all, the subjects in turns, medians of the ratios
of what was measured one after the other. The stage has one thread for the
graph and is compared with the bare session on one: the second core of a small
machine is left to the broker, the reader and the stage's own event loop. With
--device cuda it measures only the graphs on the GPU. The last line is JSON.
"""

import argparse
import asyncio
import gzip
import json
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median, quantiles

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import router_sessions as sessions
from benchmarks import router_stage
from benchmarks.router_sessions import Compared, Load
from schemas.tickets import Ticket, TicketId
from streams.local.embedded_kafka import EmbeddedKafka
from streams.settings import RouterSettings
from workers.learning.company import as_ticket, load_company
from workers.router.classifier import Classifier
from workers.router.cores import usable_cores
from workers.router.session import Device

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
FOLDER = Path(".headgate/bench/router_speed").resolve()
BATCH = RouterSettings().batch_size
TRIAL = 4 * BATCH
"""Tickets that tell roughly how many fill a measurement's time."""
SHARE = 0.125
"""Of those, what every way of the session reads: there are many, and they take many turns."""
LENGTHS = (16, 64, 128, 256)
GPU_LENGTHS, GPU_ROWS = (64, 128), (1, 32, 64)
PER_S, LATENCIES = 10.0, 300
"""Tickets a second of the low load, and how many are measured: above p99 there are three."""

console = Console(width=120, highlight=False)


class _Row(msgspec.Struct):
    """A line of the shared tickets."""

    ticket_id: TicketId
    body: str
    subject: str | None = None
    language: str = ""

    @property
    def ticket(self) -> Ticket:
        return Ticket(ticket_id=self.ticket_id, body=self.body, subject=self.subject or "", language=self.language)


def load_tickets(path: Path) -> list[Ticket]:
    """The tickets of that file, or the example company's where it isn't there, in an order drawn once."""
    if path.is_file():
        console.print(f"tickets: {path}")
        with gzip.open(path) as lines:
            rows = [msgspec.json.decode(line, type=_Row) for line in lines]
        tickets = [row.ticket for row in rows]
    else:
        console.print(f"tickets: the example company's, test split, for there is no {path}")
        tickets = [as_ticket(example) for example in load_company(FERNWAY).split("test")]
    random.Random(0).shuffle(tickets)
    return tickets


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, took_ms: Sequence[float]) -> "Latency":
        cuts = quantiles(took_ms, n=100, method="inclusive")
        return cls(cuts[49], cuts[98])


@dataclass(frozen=True, slots=True)
class OnKafka:
    """The stage, run by run, and the bare session on one thread before and after each."""

    runs: Sequence[router_stage.StageRun]
    bare_per_s: Sequence[float]
    """One more than there are runs."""
    bare_cpu_us: float
    """Its processor time for a ticket."""
    latency: Latency

    @property
    def rates(self) -> list[float]:
        return [run.tickets_per_s for run in self.runs]

    @property
    def stage_vs_session(self) -> float:
        return sessions.ratio(self.rates, [(a + b) / 2 for a, b in pairwise(self.bare_per_s)])


def compare(load: Load, classifier: Classifier, threads: int, rounds: int) -> Compared:
    """The worker and every way of the bare session, in turns, with so many threads."""
    subjects = sessions.bare_subjects(load, threads)
    subjects[sessions.WORKER] = sessions.worker_subject(classifier, load)
    return Compared(threads, sessions.in_turns(subjects, len(load.tickets), rounds))


async def measure_stage(setup: router_stage.Setup, load: Load, way: str, rounds: int) -> OnKafka:
    """The stage over the tickets; `way` is the bare session's fastest on one thread."""
    bare, count = sessions.bare_subjects(load, 1)[way], len(load.tickets)
    bare()
    started_s = time.process_time()
    bare_per_s = [sessions.rate(bare, count)]
    bare_cpu_us = (time.process_time() - started_s) / count * 1e6
    runs = []
    for number in range(rounds):
        runs.append(await router_stage.measure_rate(setup, f"rate-{number}-", load.tickets))
        bare_per_s.append(sessions.rate(bare, count))
    took_ms = await router_stage.measure_latency(setup, "latency-", load.tickets, PER_S, LATENCIES)
    return OnKafka(runs, bare_per_s, bare_cpu_us, Latency.of(took_ms))


def alone(classifier: Classifier, load: Load) -> Latency:
    """The classifier's latency, one ticket at a time."""
    took_ms = []
    for text in islice(cycle(text for batch in load.texts for text in batch), LATENCIES):
        started = time.perf_counter()
        classifier.classify([text])
        took_ms.append((time.perf_counter() - started) * 1000)
    return Latency.of(took_ms)


def rates_table(compared: Sequence[Compared], on_kafka: OnKafka) -> Table:
    """What is compared, for a reader."""
    made = Table("subject", "threads", "tickets/s", "lowest", "highest", "of the fastest session")

    def row(name: str, threads: int, rates: Sequence[float], share: float) -> None:
        numbers = (f"{value:.1f}" for value in (median(rates), min(rates), max(rates)))
        made.add_row(name, str(threads), *numbers, f"{share:.3f}")

    for each in compared:
        for name, rates in each.rates.items():
            row(name, each.threads, rates, sessions.ratio(rates, each.rates[each.fastest]))
        made.add_section()
    row("the same session, around the stage's runs", 1, on_kafka.bare_per_s, 1.0)
    row("stage on Kafka", 1, on_kafka.rates, on_kafka.stage_vs_session)
    return made


def lengths_table(graphs: Mapping[str, Path], device: Device) -> Table:
    """Tickets a second by length, for each graph: on one thread one by one, on a GPU in batches."""
    lengths, sizes = (GPU_LENGTHS, GPU_ROWS) if device == "cuda" else (LENGTHS, (1,))
    made = Table(f"tickets/s, {device}", "batch", *(f"{length} word pieces" for length in lengths))
    for name, path in graphs.items():
        for size in sizes:
            rates = sessions.rates_by_length(path.read_bytes(), lengths, size, device)
            made.add_row(name, str(size), *(f"{rate:.1f}" for rate in rates))
    return made


def measure(model: Path, tickets: Sequence[Ticket], seconds: float, usd_per_hour: float) -> dict[str, float]:
    """Everything on the CPU; what the last line says."""
    started = time.perf_counter()
    classifier = Classifier(model, threads=1)
    load_s = time.perf_counter() - started
    data = model.read_bytes()
    trial = Load.of(data, list(islice(cycle(tickets), TRIAL)), BATCH)
    per_s = sessions.rate(sessions.worker_subject(classifier, trial), TRIAL)
    load = Load.of(data, list(islice(cycle(tickets), max(4, round(per_s * seconds / BATCH)) * BATCH)), BATCH)
    part = load.first(SHARE)

    cores = usable_cores()
    one = compare(part, classifier, 1, rounds=7)
    every = compare(part, Classifier(model, threads=cores), cores, rounds=7) if cores > 1 else one
    by_itself = alone(classifier, load)
    with EmbeddedKafka(FOLDER / "kafka", load=True) as kafka:
        setup = router_stage.Setup(kafka.bootstrap_servers, FERNWAY / "headgate.toml", model, 1, FOLDER)
        on_kafka = asyncio.run(measure_stage(setup, load, one.fastest, rounds=3))
    shutil.rmtree(FOLDER / "kafka")

    console.print(rates_table([one, every] if cores > 1 else [one], on_kafka))
    tickets_per_s = median(on_kafka.rates)
    last = on_kafka.runs[-1]
    figures = {
        "worker_vs_session": round(every.worker_vs_session, 3),
        "worker_vs_session_one_thread": round(one.worker_vs_session, 3),
        "stage_vs_session": round(on_kafka.stage_vs_session, 3),
        "p50_ms": round(on_kafka.latency.p50_ms, 1),
        "p99_ms": round(on_kafka.latency.p99_ms, 1),
        "classifier_p50_ms": round(by_itself.p50_ms, 1),
        "classifier_p99_ms": round(by_itself.p99_ms, 1),
        "usd_per_ticket": float(f"{usd_per_hour / 3600 / tickets_per_s:.2g}"),
        "tickets_per_s": round(tickets_per_s, 1),
        "worker_tickets_per_s": round(median(every.rates[sessions.WORKER]), 1),
        "session_cpu_us": round(on_kafka.bare_cpu_us),
        "stage_cpu_us": round(median(run.cpu_us_per_ticket for run in on_kafka.runs)),
        "stage_waited_us": round(median(run.waited_us_per_ticket for run in on_kafka.runs)),
        "rss_mib": round(last.rss_mib),
        "load_s": round(load_s, 2),
        "start_s": round(last.start_s, 2),
        "word_pieces_mean": round(load.mean_pieces, 1),
        "tickets": len(load.tickets),
        "cores": cores,
    }
    console.print(
        f"processor time a ticket: session {figures['session_cpu_us']} us, stage {figures['stage_cpu_us']} us; "
        f"the stage waited {figures['stage_waited_us']} us more for a core: much means a busy machine\n"
        f"a ticket through the stage at {PER_S:g}/s: p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms; "
        f"through the classifier alone: {figures['classifier_p50_ms']} and {figures['classifier_p99_ms']} ms\n"
        f"the stage takes {figures['rss_mib']} MiB, its model {figures['load_s']} s to load, its start until the first "
        f"ticket is routed {figures['start_s']} s\n"
        f"a ticket costs ${figures['usd_per_ticket']:.2g} on this machine at ${usd_per_hour:g} an hour, "
        "the broker on it and one thread for the graph"
    )
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shared data sets")
    parser.add_argument(
        "--model", type=Path, default=FERNWAY / "router" / "model.onnx", help="the graph that is served"
    )
    parser.add_argument("--fp32", type=Path, help="the same graph in fp32, for the rates by length")
    parser.add_argument("--fp16", type=Path, help="the same graph in fp16, for the rates by length")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: only rates by length")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement; all take about 30 times that")
    parser.add_argument("--usd-per-hour", type=float, default=0.10, help="price of the machine")
    args = parser.parse_args()
    graphs = {"served": args.model, "fp32": args.fp32, "fp16": args.fp16}
    try:
        lengths = lengths_table({name: path for name, path in graphs.items() if path}, args.device)
    except RuntimeError as exc:
        sys.exit(f"router_speed: {exc}")
    if args.device == "cuda":
        console.print(lengths)
        return
    # Its retries are expected here (a new partition's first leader), and it logs each.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    started = time.monotonic()
    busy = os.getloadavg()[0]
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    tickets = load_tickets(args.data / "tickets" / "tickets.jsonl.gz")
    figures = measure(args.model.resolve(), tickets, args.seconds, args.usd_per_hour)
    console.print(lengths)
    console.print(f"{time.monotonic() - started:.0f} s; the load average before it began was {busy:.1f}")
    print(json.dumps(figures | {"load_before": round(busy, 2)}))


if __name__ == "__main__":
    main()
