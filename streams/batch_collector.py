"""Tickets of the slow lane that wait for a batch, and the batch that is made of them: as many as fit, each with the
money set aside that its answer may cost."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import islice

from aiokafka.structs import ConsumerRecord

from schemas.batches import Batch, BatchTicket
from schemas.codec import PoisonError
from schemas.tickets import Routed
from streams.batch_partition import End, origin_of, ticket_of
from streams.runtime.clock import utc_now
from streams.runtime.headers import Parked
from streams.runtime.messages import Settled
from streams.runtime.stage import DeadLetter, Record
from streams.settings import Tier2Settings
from workers.tier2.batches import BatchApi
from workers.tier2.batching import Asked, Batching
from workers.tier2.spend import NoRoomError, Reservation, Spend, SpendLimitError

OPEN_BATCHES = 20
"""Of a partition; past it tickets wait in Kafka (a guess)."""
MAX_SUBMISSION_BYTES = 64 * 1024 * 1024
"""Of one batch's requests together; OpenAI takes 200 MB, Anthropic 256."""
ROOM_S = 10.0
"""For how long a batch that is collected waits for money that calls under way have set aside."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What all partitions share."""

    settings: Tier2Settings
    batching: Batching
    apis: Mapping[str, BatchApi]
    """By the target's name."""
    spend: Spend
    ids: MutableMapping[str, str]
    """The provider's ids of the open batches, by key."""
    uncommitted: MutableMapping[str, BatchTicket]
    """Whose money is set aside, by reservation, while nobody knows whether their batch's record is committed."""


@dataclass(frozen=True, slots=True)
class Made:
    """What is to be committed, and then submitted."""

    batches: Sequence[tuple[str, Batch]]
    """The batch with its key, or none."""
    ends: Sequence[End]
    """Of tickets for which there is no money, and of what is no ticket."""
    taken_out: frozenset[int]
    """Offsets of all of these."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    source: ConsumerRecord
    record: Record[Routed]
    asked: Asked


class Collector:
    """One partition's tickets that are in no batch."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._settings = desk, desk.settings
        self._waiting: deque[ConsumerRecord] = deque()
        self._size_bytes = 0
        self._first_came_s = self._rests_until_s = 0.0
        """When the first of those that wait came; before when no batch is made."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many more tickets are worth taking in."""
        full = self._size_bytes >= MAX_SUBMISSION_BYTES
        return 0 if full else self._settings.batch_size - len(self._waiting)

    def add(self, taken: Sequence[ConsumerRecord]) -> None:
        """Tickets came."""
        if taken and not self._waiting:
            self._first_came_s = time.monotonic()
        self._waiting.extend(taken)
        self._size_bytes += sum(len(source.value or b"") for source in taken)

    def is_due(self, open_batches: int) -> bool:
        """Whether what waits is to make a batch now, beside so many others."""
        now_s = time.monotonic()
        held_s = self._desk.spend.closed_for_s() if self._settings.when_spent[:1] == ("hold",) else 0.0
        return (
            bool(self._waiting)
            and (not self.room or now_s - self._first_came_s >= self._settings.batch_wait_s)
            and now_s >= self._rests_until_s
            and open_batches < OPEN_BATCHES
            and not 0 < held_s <= self._settings.hold_s
        )

    async def collect(self, partition: int) -> Made:
        """Make a batch. Raises: WorkerDiedError."""
        batching = self._desk.batching
        tickets, ends = await asyncio.to_thread(self._read, list(islice(self._waiting, self._settings.batch_size)))
        granted: list[BatchTicket] = []
        for ticket, money in zip(tickets, await self._reserve(tickets), strict=True):
            if isinstance(money, Reservation):
                granted.append(BatchTicket(ticket.source.offset, money.id, money.micro_usd))
            elif isinstance(money, SpendLimitError):
                # What becomes of it is the ordinary process's to say.
                ends.append((by_calls(ticket.record, 0), ticket.source))
            else:
                # It waits for the next batch.
                self._rests_until_s = time.monotonic() + ROOM_S
        batch = Batch(
            partition=partition,
            target=batching.target.name,
            phone_region=batching.phone_region,
            tickets=tuple(granted),
            at=utc_now(),
        )
        taken_out = frozenset({ticket.offset for ticket in granted} | {source.offset for _, source in ends})
        left = [source for source in self._waiting if source.offset not in taken_out]
        self._waiting, self._size_bytes = deque(), 0
        self.add(left)
        return Made([(new_key(), batch)] if granted else [], ends, taken_out)

    def _read(self, sources: Iterable[ConsumerRecord]) -> tuple[list[_Ticket], list[End]]:
        """As many tickets as fit into a batch, and what is none. Finding personal data may take a second."""
        batching = self._desk.batching
        tickets: list[_Ticket] = []
        ends: list[End] = []
        size_bytes = 0
        for source in sources:
            try:
                record = ticket_of(source)
            except PoisonError as exc:
                ends.append((Settled(origin_of(source), DeadLetter(exc.reason, "PoisonError"), 1), source))
                continue
            asked = batching.ask(record.value, batching.target, batching.phone_region)
            size_bytes += len(asked.body)
            if tickets and size_bytes > MAX_SUBMISSION_BYTES:
                break
            tickets.append(_Ticket(source, record, asked))
        return tickets, ends

    async def _reserve(self, tickets: Sequence[_Ticket]) -> list[Reservation | SpendLimitError | NoRoomError]:
        """The money for each; if one of them fails in another way, all of it is given back."""
        spend = self._desk.spend

        async def reserved(ticket: _Ticket) -> Reservation | SpendLimitError | NoRoomError:
            try:
                return await spend.reserve(ticket.record.value.ticket.tenant, ticket.asked.worst_micro_usd, ROOM_S)
            except (SpendLimitError, NoRoomError) as exc:
                return exc

        tasks = [asyncio.create_task(reserved(ticket)) for ticket in tickets]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Reservation):
                    spend.settle(result, 0)
            raise


def new_key() -> str:
    """A key that no other batch has, short enough for a custom_id."""
    return uuid.uuid4().hex[:16]


def by_calls(record: Record[Routed], number: int) -> Settled:
    """A ticket on its way to the ordinary process, which reads what is parked; it stays the slow lane's."""
    now_s = time.time()
    return Settled(record.origin, Parked(record.origin, record.timestamp_s, 0, now_s, now_s), number)
