"""A stage as a value: what it reads, what it does with a batch, what it sends, and its limits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct

from schemas.events import Event, StageName
from schemas.topics import Topic
from workers.retry import RetryLimits

T = TypeVar("T", bound=Struct)

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """A decoded input record."""

    value: T
    origin: Origin
    timestamp_s: float
    """The broker's or producer's timestamp, seconds since the epoch."""

    @property
    def written_at(self) -> datetime:
        return datetime.fromtimestamp(self.timestamp_s, UTC)


@dataclass(frozen=True, slots=True)
class Output:
    """One record to send."""

    topic: Topic
    key: str
    value: Struct


@dataclass(frozen=True, slots=True)
class Done:
    """A finished record: what to send, and the canonical event that says what was done."""

    outputs: tuple[Output, ...]
    event: Event


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A hopeless record: its original bytes go to the dead letters."""

    reason: str
    exception: str = ""


Result = Done | DeadLetter | Exception
"""What a handler says of one record; an exception is retried or given up by its class."""

Handler = Callable[[Sequence[Record[T]]], Awaitable[Sequence[Result]]]
"""Given a batch, returns one result a record, in the same order."""

GiveUp = Callable[[Record[T], Exception], Done | DeadLetter]
"""What becomes of a record that failed for good: by default a dead letter."""


def dead_letter(record: Record[Any], error: Exception) -> DeadLetter:
    """The default way to give a record up. The reason is the error's class: its text may hold ticket text."""
    reason = getattr(error, "reason", "unexpected error")
    return DeadLetter(reason=f"{type(error).__name__}: {reason}", exception=type(error).__qualname__)


@dataclass(frozen=True, slots=True)
class Stage(Generic[T]):
    """A stage: its input topic and record type, its handler, its limits."""

    name: StageName
    topic: Topic
    record_type: type[T]
    handler: Handler[T]
    give_up: GiveUp[T] = dead_letter
    batch_size: int = 32
    """Most records of one partition that are worked on at a time, in one transaction."""
    retry: RetryLimits = field(default_factory=RetryLimits)
    ready: Callable[[], Awaitable[bool]] | None = None
    """Whether what the worker depends on (its engine, its provider) is there; asked by /readyz."""


def concurrently(handle: Callable[[Record[T]], Awaitable[Done | DeadLetter]]) -> Handler[T]:
    """A batch handler that runs a single-record handler on every record at the same time."""

    async def handler(records: Sequence[Record[T]]) -> Sequence[Result]:
        results = await asyncio.gather(*(handle(r) for r in records), return_exceptions=True)
        for result in results:
            # Cancellation and the like are not the record's fault: they end the batch, not the record.
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
        return results  # type: ignore[return-value]

    return handler
