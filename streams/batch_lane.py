"""One partition of tier-2's slow lane at work: its tickets go into batches at a provider, and come back as drafts.

A batch's life, and what each step leaves in Kafka, in one transaction:

    collected     its record, without the provider's id, and the place in the input: the tickets are the record's now
    submitted     the record with the id
    ended         drafts, hand-offs and events, and the record with the tickets that are left, or its tombstone

Invariants:
- A ticket is either unfinished in its partition or in one batch record, never in both.
- Nothing is submitted whose record isn't committed. A record without an id that this process didn't just write may
  have been submitted: it is looked for at the provider first, and not before a submission can be under way any more.
- The money that is set aside for a ticket is named in its batch's record, and settled before the commit that takes
  the ticket out of it: settled twice counts once.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog
from aiokafka.structs import ConsumerRecord

from schemas.batches import Batch, BatchTicket
from schemas.drafts import Draft
from schemas.tickets import Routed
from schemas.topics import DRAFTS
from streams.batch_collector import Collector, Desk, by_calls, new_key
from streams.batch_partition import POLL_MS, BatchPartition, End, ticket_of
from streams.events import draft_event
from streams.runtime.clock import age_s, utc_now
from streams.runtime.messages import Settled
from streams.runtime.stage import Done, Output, Record
from streams.tier2 import to_a_person
from workers.errors import PermanentError, RetryableError
from workers.tier2 import wire
from workers.tier2.batch_wire import BatchRequest, Outcome
from workers.tier2.batches import BatchFailedError, NoSuchBatchError
from workers.tier2.batching import Concluded
from workers.tier2.connection import NotSentError
from workers.tier2.spend import Reservation

log = structlog.get_logger()

COMMIT_TICKETS = 500
"""Most drafts of one transaction."""
UNKNOWN_S = 48 * 3600.0
"""A batch that was collected so long ago, and that its provider says it doesn't have, is given up: providers take half
of that. Before, a wrong key or address may be at fault."""
RECOMMIT_S = 3600.0
"""Kafka forgets a place that nobody commits for a week, if no member of the group reads the topic."""


class BatchLane:
    """One assignment of one partition."""

    def __init__(self, partition: BatchPartition, desk: Desk, batches: Mapping[str, Batch]) -> None:
        """`batches` are the open ones of the partition, by key."""
        self.batches = dict(batches)
        self._partition, self._desk = partition, desk
        self._settings, self._batching = desk.settings, desk.batching
        self.collector = Collector(desk)
        now_s = time.monotonic()
        self._due_s = dict.fromkeys(batches, now_s)
        """When each batch is to be looked at."""
        # Whoever was here before may have a submission under way for as long.
        look_s = now_s + desk.settings.timeout_s
        self._unsure = {key: look_s for key, batch in batches.items() if not batch.id}
        """Batches that may have been submitted, and from when on that can be known."""
        desk.ids.update({key: batch.id for key, batch in batches.items() if batch.id})

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop. Raises: KafkaError; WorkerDiedError."""
        recommit_s = 0.0
        while not stopping.is_set():
            if time.monotonic() >= recommit_s:
                recommit_s = time.monotonic() + RECOMMIT_S
                await self._commit([], [])
            await self._take_in()
            if self.collector.is_due(len(self.batches)):
                await self._collect()
            for key in [key for key, due_s in self._due_s.items() if due_s <= time.monotonic()]:
                await self._advance(key)

    async def _take_in(self) -> None:
        if room := self.collector.room:
            self.collector.add(await self._partition.take_in(room))
        else:
            await asyncio.sleep(POLL_MS / 1000)

    async def _collect(self) -> None:
        made = await self.collector.collect(self._partition.at.partition)
        reserved = {ticket.reservation: ticket for _, batch in made.batches for ticket in batch.tickets}
        self._desk.uncommitted.update(reserved)
        await self._commit(made.ends, made.batches, made.taken_out)
        for reservation in reserved:
            del self._desk.uncommitted[reservation]

    # -- one batch ------------------------------------------------------------------------------------------------

    async def _advance(self, key: str) -> None:
        """Take a batch one step on; what fails may go better at the next look."""
        batch = self.batches[key]
        self._due_s[key] = time.monotonic() + self._settings.batch_poll_s
        try:
            if batch.id:
                await self._look(key, batch)
            elif key in self._unsure:
                await self._find(key, batch)
            else:
                await self._submit(key, batch)
        except (RetryableError, PermanentError) as exc:
            say = log.error if isinstance(exc, PermanentError) else log.warning
            say("batch_step_failed", batch=key, id=batch.id, target=batch.target, reason=exc.reason, next="tried again")

    async def _submit(self, key: str, batch: Batch) -> None:
        sources = await self._partition.read_again({ticket.offset for ticket in batch.tickets})
        gone = [ticket for ticket in batch.tickets if ticket.offset not in sources]
        batch = msgspec.structs.replace(batch, tickets=tuple(t for t in batch.tickets if t.offset in sources))
        requests = await asyncio.to_thread(self._requests, key, batch, sources)
        # Whoever was fenced meanwhile ends here, before anything is submitted. A batch is found again by its size, so
        # its record has to have it before.
        await self._commit([], [(key, batch if requests else None)] if gone else [])
        for ticket in gone:
            self._give_up(key, ticket, 0)
        if not requests:
            return
        try:
            batch_id = await self._desk.apis[batch.target].submit(key, requests)
        except (NotSentError, wire.TurnedAwayError, wire.TargetError):
            raise
        except wire.RejectedError as exc:
            log.error(
                "batch_refused", batch=key, target=batch.target, reason=exc.reason, next="its tickets go by calls"
            )
            await self._finish(key, batch, _for_all(key, batch, exc))
        except (RetryableError, PermanentError):
            # It may be there all the same.
            self._unsure[key] = time.monotonic() + self._settings.timeout_s
            raise
        else:
            await self._submitted(key, batch, batch_id)

    def _requests(self, key: str, batch: Batch, sources: Mapping[int, ConsumerRecord]) -> list[BatchRequest]:
        target = self._batching.target_of(batch.target)
        return [
            BatchRequest(
                _custom_id(key, ticket),
                self._batching.ask(ticket_of(sources[ticket.offset]).value, target, batch.phone_region).body,
            )
            for ticket in batch.tickets
        ]

    async def _find(self, key: str, batch: Batch) -> None:
        """A batch that may have been submitted: it is taken if the provider has it, else it is submitted."""
        if (look_s := self._unsure[key]) > time.monotonic():
            self._due_s[key] = look_s
            return
        others = [batch_id for other, batch_id in self._desk.ids.items() if other != key]
        since_s, until_s = batch.at.timestamp(), time.time() - (time.monotonic() - look_s)
        found = await self._desk.apis[batch.target].find(key, len(batch.tickets), since_s, until_s, others)
        del self._unsure[key]
        log.info("batch_looked_for", batch=key, target=batch.target, found=found is not None)
        if found:
            await self._submitted(key, batch, found)
        else:
            self._due_s[key] = time.monotonic()

    async def _submitted(self, key: str, batch: Batch, batch_id: str) -> None:
        await self._commit([], [(key, msgspec.structs.replace(batch, id=batch_id))])
        log.info("batch_submitted", batch=key, id=batch_id, target=batch.target, tickets=len(batch.tickets))

    async def _look(self, key: str, batch: Batch) -> None:
        api = self._desk.apis[batch.target]
        try:
            results = await api.outcomes(batch.id)
        except BatchFailedError as exc:
            results = _for_all(key, batch, exc)
        except NoSuchBatchError:
            if age_s(batch.at) < UNKNOWN_S:
                raise
            log.error("batch_unknown", batch=key, id=batch.id, target=batch.target, next="its tickets go by calls")
            await self._finish(key, batch, {})
            return
        if results is None:
            return
        await self._finish(key, batch, results)
        try:
            await api.delete(batch.id)
        except (RetryableError, PermanentError) as exc:
            log.warning(
                "batch_not_deleted", batch=key, id=batch.id, reason=exc.reason, next="the provider does, in time"
            )

    # -- its end --------------------------------------------------------------------------------------------------

    async def _finish(self, key: str, batch: Batch, results: Mapping[str, Outcome]) -> None:
        """Publish what came of a batch, some hundred tickets at a time; what is to be tried again is the next one."""
        again: list[BatchTicket] = []
        left = list(batch.tickets)
        while left:
            chunk, left = left[:COMMIT_TICKETS], left[COMMIT_TICKETS:]
            sources = await self._partition.read_again({ticket.offset for ticket in chunk})
            ends: list[End] = []
            for ticket in chunk:
                if ticket.offset not in sources:
                    result = results.get(_custom_id(key, ticket))
                    target = self._batching.target_of(batch.target)
                    self._give_up(key, ticket, self._batching.charged_micro_usd(result, target))
            for ticket, record, concluded in await asyncio.to_thread(
                self._concluded, key, batch, chunk, sources, results
            ):
                if concluded.step == "again":
                    again.append(ticket)
                else:
                    self._settle(ticket, concluded.charged_micro_usd)
                    ends.append((_settled(record, concluded, batch.number), sources[ticket.offset]))
            rest = msgspec.structs.replace(batch, tickets=(*again, *left))
            await self._commit(ends, [(key, rest)] if left else [(key, None), *_next(rest)])
        log.info("batch_finished", batch=key, id=batch.id, tickets=len(batch.tickets), again=len(again))

    def _concluded(
        self,
        key: str,
        batch: Batch,
        tickets: Iterable[BatchTicket],
        sources: Mapping[int, ConsumerRecord],
        results: Mapping[str, Outcome],
    ) -> list[tuple[BatchTicket, Record[Routed], Concluded]]:
        """What follows from each ticket's result."""
        concluded = []
        for ticket in tickets:
            if (source := sources.get(ticket.offset)) is None:
                continue
            record = ticket_of(source)
            conclusion = self._batching.conclude(
                record.value,
                results.get(_custom_id(key, ticket)),
                self._batching.target_of(batch.target),
                batch.phone_region,
                number=batch.number,
                reserved_micro_usd=ticket.micro_usd,
                duration_s=age_s(batch.at),
            )
            concluded.append((ticket, record, conclusion))
        return concluded

    def _give_up(self, key: str, ticket: BatchTicket, charged_micro_usd: int | None) -> None:
        """Retention has taken a ticket while it was in a batch."""
        log.error("batch_ticket_gone", batch=key, offset=ticket.offset, consequence="nobody answers it")
        self._settle(ticket, charged_micro_usd)

    def _settle(self, ticket: BatchTicket, charged_micro_usd: int | None) -> None:
        """None: nobody knows, so that its worst case stays counted."""
        charged = ticket.micro_usd if charged_micro_usd is None else charged_micro_usd
        self._desk.spend.settle(Reservation(ticket.reservation, ticket.micro_usd), charged)

    async def _commit(
        self, ends: Sequence[End], batches: Sequence[tuple[str, Batch | None]], taken_out: Iterable[int] = ()
    ) -> None:
        await self._partition.commit(ends, batches, tuple(taken_out))
        for key, batch in batches:
            self._desk.ids.pop(key, None)
            if batch is None:
                del self.batches[key], self._due_s[key]
                continue
            self.batches[key] = batch
            if batch.id:
                self._desk.ids[key] = batch.id
            # A new one is submitted at once, unless it is made of what has just failed.
            wait_s = self._settings.batch_poll_s if batch.number > 1 else 0.0
            self._due_s.setdefault(key, time.monotonic() + wait_s)


def _custom_id(key: str, ticket: BatchTicket) -> str:
    """The ticket's place, since an id of a helpdesk's may hold what no custom_id does."""
    return f"{key}-{ticket.offset}"


def _for_all(key: str, batch: Batch, outcome: Outcome) -> dict[str, Outcome]:
    return dict.fromkeys((_custom_id(key, ticket) for ticket in batch.tickets), outcome)


def _next(rest: Batch) -> list[tuple[str, Batch]]:
    """The batch of the tickets that have no answer."""
    if not rest.tickets:
        return []
    return [(new_key(), msgspec.structs.replace(rest, id="", number=rest.number + 1, at=utc_now()))]


def _settled(record: Record[Routed], concluded: Concluded, number: int) -> Settled:
    step = concluded.step
    if isinstance(step, Draft):
        output = Output(DRAFTS, record.value.ticket.ticket_id, step)
        return Settled(record.origin, Done((output,), draft_event("tier2", record.origin, step)), number)
    if isinstance(step, Exception):
        return Settled(record.origin, to_a_person(record, step), number)
    return by_calls(record, number)
