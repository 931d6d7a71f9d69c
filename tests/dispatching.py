"""A dispatcher without Kafka, for tests: calls that end when the test says so, commits that a fake keeps."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord

from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import ANSWERS, TICKETS
from streams.runtime.dispatcher import Dispatcher
from streams.runtime.messages import Message
from streams.runtime.offsets import CommitPoint
from streams.runtime.partition import Partition
from streams.runtime.seen import SeenTickets
from streams.runtime.stage import Done, Output, Record, Result, Stage
from streams.settings import KafkaSettings
from tests.kafka import ticket
from tests.records import AT
from workers.retry import RetryLimits

LIMIT_S = 20.0
SLOW_RETRY = RetryLimits(attempts=9, age_s=1e6, first_delay_s=1000.0, longest_delay_s=1000.0)
"""Back-offs that no test lives to see the end of."""
QUICK_RETRY = RetryLimits(attempts=3, first_delay_s=0.001)


def done(record: Record[Ticket], outcome: Any = "answered", body: str = "x") -> Done:
    """One answer and its event."""
    ticket_id = record.value.ticket_id
    event = Event(event_id=str(record.origin), at=AT, stage="router", outcome=outcome, ticket_id=ticket_id)
    outputs = (Output(ANSWERS, ticket_id, Ticket(ticket_id=ticket_id, body=body)),) if outcome == "answered" else ()
    return Done(outputs, event)


def duplicate(record: Record[Ticket]) -> Done:
    return done(record, "duplicate")


def polled(
    offset: int,
    name: str = "",
    at: TopicPartition = TopicPartition("tickets", 0),  # noqa: B008 - a value
    *,
    value: bytes | None = None,
    headers: Iterable[tuple[str, bytes]] = (),
    written_s: float | None = None,
) -> ConsumerRecord[Any, Any]:
    """A record as a poll returns it: of a ticket by that name (or by its offset), written now."""
    name = name or str(offset)
    timestamp_ms = int((time.time() if written_s is None else written_s) * 1000)
    value = ticket(name) if value is None else value
    return ConsumerRecord(
        at.topic, at.partition, offset, timestamp_ms, 0, name.encode(), value, None, 0, 0, tuple(headers)
    )


@dataclass(slots=True)
class Call:
    """A call of the handler that goes on until it is ended."""

    records: Sequence[Record[Ticket]]
    ended: asyncio.Future[Sequence[Result] | None] = field(default_factory=asyncio.Future)
    cancelled: bool = False

    @property
    def names(self) -> list[str]:
        return [record.value.ticket_id for record in self.records]

    def end(self, *results: Result) -> None:
        """With these results, or with every record done."""
        self.ended.set_result(results or None)


class Worker:
    """A handler: its calls in the order that they began."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def __call__(self, records: Sequence[Record[Ticket]]) -> Sequence[Result]:
        call = Call(records)
        self.calls.append(call)
        try:
            results = await call.ended
        except asyncio.CancelledError:
            call.cancelled = True
            raise
        return [done(record) for record in records] if results is None else results

    @property
    def open(self) -> list[Call]:
        return [call for call in self.calls if not (call.ended.done() or call.cancelled)]

    @property
    def begun(self) -> list[str]:
        """The tickets of all calls so far."""
        return [name for call in self.calls for name in call.names]

    def call_of(self, name: str) -> Call:
        """The call that works on that ticket now."""
        (call,) = [call for call in self.open if name in call.names]
        return call


class FakeDelivery:
    """Kafka's side of a partition: keeps what is committed, waits while it is held back, fails when it is told to."""

    def __init__(self) -> None:
        self.commits: list[tuple[Sequence[Message], CommitPoint]] = []
        self.begun = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.error: Exception | None = None

    async def start(self) -> None:
        """Nobody to fence."""

    async def commit(self, messages: Sequence[Message], point: CommitPoint) -> None:
        self.begun += 1
        await self.flowing.wait()
        if self.error:
            raise self.error
        self.commits.append((messages, point))

    async def close(self) -> None:
        """Nothing to disconnect."""

    @property
    def point(self) -> CommitPoint:
        """What stands there now."""
        return self.commits[-1][1]

    @property
    def messages(self) -> list[Message]:
        return [message for messages, _ in self.commits for message in messages]

    def names(self, topic: str = "answers") -> list[str]:
        """The keys of what was sent to a topic."""
        return [(m.key or b"").decode() for m in self.messages if m.topic_name == topic]


class Process:
    """A dispatcher and its partitions, as a session has them."""

    def __init__(self, stage: Stage[Ticket], settings: KafkaSettings) -> None:
        self.stage = stage
        self.failures: list[BaseException] = []
        self.unhandled: list[Any] = []
        self.dispatcher = Dispatcher(stage, settings, self.failures.append)
        self.opened: list[Partition[Ticket]] = []
        self.deliveries: dict[Partition[Ticket], FakeDelivery] = {}

    def open(
        self,
        number: int = 0,
        twin: str = "",
        start: CommitPoint = CommitPoint(0),  # noqa: B008 - a value
        seen: SeenTickets | None = None,
    ) -> Partition[Ticket]:
        """A partition is assigned."""
        at, delivery = TopicPartition("tickets" + twin, number), FakeDelivery()
        partition = Partition(self.stage, at, delivery, start, seen, self.dispatcher.committed)
        partition.task.add_done_callback(self._ended)
        self.deliveries[partition] = delivery
        self.opened.append(partition)
        self.dispatcher.add(partition)
        return partition

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            self.failures.append(error)

    def poll(self, partition: Partition[Ticket], *records: ConsumerRecord[Any, Any]) -> FakeDelivery:
        """A poll brings these; returns the partition's delivery."""
        self.dispatcher.arrived({partition.id: list(records)})
        return self.deliveries[partition]

    def names(self, partition: Partition[Ticket], *names: str, first: int = 0) -> FakeDelivery:
        """A poll brings tickets by these names."""
        return self.poll(partition, *(polled(i, name, partition.id) for i, name in enumerate(names, first)))

    def revoke(self, *partitions: Partition[Ticket]) -> None:
        """They are given up at once, as when the drain time is over."""
        self.dispatcher.leave(partitions)
        for partition in partitions:
            self.dispatcher.remove(partition)
            partition.task.cancel()

    @property
    def slots(self) -> int:
        """How many are in use."""
        return self.dispatcher.slots.held

    async def close(self) -> None:
        calls = list(self.dispatcher._calls)
        for partition in self.opened:
            partition.task.cancel()
        self.dispatcher.leave(self.opened)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, *(p.task for p in self.opened), return_exceptions=True)
        if self.dispatcher._alarm:
            self.dispatcher._alarm.cancel()


@asynccontextmanager
async def processing(worker: Worker, *, settings: KafkaSettings | None = None, **limits: Any) -> AsyncIterator[Process]:
    """A process of a stage with these limits. The test says itself if a failure is what it expects."""
    values: dict[str, Any] = {"batch_size": 1, "max_in_flight": 4, "retry": SLOW_RETRY} | limits
    process = Process(Stage("router", TICKETS, Ticket, worker, **values), settings or KafkaSettings())
    # What fails in a callback of the loop is otherwise only logged.
    asyncio.get_running_loop().set_exception_handler(lambda _, context: process.unhandled.append(context))
    try:
        yield process
    finally:
        await process.close()
    assert not process.unhandled


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until the condition holds."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:.0f} s"
        await asyncio.sleep(0)


async def worked_off(worker: Worker, condition: Callable[[], bool], *results: Result) -> None:
    """End every call as soon as it begins, until the condition holds."""

    def step() -> bool:
        for call in worker.open:
            call.end(*results)
        return condition()

    await until(step)


async def settled_down() -> None:
    """Turn the loop until everything that can happen without time passing has happened: a few turns do for a chain
    of call, commit and next call, and these are many times that."""
    for _ in range(100):
        await asyncio.sleep(0)
