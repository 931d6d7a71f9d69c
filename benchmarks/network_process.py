"""One process of a simulated stage: what streams/runtime/dispatcher.py and partition.py do, without their failures."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.network_models import Clock, Model, Queue
from streams.runtime.lanes import Lane, backfill_room
from streams.runtime.partition import COMMIT_RECORDS

LANES = (Lane.LIVE, Lane.BACKFILL)
SINGLES = 32
"""As streams/runtime/dispatcher.py: records of one partition that begin in its turn where each is a call of its own."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's deployment; `in_flight` and `batch_size` are of a process, as in its settings."""

    model: Model
    partitions: int = 16
    processes: int = 1
    in_flight: int = 64
    batch_size: int = 1
    loop_s: float = 0.0
    """The event loop's time for a record: taking it in, deciding, building and sending what follows."""
    commit_s: float = 0.0
    """A transaction's round trips."""

    @property
    def max_calls(self) -> int:
        """As the runtime's `Stage.max_calls`."""
        return max(1, self.in_flight // self.batch_size)


class Level:
    """A number over time: its integral and its peak."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.value = self.peak = 0
        self.area = self._since = 0.0

    def add(self, change: int) -> None:
        now = self._clock.now
        self.area += self.value * (now - self._since)
        self._since = now
        self.value += change
        self.peak = max(self.peak, self.value)


class Ticket:
    """On its way."""

    __slots__ = ("added_s", "arrived_s", "counts", "key", "lane", "model_s", "on_tier1")

    def __init__(self, key: float, lane: Lane, counts: bool) -> None:
        self.key = key
        """Uniform on 0 to 1: which partition of any topic."""
        self.lane = lane
        self.counts = counts
        self.on_tier1 = False
        self.arrived_s = self.model_s = self.added_s = 0.0


class Partition:
    """Of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.waiting: deque[Ticket] = deque()
        self.settled: list[Ticket] = []
        self.committing = False
        self.commits_busy_s = 0.0


class Process:
    """Its partitions are whoever's records it takes; `finished` hears of every commit."""

    def __init__(
        self,
        stage: Stage,
        queue: Queue,
        clock: Clock,
        live_objective_s: float,
        finished: Callable[[Sequence[Ticket]], None],
        waiting: Level,
    ) -> None:
        """`waiting` is of all processes of the stage together."""
        self.held = Level(clock)
        self.loop_busy_s = 0.0
        self._stage, self._queue, self._clock = stage, queue, clock
        self._live_objective_s = live_objective_s
        self._finished, self._stage_waiting = finished, waiting
        self._turn: dict[Lane, deque[Partition]] = {lane: deque() for lane in LANES}
        """Partitions with waiting records."""
        self._waiting = dict.fromkeys(LANES, 0)
        self._held = dict.fromkeys(LANES, 0)
        self._calls = 0
        self._loop_free_s = 0.0
        self._unfinished: dict[Ticket, None] = {}
        """Live tickets, oldest first."""

    def take(self, partition: Partition, ticket: Ticket) -> None:
        """A record has been fetched."""
        if not partition.waiting:
            self._turn[partition.lane].append(partition)
        partition.waiting.append(ticket)
        self._waiting[partition.lane] += 1
        if partition.lane is Lane.LIVE:
            self._unfinished[ticket] = None

    def dispatch(self) -> None:
        """Begin as much as may begin now: live, then backfill with what is left over."""
        stage = self._stage
        self._begin(Lane.LIVE, self._room(stage.max_calls))
        if self._waiting[Lane.BACKFILL]:
            room = backfill_room(
                max_in_flight=stage.in_flight,
                live_in_flight=self._held[Lane.LIVE],
                backfill_in_flight=self._held[Lane.BACKFILL],
                live_waiting=self._waiting[Lane.LIVE],
                oldest_live_s=max((self._clock.now - t.arrived_s for t in self._oldest()), default=0.0),
                objective_s=self._live_objective_s,
                loop_late_s=max(0.0, self._loop_free_s - self._clock.now),
            )
            self._begin(Lane.BACKFILL, min(room, self._room(max(1, stage.max_calls - 1))))

    def _oldest(self) -> Sequence[Ticket]:
        return [next(iter(self._unfinished))] if self._unfinished else []

    def _room(self, max_calls: int) -> int:
        stage = self._stage
        free = stage.in_flight - self.held.value
        return max(0, min(free, (max_calls - self._calls) * stage.batch_size))

    def _begin(self, lane: Lane, room: int) -> None:
        size, turn, works = self._stage.batch_size, self._turn[lane], list[tuple[Partition, Ticket]]()
        while turn and len(works) < room:
            partition = turn.popleft()
            share = size - len(works) % size if size > 1 else SINGLES
            for _ in range(min(share, room - len(works), len(partition.waiting))):
                works.append((partition, partition.waiting.popleft()))
            if partition.waiting:
                turn.append(partition)
        self._waiting[lane] -= len(works)
        self._held[lane] += len(works)
        self._stage_waiting.add(-len(works))
        self.held.add(len(works))
        for start in range(0, len(works), size):
            batch = works[start : start + size]
            self._calls += 1
            self._queue.submit(len(batch), partial(self._ended, batch))

    def _ended(self, batch: Sequence[tuple[Partition, Ticket]], model_s: float) -> None:
        self._calls -= 1
        for partition, ticket in batch:
            ticket.model_s = model_s
            partition.settled.append(ticket)
        for partition, _ in batch:
            if not partition.committing:
                self._commit(partition)
        self.dispatch()

    def _commit(self, partition: Partition) -> None:
        """One transaction of what has settled; the next waits for its end."""
        tickets = partition.settled[:COMMIT_RECORDS]
        if not tickets:
            return
        partition.settled = partition.settled[COMMIT_RECORDS:]
        partition.committing = True
        stage, now = self._stage, self._clock.now
        self._loop_free_s = max(now, self._loop_free_s) + len(tickets) * stage.loop_s
        end = self._loop_free_s + stage.commit_s
        self.loop_busy_s += len(tickets) * stage.loop_s
        partition.commits_busy_s += end - now
        self._clock.at(end, self._committed, partition, tickets)

    def _committed(self, partition: Partition, tickets: Sequence[Ticket]) -> None:
        partition.committing = False
        self._held[partition.lane] -= len(tickets)
        self.held.add(-len(tickets))
        for ticket in tickets:
            self._unfinished.pop(ticket, None)
        self._finished(tickets)
        self._commit(partition)
        self.dispatch()
