"""What a process begins next: waiting records become calls of the handler as slots come free.

One loop turn at a time and without awaits, so that every decision sees a
consistent state. Retries whose time has come go first, then live records and
parked ones that are due in turn, then backfill with what is left over.

A slot is taken when a record begins and freed when its commit is through: slots
in use are at the same time the records, and so the paid calls, that a crash
would do again.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Generic, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from streams.runtime import metrics, offsets
from streams.runtime.attempt import after, handled
from streams.runtime.headers import Parked
from streams.runtime.lanes import LATE_LOOP_S, Lane, backfill_room, lateness
from streams.runtime.messages import Settled
from streams.runtime.partition import Partition, Work
from streams.runtime.slots import Slots
from streams.runtime.stage import DeadLetter, Done, Result, Stage
from streams.settings import KafkaSettings
from workers.errors import HeldError
from workers.retry import Retry

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()

PARK_S = 30.0
"""How long a parked record rests at least: long enough for the partition to move on (a guess)."""
SINGLES = 32
"""How many records of one partition begin in its turn where each is a call of its own."""
SATURATED_POLL_S = 0.05
"""How soon a saturated worker is asked again when nothing else happens."""
TICK_S = 0.05
"""Between two looks at how late the event loop is."""
UNTRACED = nullcontext()


class Dispatcher(Generic[T]):
    """All partitions of this process, and the calls of its handler."""

    def __init__(self, stage: Stage[T], settings: KafkaSettings, fail: Callable[[BaseException], None]) -> None:
        self.stage = stage
        self.settings = settings
        self.partitions: dict[TopicPartition, Partition[T]] = {}
        self.fetch_wanted = asyncio.Event()
        """Set when a partition has room for more records than it had."""
        self.slots = Slots(stage.max_in_flight, settings.max_in_flight_bytes)
        self.loop_late_s = 0.0
        """How late the event loop is, while `tick` runs."""
        self._fail = fail
        self._calls: dict[asyncio.Task[None], Sequence[Work[T]]] = {}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._again: dict[Lane, deque[Work[T]]] = {lane: deque() for lane in Lane}
        """Records that have begun before and may go on: their back-off is over, or their identity is free."""
        self._turn: deque[Partition[T]] = deque()
        self._rng = random.Random()
        self._alarm: asyncio.TimerHandle | None = None
        self._dispatching = False

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
            self.slots.release(work)
        self._dispatch_soon()

    def leave(self, partitions: Iterable[Partition[T]]) -> None:
        """Begin nothing more of these. What waits or rests is whoever's who comes next."""
        for partition in partitions:
            partition.leave()
            for work, handle in partition.resting.values():
                handle.cancel()
                self.slots.take_up(work)
            for behind in partition.behind.values():
                for work in behind:
                    self.slots.take_up(work)
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
        self._dispatching = False
        try:
            self._dispatch()
        except Exception as exc:
            # From a timer or a callback nobody would hear of it, and the record would be nobody's.
            self._fail(exc)

    def _dispatch(self) -> None:
        if self.stage.saturated is not None and self.stage.saturated():
            self._wake_in(SATURATED_POLL_S)
            return
        self._call_all(self._next((Lane.LIVE, Lane.RETRY), self._room(self.stage.max_calls)))
        if self.stage.no_backfill is not None and self.stage.no_backfill():
            self._wake_in(SATURATED_POLL_S)
            return
        self._call_all(self._next((Lane.BACKFILL,), self._backfill_room()))

    async def tick(self) -> None:
        """See how late the loop is, for ever; once it has time to spare again, the slow lane goes on."""
        loop = asyncio.get_running_loop()
        while True:
            due_s, before_s = loop.time() + TICK_S, self.loop_late_s
            await asyncio.sleep(TICK_S)
            self.loop_late_s = lateness(before_s, loop.time() - due_s)
            if self.loop_late_s <= LATE_LOOP_S < before_s:
                self.dispatch()

    def _dispatch_soon(self) -> None:
        """Dispatch once for everything that ends in this turn of the loop."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self.dispatch)

    def _next(self, lanes: Sequence[Lane], size: int) -> list[Work[T]]:
        """What begins now, at most `size`: those that go on come first. Slots are taken at once, so that every further
        record is measured against them."""
        works: list[Work[T]] = []
        end = self.slots.held + size
        for lane in lanes:
            while self._again[lane] and self.slots.may_hold(end):
                self._admit(self._again[lane].popleft(), works)
        self._fill(works, end, lanes)
        return works

    def _room(self, max_calls: int) -> int:
        """How many records may begin, by slots and calls."""
        calls = max_calls - len(self._calls)
        return max(0, min(self.slots.free, calls * self.stage.batch_size))

    def _backfill_room(self) -> int:
        live = [p for p in self._turn if p.lane is Lane.LIVE]
        now = time.time()
        room = backfill_room(
            max_in_flight=self.stage.max_in_flight,
            live_in_flight=self.slots.held - self.slots.held_by_backfill,
            backfill_in_flight=self.slots.held_by_backfill,
            live_waiting=sum(len(p.waiting) for p in live) + len(self._again[Lane.LIVE]),
            oldest_live_s=max((now - p.oldest_s for p in live if p.oldest_s is not None), default=0.0),
            objective_s=self.settings.live_objective_s,
            loop_late_s=self.loop_late_s,
        )
        # The last call is live's, too: a batch of the slow lane would hold up the next live one for all of its time.
        return min(room, self._room(max(1, self.stage.max_calls - 1)))

    def _fill(self, works: list[Work[T]], end: int, lanes: Sequence[Lane]) -> None:
        """Take waiting records of these lanes. As many of one partition as make a batch, so that they share a commit;
        then another's turn comes, whether it holds live records or parked ones that are due."""
        idle = 0
        while idle < len(self._turn) and self.slots.may_hold(end):
            partition = self._turn[0]
            self._turn.rotate(-1)
            begun = partition.lane in lanes and self._take(partition, works, end)
            idle = 0 if begun else idle + 1

    def _take(self, partition: Partition[T], works: list[Work[T]], end: int) -> bool:
        """Begin a partition's next records; whether there were any that may."""
        tracked, waiting = partition.offsets, partition.waiting
        if waiting and tracked.distance >= offsets.SLOW_FROM:
            self._park_lowest(partition)
        fetched = partition.wants_more
        size = self.stage.batch_size
        missing = size - len(works) % size if size > 1 else SINGLES
        begun = 0
        while begun < missing and waiting and self.slots.may_hold(end) and self.slots.may_begin(partition.lane):
            if waiting[0].due_s and (due_in_s := waiting[0].due_s - time.time()) > 0:
                self._wake_in(due_in_s)
                break
            if not tracked.may_begin(waiting[0].source.offset, self.stage.max_in_flight):
                break
            self._admit(partition.begin_next(), works)
            begun += 1
        if partition.wants_more and not fetched:
            self.fetch_wanted.set()
        return begun > 0

    def _admit(self, work: Work[T], works: list[Work[T]]) -> None:
        """A record's turn has come: among those that begin, behind its identity, or straight to its end."""
        self.slots.take_up(work)
        if work.partition.leaving:
            return
        if work.identity is not None and not work.has_turn:
            if (behind := work.partition.behind.get(work.identity)) is not None:
                behind.append(work)
                self.slots.set_aside(work)
                return
            work.partition.behind[work.identity] = deque()
            work.has_turn = True
        self.slots.hold(work)
        if work.poison is not None:
            self._settle(work, work.poison, mark=False)
        elif self.stage.duplicate and work.record and self._was_seen(work):
            self._settle(work, self.stage.duplicate(work.record), mark=False)
        else:
            works.append(work)

    def _was_seen(self, work: Work[T]) -> bool:
        seen = work.partition.seen
        if seen is None or work.record is None or work.identity is None or work.exempt or work.attempts:
            return False
        return seen.has(work.identity, work.record.timestamp_s, work.source.offset)

    # -- what runs ----------------------------------------------------------------------------------------------

    def _call_all(self, works: Sequence[Work[T]]) -> None:
        for start in range(0, len(works), self.stage.batch_size):
            self._call(works[start : start + self.stage.batch_size])

    def _call(self, batch: Sequence[Work[T]]) -> None:
        for work in batch:
            work.partition.in_flight += 1
        task = asyncio.create_task(self._run(batch), name=f"{self.stage.name}-call")
        self._calls[task] = batch
        task.add_done_callback(self._ended)

    async def _run(self, batch: Sequence[Work[T]]) -> None:
        spans = self.stage.spans
        with spans.call(batch, self.stage.batch_size > 1) if spans else UNTRACED:
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
        self._dispatch_soon()

    def _conclude(self, work: Work[T], result: Result) -> None:
        """A try has ended: the record is settled, or tried again later."""
        if work.partition.closed:
            self._drop(work)
            return
        if isinstance(result, HeldError):
            self._hold_back(work, result)
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
        settled = work.partition.settle(work, Settled(work.origin, result, work.attempts or 1, marked))
        if settled.mark is not None and seen is not None:
            seen.add(settled.mark, work.source.timestamp / 1000, work.source.offset)
        if identity is not None and (behind := work.partition.behind.pop(identity, None)):
            following = behind.popleft()
            following.has_turn = True
            work.partition.behind[identity] = behind
            self._again[work.partition.lane].append(following)

    # -- what rests ---------------------------------------------------------------------------------------------

    def _rest(self, work: Work[T], delay_s: float) -> None:
        self.slots.release(work)
        if work.partition.leaving:
            return
        handle = asyncio.get_running_loop().call_later(delay_s, self._rested, work)
        work.partition.resting[work.source.offset] = (work, handle)
        self.slots.set_aside(work)

    def _rested(self, work: Work[T]) -> None:
        del work.partition.resting[work.source.offset]
        self._again[work.partition.lane].append(work)
        self._dispatch_soon()

    def _hold_back(self, work: Work[T], held: HeldError) -> None:
        """Nothing was tried. A long wait is spent on the retry topic: here it would keep others from beginning."""
        log.info("record_held", origin=str(work.origin), reason=held.reason, after_s=round(held.after_s, 1))
        if held.after_s < PARK_S or not self._parkable(work):
            self._rest(work, held.after_s)
        else:
            self._park(work, time.time() + held.after_s)

    def _park_lowest(self, partition: Partition[T]) -> None:
        """Move a record that rests out of the way of the commit point: to the retry topic, to be tried when due."""
        offset = partition.offsets.lowest
        if offset not in partition.resting:
            return
        work, handle = partition.resting[offset]
        if not self._parkable(work):
            return
        del partition.resting[offset]
        handle.cancel()
        self.slots.take_up(work)
        self.slots.hold(work)
        now = time.time()
        self._park(work, max(now + PARK_S, now + handle.when() - asyncio.get_running_loop().time()))

    def _parkable(self, work: Work[T]) -> bool:
        """One that came in compressed may be larger than the retry topic takes: it stays, and the partition waits."""
        return work.size_bytes <= self.stage.topic.max_message_bytes

    def _park(self, work: Work[T], due_s: float) -> None:
        written_s = work.record.timestamp_s if work.record else 0.0
        parked = Parked(work.origin, written_s, work.attempts, work.first_failed_s or time.time(), due_s)
        self._settle(work, parked, mark=True)

    def _drop(self, work: Work[T]) -> None:
        """A result that nobody will commit: its record is done again by the partition's next owner."""
        self.slots.release(work)
        metrics.DROPPED.labels(self.stage.name).inc()

    def _wake_in(self, delay_s: float) -> None:
        """Dispatch again after a while; the earliest wish counts."""
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            if loop.time() < self._alarm.when() <= loop.time() + delay_s:
                return
            self._alarm.cancel()
        self._alarm = loop.call_later(delay_s, self.dispatch)
