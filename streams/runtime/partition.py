"""A partition while this process owns it: what waits, what is unfinished, and a commit at a time of what is finished.

Invariants:
- A record leaves as outputs, as a dead letter or parked, in the commit that also finishes its offset; never otherwise.
- Commits follow one another, and each commit point counts only records whose messages are in it or in an earlier one.
- Once closed, nothing is committed and no result is taken: whoever comes next does the rest.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from msgspec import Struct

from schemas.codec import PoisonError, decode
from streams.runtime import metrics
from streams.runtime.canonical_log import report
from streams.runtime.delivery import Delivery, timed_commit
from streams.runtime.headers import REQUEUE_OF, Parked, read_parked, read_replay
from streams.runtime.lanes import Lane, lane_of
from streams.runtime.messages import Message, Settled, finished
from streams.runtime.offsets import CommitPoint, Offsets
from streams.runtime.seen import SeenTickets
from streams.runtime.stage import DeadLetter, Origin, Record, Stage

if TYPE_CHECKING:
    from streams.runtime.spans import Begun

T = TypeVar("T", bound=Struct)

COMMIT_RECORDS = 500
"""Most records of one commit: they are sent in one go, and hold up everything else for as long."""
COMMIT_BYTES = 8 * 1024 * 1024
"""About how much of input goes into one commit, so that no transaction becomes a burden to the broker."""
FETCH_AHEAD = 1000
"""A partition with more records waiting is not fetched."""
FETCH_AHEAD_BYTES = 4 * 1024 * 1024


class Work(Struct, Generic[T], eq=False):
    """A record on its way through this process."""

    source: ConsumerRecord
    partition: "Partition[T]"
    record: Record[T] | None
    """None for poison."""
    poison: DeadLetter | None = None
    identity: str | None = None
    exempt: bool = False
    """Whether it is taken in although its identity was seen: it was parked, requeued or backfilled, and is nobody's
    second try."""
    aside: bool = False
    """Whether it has begun and holds no slot."""
    has_turn: bool = False
    """Whether it is the one record of its identity that is worked on."""
    attempts: int = 0
    first_failed_s: float | None = None
    due_s: float = 0.0
    size_bytes: int = 0
    begun: "Begun | None" = None
    """What its span will say of its calls; None where nobody collects spans, and before the first call."""

    @property
    def origin(self) -> Origin:
        return (
            self.record.origin if self.record else Origin(self.source.topic, self.source.partition, self.source.offset)
        )


class Partition(Generic[T]):
    """One assignment of one partition. A later assignment of the same partition is another object, so that results
    of the earlier one can't be taken for its own."""

    def __init__(
        self,
        stage: Stage[T],
        partition: TopicPartition,
        delivery: Delivery,
        start: CommitPoint,
        seen: SeenTickets | None,
        committed: Callable[[Sequence[Work[T]]], None],
    ) -> None:
        self.stage = stage
        self.id = partition
        self.lane = lane_of(partition.topic)
        self.delivery = delivery
        self.offsets = Offsets(start)
        self.seen = seen
        self.waiting: deque[Work[T]] = deque()
        self.waiting_bytes = 0
        self.resting: dict[int, tuple[Work[T], asyncio.TimerHandle]] = {}
        """Records in a back-off, by offset."""
        self.behind: dict[str, deque[Work[T]]] = {}
        """The identities that are being worked on, and the records that wait for them."""
        self.in_flight = 0
        """Records that a handler has."""
        self.leaving = self.closed = False
        self.committed_s: float | None = None
        """When the last commit ended, by time.monotonic; None before the first, and while one is under way."""
        self.changed = asyncio.Event()
        """Set whenever something ended, for whoever waits for quiet."""
        self._committed = committed
        self._finished: deque[tuple[Work[T], Settled, list[Message]]] = deque()
        self._wake = asyncio.Event()
        name = f"{stage.name}-{partition.topic}-{partition.partition}"
        self.task = asyncio.create_task(self._commit_finished(), name=name)

    @property
    def quiet(self) -> bool:
        """Whether nothing is being worked on or committed, or can be any more."""
        return self.task.done() or not (self.in_flight or self._finished)

    @property
    def wants_more(self) -> bool:
        """Whether it is worth fetching."""
        return not self.leaving and len(self.waiting) < FETCH_AHEAD and self.waiting_bytes < FETCH_AHEAD_BYTES

    @property
    def oldest_s(self) -> float | None:
        """When the oldest record here was written, seconds since the epoch."""
        if (oldest_s := self.offsets.oldest_s) is not None:
            return oldest_s
        return self.waiting[0].source.timestamp / 1000 if self.waiting else None

    def arrived(self, sources: Iterable[ConsumerRecord]) -> None:
        """Take in polled records; those that a former owner finished are passed over."""
        for source in sources:
            if self.offsets.arrive(source.offset):
                work = _read(self.stage, self, source)
                self.waiting.append(work)
                self.waiting_bytes += work.size_bytes

    def begin_next(self) -> Work[T]:
        """Take the first waiting record; from here on it is unfinished."""
        work = self.waiting.popleft()
        self.waiting_bytes -= work.size_bytes
        if self.offsets.is_redone(work.source.offset):
            metrics.REDONE.labels(self.stage.name).inc()
        self.offsets.begin(work.source.offset, work.source.timestamp / 1000)
        return work

    def settle(self, work: Work[T], settled: Settled) -> Settled:
        """A record has its final result: it goes into the next commit. Returns what became of it after all."""
        # To the millisecond, so that what settles together shares its formatted time.
        now = round(time.time(), 3)
        settled, messages = finished(self.stage.name, self.stage.topic, settled, work.source, now)
        self._finished.append((work, settled, messages))
        self._wake.set()
        return settled

    def leave(self) -> None:
        """Begin nothing more. Records that wait or rest are nobody's yet."""
        self.leaving = True
        self.waiting.clear()
        self.waiting_bytes = 0

    async def _commit_finished(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._finished and not self.closed:
                await self._commit()
            self.changed.set()

    async def _commit(self) -> None:
        self.committed_s = None
        taken = list(islice(self._finished, COMMIT_RECORDS))
        messages: list[Message] = []
        size_bytes = 0
        for count, (work, _, its_messages) in enumerate(taken, 1):
            self.offsets.finish(work.source.offset)
            messages += its_messages
            size_bytes += work.size_bytes
            if size_bytes >= COMMIT_BYTES:
                del taken[count:]
        await timed_commit(self.stage.name, self.delivery, messages, self.offsets.commit_point())
        self.committed_s = time.monotonic()
        for _ in taken:
            self._finished.popleft()
        report(self.stage.name, [settled for _, settled, _ in taken])
        if self.stage.spans:
            self.stage.spans.write((work, settled) for work, settled, _ in taken)
        self._committed([work for work, _, _ in taken])

    def abandon(self) -> list[Work[T]]:
        """Close; returns the finished records that were not committed."""
        self.closed = True
        left = [work for work, _, _ in self._finished]
        self._finished.clear()
        return left


def _read(stage: Stage[T], partition: Partition[T], source: ConsumerRecord) -> Work[T]:
    """A polled record as work."""
    size_bytes = len(source.value or b"")
    try:
        value = decode(stage.record_type, source.value)
    except PoisonError as exc:
        return Work(source, partition, None, DeadLetter(exc.reason, "PoisonError"), size_bytes=size_bytes)
    work = Work(source, partition, _record(value, source, None), size_bytes=size_bytes)
    if stage.identity:
        work.identity = stage.identity(value)
        replayed = partition.lane is Lane.BACKFILL and read_replay(source.headers) is not None
        work.exempt = replayed or any(name == REQUEUE_OF for name, _ in source.headers)
    if partition.lane is Lane.RETRY and (parked := read_parked(source.headers)):
        work.record = _record(value, source, parked)
        work.attempts, work.first_failed_s, work.due_s = parked.attempts, parked.first_failed_s, parked.due_s
    return work


def _record(value: T, source: ConsumerRecord, parked: Parked | None) -> Record[T]:
    if parked:
        return Record(value, parked.origin, parked.written_s)
    return Record(value, Origin(source.topic, source.partition, source.offset), source.timestamp / 1000)
