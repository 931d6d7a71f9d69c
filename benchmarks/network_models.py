"""The models of benchmarks/network.py: cores, an engine that its sequences share, a provider with a rate limit.

Each is a frozen value that a benchmark can measure, and a queue that says when a call submitted now will have ended.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from math import inf


@dataclass(frozen=True, slots=True)
class Cores:
    """A model on a process's own cores: the records of a call are worked on side by side, each on one core."""

    cores: int
    record_s: float
    cv: float = 0.0
    """Coefficient of variation of a record's time: 0 is fixed, 1 exponential (a gamma distribution)."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A process's tier-1 engine with continuous batching: its sequences share one rate, and each has a ceiling."""

    slots: int
    tokens_per_s: float
    sequence_tokens_per_s: float
    tokens: float
    """Of one answer, on average."""
    cv: float = 0.0


@dataclass(frozen=True, slots=True)
class Provider:
    """An API: each call takes its latency, and begins no sooner than the rate of all processes together allows."""

    latency_s: float
    cv: float = 0.0
    calls_per_s: float = inf


Model = Cores | Engine | Provider


class Clock:
    """The events to come, by time; those of one moment in the order in which they were planned."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._planned = 0

    def at(self, time_s: float, action: Callable[..., None], *args: object) -> None:
        self._planned += 1
        heappush(self._events, (time_s, self._planned, action, args))

    def run(self) -> None:
        while self._events:
            self.now, _, action, args = heappop(self._events)
            action(*args)

    def draw(self, mean: float, cv: float) -> float:
        return mean if not cv else self.rng.gammavariate(1 / cv**2, mean * cv**2)


Ended = Callable[[float], None]
"""Called when a call ends, with its time at the model in seconds."""


class CoreQueue:
    """One process's cores; records wait for the next free one in their order."""

    def __init__(self, model: Cores, clock: Clock) -> None:
        self._model, self._clock = model, clock
        self._free_at = [0.0] * model.cores
        self.busy_s = 0.0

    def submit(self, records: int, ended: Ended) -> None:
        clock, model = self._clock, self._model
        begins, end = max(clock.now, self._free_at[0]), 0.0
        for _ in range(records):
            took = clock.draw(model.record_s, model.cv)
            ends = max(clock.now, self._free_at[0]) + took
            heapreplace(self._free_at, ends)
            self.busy_s += took
            end = max(end, ends)
        clock.at(end, ended, end - begins)


class ProviderQueue:
    """One provider for all processes: calls are paced in their order."""

    def __init__(self, model: Provider, clock: Clock) -> None:
        self._model, self._clock = model, clock
        self._next_s = 0.0
        self.busy_s = 0.0

    def submit(self, _records: int, ended: Ended) -> None:
        clock, model = self._clock, self._model
        begins = max(clock.now, self._next_s)
        self._next_s = begins + 1 / model.calls_per_s
        self.busy_s += 1 / model.calls_per_s
        took = clock.draw(model.latency_s, model.cv)
        clock.at(begins + took, ended, took)


class SharedEngine:
    """One process's engine: processor sharing. A sequence ends when every running one has had so many tokens more."""

    def __init__(self, model: Engine, clock: Clock) -> None:
        self._model, self._clock = model, clock
        self._running: list[tuple[float, int, float, Ended]] = []
        """Served tokens at its end, order, when it began, whom to tell."""
        self._queue: deque[tuple[float, Ended]] = deque()
        self._served = self._since = self.busy_s = 0.0
        self._count = self._version = 0

    def submit(self, _records: int, ended: Ended) -> None:
        self._queue.append((self._clock.draw(self._model.tokens, self._model.cv), ended))
        self._advance()

    def _rate(self) -> float:
        """Tokens a second of each running sequence."""
        model = self._model
        return min(model.sequence_tokens_per_s, model.tokens_per_s / max(1, len(self._running)))

    def _advance(self) -> None:
        """Serve until now, admit what has room, and plan the next end."""
        clock = self._clock
        tokens = (clock.now - self._since) * self._rate()
        self._served += tokens
        self.busy_s += tokens * len(self._running) / self._model.tokens_per_s
        self._since = clock.now
        while self._queue and len(self._running) < self._model.slots:
            tokens, ended = self._queue.popleft()
            self._count += 1
            heappush(self._running, (self._served + tokens, self._count, clock.now, ended))
        if self._running:
            self._version += 1
            left = max(0.0, self._running[0][0] - self._served)
            clock.at(clock.now + left / self._rate(), self._end, self._version)

    def _end(self, version: int) -> None:
        """The first sequence is through, unless the plan has changed meanwhile."""
        if version != self._version:
            return
        # The rate of those that ran until now, the ending one included.
        tokens, running = self._running[0][0] - self._served, len(self._running)
        self.busy_s += tokens * running / self._model.tokens_per_s
        self._served, self._since = self._running[0][0], self._clock.now
        _, _, began, ended = heappop(self._running)
        self._advance()
        ended(self._clock.now - began)


Queue = CoreQueue | ProviderQueue | SharedEngine


def queues(model: Model, processes: int, clock: Clock) -> Sequence[Queue]:
    """One a process; the provider is one for all."""
    match model:
        case Cores():
            return [CoreQueue(model, clock) for _ in range(processes)]
        case Engine():
            return [SharedEngine(model, clock) for _ in range(processes)]
        case Provider():
            return [ProviderQueue(model, clock)]
