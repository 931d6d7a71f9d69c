"""A stage as a value: what it reads, what it does with a batch, what it sends, and its limits.

What there is one of for every record is a msgspec Struct: made in a fifth of a dataclass's time.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from schemas.events import Event, StageName
from schemas.topics import Topic
from streams.runtime.clock import moment
from workers.retry import RetryLimits

if TYPE_CHECKING:
    from streams.runtime.spans import Spans

T = TypeVar("T", bound=Struct)

Headers = tuple[tuple[str, bytes], ...]


class Origin(Struct, frozen=True):
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Record(Struct, Generic[T], frozen=True):
    """A decoded input record."""

    value: T
    origin: Origin
    """Where it came in; a parked record keeps the place that it was parked from."""
    timestamp_s: float
    """The broker's or producer's timestamp there, seconds since the epoch."""

    @property
    def written_at(self) -> datetime:
        return moment(self.timestamp_s)


class Output(Struct, frozen=True):
    """One record to send."""

    topic: Topic
    key: str
    value: Struct


class Done(Struct, frozen=True):
    """A finished record: what to send, and the canonical event that says what was done."""

    outputs: tuple[Output, ...]
    event: Event


class DeadLetter(Struct, frozen=True):
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
    """Most records of one call of the handler: 1 for a single long call, 32 to 64 for a model that works in batches."""
    max_in_flight: int = 128
    """Most records that have begun and are not committed, over all partitions of the process. What a crash does again
    is at most this many records, and so this many paid calls."""
    identity: Callable[[T], str] | None = None
    """What a record is about: records of a partition with one identity are worked on one at a time, in their order."""
    duplicate: Callable[[Record[T]], Done] | None = None
    """What becomes of a record whose identity was taken in lately (kafka.dedupe_window_s). None remembers nothing."""
    retry: RetryLimits = field(default_factory=RetryLimits)
    ready: Callable[[], Awaitable[bool]] | None = None
    """Whether what the worker depends on (its engine, its provider) is there; asked by /readyz."""
    saturated: Callable[[], bool] | None = None
    """Whether the worker wants no further work for now. Partitions then stop being fetched; asked again at once when
    something ends, and SATURATED_POLL_S later."""
    no_backfill: Callable[[], bool] | None = None
    """Whether to begin no backfill now, since others wait in the worker already."""
    spans: "Spans | None" = None
    """Writes the traces of what the stage does; None where nobody collects them."""

    @property
    def max_calls(self) -> int:
        """Most calls of the handler at a time: for batches few, so that they fill up under load."""
        return max(1, self.max_in_flight // self.batch_size)


def singly(handle: Callable[[Record[T]], Awaitable[Done | DeadLetter]]) -> Handler[T]:
    """A handler out of one that takes a single record; for stages with a batch_size of 1."""

    async def handler(records: Sequence[Record[T]]) -> Sequence[Result]:
        (record,) = records
        return [await handle(record)]

    return handler
