"""Tickets a second of the router's graph: the bare session in several ways, and the worker, on the same batches.

The bare session is given word pieces that were made beforehand, and gives all
outputs. It is measured in every way that could be the fastest, so that the
worker is compared with what onnxruntime can do and not with what it does
by default.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from statistics import mean, median
from typing import Any

from schemas.tickets import Ticket
from workers.router.classifier import OUTPUTS, Classifier, ticket_text
from workers.router.passes import Bucketed
from workers.router.pieces import Inputs, load_tokenizer, padded, tokenise
from workers.router.session import Device, build_session, runtime

Pieces = Sequence[int]
Subject = Callable[[], object]
"""One way through all of the tickets."""
Rates = Mapping[str, Sequence[float]]
"""Tickets a second of each subject, round by round: what stands at one place was measured one after the other."""

WORKER = "worker"
STEADY_S = 0.5
"""Shortest measurement: below it a single pause of the machine shows."""


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Items in the order given, `size` at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def by_rows(batch: Sequence[Pieces], rows: int) -> list[Sequence[Pieces]]:
    """A batch's texts by length, longest first, `rows` to a run."""
    return batches(sorted(batch, key=len, reverse=True), rows)


def by_length(batch: Sequence[Pieces], rows: int) -> list[Sequence[Pieces]]:
    """A batch's texts by length, longest first, those of equal length together, at most `rows` to a run: no padding."""
    groups = groupby(sorted(batch, key=len, reverse=True), key=len)
    return [part for _, group in groups for part in batches(list(group), rows)]


@dataclass(frozen=True, slots=True)
class Load:
    """A model and tickets, batch by batch as the worker gets them."""

    model: bytes
    tickets: Sequence[Ticket]
    texts: Sequence[Sequence[str]]
    pieces: Sequence[Sequence[Pieces]]
    """What the worker makes of the texts."""

    @classmethod
    def of(cls, model: bytes, tickets: Sequence[Ticket], batch_size: int) -> "Load":
        properties = session_of(model, 1).get_modelmeta().custom_metadata_map
        tokenizer, most = load_tokenizer(properties["tokenizer"]), int(properties["max_tokens"])
        texts = [ticket_text(ticket) for ticket in tickets]
        pieces = [tokenise(tokenizer, text, most).ids for text in texts]
        return cls(model, tickets, batches(texts, batch_size), batches(pieces, batch_size))

    def first(self, share: float) -> "Load":
        """A share of its batches."""
        count = max(1, round(len(self.texts) * share))
        size = len(self.texts[0])
        return Load(self.model, self.tickets[: count * size], self.texts[:count], self.pieces[:count])

    @property
    def mean_pieces(self) -> float:
        return mean(len(pieces) for batch in self.pieces for pieces in batch)


@dataclass(frozen=True, slots=True)
class Compared:
    """The worker and every way of the bare session, with the same number of threads."""

    threads: int
    rates: Rates

    @property
    def fastest(self) -> str:
        """The bare session's fastest way, by its median."""
        return max((name for name in self.rates if name != WORKER), key=lambda name: median(self.rates[name]))

    @property
    def worker_vs_session(self) -> float:
        return ratio(self.rates[WORKER], self.rates[self.fastest])


def bare_subjects(load: Load, threads: int) -> dict[str, Subject]:
    """Every way to run the bare session over the batches with so many threads."""
    session = build_session(load.model, "cpu")
    single = [by_rows(batch, 1) for batch in load.pieces]
    equal = [by_length(batch, 8) for batch in load.pieces]
    eights = [by_rows(batch, 8) for batch in load.pieces]
    whole = [by_rows(batch, 32) for batch in load.pieces]
    if threads == 1:
        return {
            "session, one by one": in_turn(session, single),
            "session, equal lengths together": in_turn(session, equal),
            "session, padded by 8": in_turn(session, eights),
            "session, padded by 32": in_turn(session, whole),
        }
    wide = session_of(load.model, threads)
    return {
        "session, one by one, side by side": side_by_side(session, single, threads),
        "session, equal lengths together, side by side": side_by_side(session, equal, threads),
        "session, padded by 8, side by side": side_by_side(session, eights, threads),
        "session, padded by 8, all threads on a run": in_turn(wide, eights),
        "session, padded by 32, all threads on a run": in_turn(wide, whole),
    }


def session_of(model: bytes, threads: int) -> Any:
    """A session with so many threads a run, else as the worker's."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def in_turn(session: Any, runs: Sequence[Sequence[Sequence[Pieces]]]) -> Subject:
    """One run after the other."""
    inputs = [padded(texts) for batch in runs for texts in batch]

    def subject() -> None:
        for each in inputs:
            session.run(OUTPUTS, each)

    return subject


def side_by_side(session: Any, runs: Sequence[Sequence[Sequence[Pieces]]], threads: int) -> Subject:
    """A batch's runs on so many threads; the next batch when the last of them is done, as the worker does."""
    inputs = [[padded(texts) for texts in batch] for batch in runs]
    pool = ThreadPoolExecutor(threads)

    def run(each: Inputs) -> None:
        session.run(OUTPUTS, each)

    def subject() -> None:
        for batch in inputs:
            # It gives nothing; its end is waited for.
            list(pool.map(run, batch))

    return subject


def worker_subject(classifier: Classifier, load: Load) -> Subject:
    """The worker over the same batches, as texts."""

    def subject() -> None:
        for texts in load.texts:
            classifier.classify(texts)

    return subject


def rate(subject: Subject, tickets: int) -> float:
    """Tickets a second, once through."""
    started = time.perf_counter()
    subject()
    return tickets / (time.perf_counter() - started)


def in_turns(subjects: Mapping[str, Subject], tickets: int, rounds: int) -> Rates:
    """The rates of subjects that take turns, each after a turn that doesn't count."""
    for subject in subjects.values():
        subject()
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            rates[name].append(rate(subject, tickets))
    return rates


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of the ratios of what was measured one after the other."""
    return median(a / b for a, b in zip(of, to, strict=True))


def rates_by_length(model: bytes, lengths: Sequence[int], rows: int, device: Device) -> list[float]:
    """Tickets a second for texts of exactly so many word pieces, `rows` to a run: on the CPU on one thread, on a GPU as
    the worker does it.

    Raises: RuntimeError if the GPU can't be had.
    """
    session = build_session(model, device)
    if device == "cpu":
        return [steady_rate(in_turn(session, [[[[0] * length] * rows]]), rows) for length in lengths]
    passes = Bucketed(session, OUTPUTS, max(lengths), device)
    return [steady_rate(partial(passes.run, [[0] * length] * rows, OUTPUTS), rows) for length in lengths]


def steady_rate(subject: Subject, tickets: int) -> float:
    """Tickets a second, the subject done over and over for long enough, the first time not counted."""
    subject()
    times, started = 0, time.perf_counter()
    while time.perf_counter() - started < STEADY_S:
        subject()
        times += 1
    return tickets * times / (time.perf_counter() - started)
