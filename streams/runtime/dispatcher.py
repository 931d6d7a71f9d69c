"""What a process begins next: waiting records become calls of the handler as slots come free.

One loop turn at a time and without awaits, so that every decision sees a
consistent state. Retries whose time has come go first, then live records, then
parked ones that are due, then backfill with what is left over.

A slot is taken when a record begins and freed when its commit is through: slots
in use are at the same time the records, and so the paid calls, that a crash
would do again.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from streams.runtime import metrics, offsets
from streams.runtime.attempt import after, handled
from streams.runtime.headers import Parked
from streams.runtime.lanes import Lane, backfill_room
from streams.runtime.messages import Settled
from streams.runtime.partition import Partition, Work
from streams.runtime.stage import DeadLetter, Done, Result, Stage
from streams.settings import KafkaSettings
from workers.retry import Retry

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()

PARK_S = 30.0
"""How long a parked record rests at least: long enough for the partition to move on (a guess)."""
SATURATED_POLL_S = 0.05
"""How soon a saturated worker is asked again when nothing else happens."""


class Dispatcher(Generic[T]):
    """All partitions of this process, and the calls of its handler."""

    def __init__(self, stage: Stage[T], settings: KafkaSettings, fail: Callable[[BaseException], None]) -> None:
        self.stage = stage
        self.settings = settings
        self.partitions: dict[TopicPartition, Partition[T]] = {}
        self.fetch_wanted = asyncio.Event()
        """Set when a partition has room for more records than it had."""
        self.in_flight: Counter[Lane] = Counter()
        """Records that hold a slot, by lane."""
        self.in_flight_bytes = 0
        self._fail = fail
        self._calls: dict[asyncio.Task[None], Sequence[Work[T]]] = {}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._again: deque[Work[T]] = deque()
        """Records that have begun before and may go on: their back-off is over, or their identity is free."""
        self._aside = 0
        """Records that have begun and hold no slot: in a back-off, or behind their identity."""
        self._turn: deque[Partition[T]] = deque()
        self._rng = random.Random()
        self._alarm: asyncio.TimerHandle | None = None

    # -- what comes and goes ------------------------------------------------------------------------------------

    def add(self, partition: Partition[T]) -> None:
        """A partition is ours."""
        self.partitions[partition.id] = partition
        self._turn.append(partition)
        self.fetch_wanted.set()

    def arrived(self, polled: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        """Records came; those of partitions that are no longer ours are nobody's here."""
        for partition_id, sources in polled.items():
            if (partition := self.partitions.get(partition_id)) and not partition.leaving:
                partition.arrived(sources)
        self.dispatch()

    def wanted(self) -> list[TopicPartition]:
        """The partitions worth fetching; the others are paused."""
        return [p.id for p in self._turn if p.wants_more]

    def committed(self, works: Sequence[Work[T]]) -> None:
        """A commit is through: its slots are free."""
        for work in works:
            self._free(work)
        self.dispatch()

    def leave(self, partitions: Iterable[Partition[T]]) -> None:
        """Begin nothing more of these. What waits or rests is whoever's who comes next."""
        for partition in partitions:
            partition.leave()
            for _, handle in partition.resting.values():
                handle.cancel()
            self._aside -= len(partition.resting) + sum(map(len, partition.behind.values()))
            partition.resting.clear()
            partition.behind.clear()
            if partition in self._turn:
                self._turn.remove(partition)

    def cancel_calls(self, partitions: Iterable[Partition[T]]) -> None:
        """Stop the calls that work for nobody but these partitions."""
        leaving = set(partitions)
        for task, works in self._calls.items():
            if all(work.partition in leaving for work in works):
                self._cancelled.add(task)
                task.cancel()

    def remove(self, partition: Partition[T]) -> None:
        """A partition is closed: results that still come for it are dropped."""
        self.partitions.pop(partition.id, None)
        for work in partition.abandon():
            self._drop(work)

    # -- what begins --------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Begin as much as may begin now."""
        if self.stage.saturated is not None and self.stage.saturated():
            self._wake_in(SATURATED_POLL_S)
            return
        while len(self._calls) < self.stage.max_calls and (batch := self._next_batch()):
            self._call(batch)

    def _next_batch(self) -> list[Work[T]]:
        size = min(self.stage.batch_size, self._free_slots())
        batch: list[Work[T]] = []
        if size <= 0:
            return batch
        while self._again and len(batch) < size:
            work = self._again.popleft()
            self._aside -= 1
            if not work.partition.leaving:
                self._admit(work, batch)
        for lane in (Lane.LIVE, Lane.RETRY):
            self._fill(batch, size, lane)
        if not batch:
            self._fill(batch, min(size, self._backfill_room()), Lane.BACKFILL)
        return batch

    def _free_slots(self) -> int:
        if self.in_flight_bytes >= self.settings.max_in_flight_bytes:
            return 0
        return self.stage.max_in_flight - self.in_flight.total()

    def _backfill_room(self) -> int:
        live = [p for p in self._turn if p.lane is Lane.LIVE]
        now = time.time()
        # The last call is live's too: one batch of the slow lane at most, while there are two or more.
        if self.stage.max_calls > 1 and len(self._calls) >= self.stage.max_calls - 1:
            return 0
        return backfill_room(
            max_in_flight=self.stage.max_in_flight,
            live_in_flight=self.in_flight.total() - self.in_flight[Lane.BACKFILL],
            backfill_in_flight=self.in_flight[Lane.BACKFILL],
            live_waiting=sum(len(p.waiting) for p in live),
            oldest_live_s=max((now - p.oldest_s for p in live if p.oldest_s is not None), default=0.0),
            objective_s=self.settings.live_objective_s,
        )

    def _fill(self, batch: list[Work[T]], size: int, lane: Lane) -> None:
        """Take waiting records of a lane: as many as there are of one partition, so that they share a commit, and the
        next time from another."""
        for _ in range(len(self._turn)):
            if len(batch) >= size:
                return
            partition = self._turn[0]
            self._turn.rotate(-1)
            if partition.lane is lane and partition.waiting:
                self._take(partition, batch, size)

    def _take(self, partition: Partition[T], batch: list[Work[T]], size: int) -> None:
        tracked = partition.offsets
        if tracked.distance >= offsets.SLOW_FROM:
            self._park_lowest(partition)
        room = offsets.room(tracked.distance, len(tracked), self.stage.max_in_flight)
        fetched = partition.wants_more
        while partition.waiting and len(batch) < size and room > 0 and self._aside < self.stage.max_in_flight:
            if self._free_slots() <= len(batch):
                break
            if (due_in_s := partition.waiting[0].due_s - time.time()) > 0:
                self._wake_in(due_in_s)
                break
            before = tracked.distance
            self._admit(partition.begin_next(), batch)
            room -= max(1, tracked.distance - before)
        if partition.wants_more and not fetched:
            self.fetch_wanted.set()

    def _admit(self, work: Work[T], batch: list[Work[T]]) -> None:
        """A record's turn has come: into the batch, behind its identity, or straight to its end."""
        if work.identity is not None and not work.has_turn:
            if (behind := work.partition.behind.get(work.identity)) is not None:
                behind.append(work)
                self._aside += 1
                return
            work.partition.behind[work.identity] = deque()
            work.has_turn = True
        if work.poison is not None:
            self._hold(work)
            self._settle(work, work.poison, mark=False)
        elif self.stage.duplicate and work.record and self._was_seen(work):
            self._hold(work)
            self._settle(work, self.stage.duplicate(work.record), mark=False)
        else:
            batch.append(work)

    def _was_seen(self, work: Work[T]) -> bool:
        seen = work.partition.seen
        if seen is None or work.record is None or work.identity is None or work.exempt or work.attempts:
            return False
        return seen.has(work.identity, work.record.timestamp_s)

    # -- what runs ----------------------------------------------------------------------------------------------

    def _call(self, batch: Sequence[Work[T]]) -> None:
        for work in batch:
            self._hold(work)
            work.partition.in_flight += 1
        task = asyncio.create_task(self._run(batch), name=f"{self.stage.name}-call")
        self._calls[task] = batch
        task.add_done_callback(self._ended)

    async def _run(self, batch: Sequence[Work[T]]) -> None:
        results = await handled(self.stage, [work.record for work in batch if work.record])
        for work, result in zip(batch, results, strict=True):
            self._conclude(work, result)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        batch = self._calls.pop(task)
        for work in batch:
            work.partition.in_flight -= 1
            work.partition.changed.set()
        if task.cancelled():
            for work in batch:
                self._drop(work)
            if task not in self._cancelled:
                self._fail(RuntimeError(f"the handler of {self.stage.name} cancelled its own call"))
            self._cancelled.discard(task)
        elif error := task.exception():
            self._fail(error)
        self.dispatch()

    def _conclude(self, work: Work[T], result: Result) -> None:
        """A try has ended: the record is settled, or tried again later."""
        if work.partition.closed:
            self._drop(work)
            return
        work.attempts += 1
        if isinstance(result, Exception) and work.record is not None:
            now = time.time()
            work.first_failed_s = work.first_failed_s or now
            step = after(self.stage, work.record, result, work.attempts, now - work.first_failed_s, self._rng)
            if isinstance(step, Retry):
                self._rest(work, step.delay_s)
                return
            result = step
        self._settle(work, result, mark=not isinstance(result, DeadLetter))  # type: ignore[arg-type]

    def _settle(self, work: Work[T], result: Done | DeadLetter | Parked, mark: bool) -> None:
        """A record is finished here. `mark`: its ticket is taken in, and another of its identity a duplicate."""
        identity, seen = work.identity, work.partition.seen
        marked = identity if mark and seen is not None else None
        if marked is not None and seen is not None:
            seen.add(marked, work.source.timestamp / 1000)
        work.partition.settle(work, Settled(work.origin, result, work.attempts or 1, marked))
        if identity is not None and (behind := work.partition.behind.pop(identity, None)):
            following = behind.popleft()
            following.has_turn = True
            work.partition.behind[identity] = behind
            self._again.append(following)

    # -- what rests ---------------------------------------------------------------------------------------------

    def _rest(self, work: Work[T], delay_s: float) -> None:
        self._free(work)
        if work.partition.leaving:
            return
        handle = asyncio.get_running_loop().call_later(delay_s, self._rested, work)
        work.partition.resting[work.source.offset] = (work, handle)
        self._aside += 1

    def _rested(self, work: Work[T]) -> None:
        del work.partition.resting[work.source.offset]
        self._again.append(work)
        self.dispatch()

    def _park_lowest(self, partition: Partition[T]) -> None:
        """Move a record that rests out of the way of the commit point: to the retry topic, to be tried when due."""
        resting = partition.resting.pop(partition.offsets.lowest, None)
        if resting is None:
            return
        work, handle = resting
        handle.cancel()
        self._aside -= 1
        now = time.time()
        written_s = work.record.timestamp_s if work.record else 0.0
        due_s = max(now + PARK_S, now + handle.when() - asyncio.get_running_loop().time())
        self._hold(work)
        parked = Parked(work.origin, written_s, work.attempts, work.first_failed_s or now, due_s)
        self._settle(work, parked, mark=True)

    # -- slots --------------------------------------------------------------------------------------------------

    def _hold(self, work: Work[T]) -> None:
        self.in_flight[work.partition.lane] += 1
        self.in_flight_bytes += work.size_bytes

    def _drop(self, work: Work[T]) -> None:
        """A result that nobody will commit: its record is done again by the partition's next owner."""
        self._free(work)
        metrics.DROPPED.labels(self.stage.name).inc()

    def _free(self, work: Work[T]) -> None:
        self.in_flight[work.partition.lane] -= 1
        self.in_flight_bytes -= work.size_bytes

    def _wake_in(self, delay_s: float) -> None:
        """Dispatch again after a while; the earliest wish counts."""
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            if loop.time() < self._alarm.when() <= loop.time() + delay_s:
                return
            self._alarm.cancel()
        self._alarm = loop.call_later(delay_s, self.dispatch)
