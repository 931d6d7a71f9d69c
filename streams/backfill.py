"""`headgate backfill`: past tickets once more, on the slow lane; a window of the tickets topic, each of them once.

Invariants:
- Tickets and the positions in the window are one transaction; a run that follows a kill goes on from the last one.
- One backfill works at a time: its producer fences an earlier one's, and only then is read what is on the slow lane.
- The window's end offsets are fixed when a pass begins, and kept beside the positions.
- No more than a set number of tickets is on the slow lane and has not ended: so Ctrl-C ends the spending, too.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, ProducerFenced
from aiokafka.structs import ConsumerRecord
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from schemas.codec import PoisonError, decode
from schemas.tickets import Ticket
from schemas.topics import ANSWERS, MIB, all_names
from streams.backfill_plan import Asked, BackfillError, Chooser, Facts, Fate, Pass, Plan, goes_on, key_of
from streams.backfill_topics import BackfillTopics, opened, place
from streams.dead_letters import line
from streams.exclusive import exclusive_producer
from streams.runtime.headers import Replay
from streams.runtime.messages import Message
from streams.settings import KafkaSettings
from streams.topics import shape_of

CHUNK_RECORDS, CHUNK_BYTES = 100, 8 * MIB
"""Of one transaction: enough that its fixed cost doesn't count, little enough to hold in memory (guesses)."""
LOOK_S = 0.2
"""Between two looks at the events while nothing else is to be done (a guess)."""


async def backfill(settings: KafkaSettings, of: Asked, most_outstanding: int, dry_run: bool, out: Console) -> None:
    """Say what there is to do and what it may cost; then, unless dry, do it and wait until all of it has ended.

    Raises: BackfillError if it can't be done, or another backfill has begun since; TopicsError.
    """
    await _check_output(settings, of)
    async with opened(settings, of) as topics:
        if dry_run:
            await _begun(topics, None, out)
            return
        async with _only_backfill(settings) as producer:
            run = await _begun(topics, producer, out)
            try:
                await run.publish(producer, most_outstanding)
            except asyncio.CancelledError:
                line(out, f"stopped; {run.outstanding:,} tickets that are on the slow lane are answered all the same")
                line(out, "the same command goes on from here")
                raise
    run.report()


async def _check_output(settings: KafkaSettings, of: Asked) -> None:
    """Raises: BackfillError if answers and handoffs can't be written there: a stage that finds out later stops."""
    if of.output == ANSWERS.name:
        return
    name = settings.topic_prefix + of.output
    if name in all_names(settings.topic_prefix):
        raise BackfillError(f"--output {of.output}: that topic is Headgate's own; name one of yours")
    if (shape := await shape_of(settings, name)) is None:
        raise BackfillError(f"--output {of.output}: there is no topic {name}; create it first")
    limit_bytes = int(shape.config["max.message.bytes"])
    if limit_bytes < ANSWERS.max_message_bytes:
        needed = f"an answer may have {ANSWERS.max_message_bytes}: set its max.message.bytes to that"
        raise BackfillError(f"--output {of.output}: {name} takes records of {limit_bytes} bytes, and {needed}")


@asynccontextmanager
async def _only_backfill(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    try:
        async with exclusive_producer(settings, "backfill") as producer:
            yield producer
    except (ProducerFenced, IllegalOperation) as exc:
        raise BackfillError("another backfill has begun since: run this one again when that one has ended") from exc
    except TimeoutError as exc:
        raise BackfillError("Kafka did not answer in time: run it again, it goes on where it was") from exc


async def _begun(topics: BackfillTopics, producer: AIOKafkaProducer | None, out: Console) -> "_Run":
    """Find out where the backfill stands, and say what there is to do. Nothing is written without a producer.

    Raises: BackfillError if there is nothing more to do.
    """
    facts, found = await topics.facts(), await topics.progress()
    outstanding = facts.outstanding[_replay_id(topics.of, found)] if found else 0
    if (number := goes_on(found, outstanding, topics.of.again)) is not None:
        found = await topics.window(number)
        if producer:
            await topics.commit(producer, (), found)
    assert found
    run = _Run(topics, facts, found, out)
    await run.look()
    return run


def _replay_id(of: Asked, in_pass: Pass) -> str:
    return f"{of.id}-{in_pass.number}"


class _Run:
    """One run of the command."""

    def __init__(self, topics: BackfillTopics, facts: Facts, reached: Pass, out: Console) -> None:
        self.topics, self.facts, self.out = topics, facts, out
        self.reached = reached
        self.id = _replay_id(topics.of, reached)
        self.plan = Plan()
        self.published = 0
        self._on_lane = facts.on_lane()

    @property
    def outstanding(self) -> int:
        """How many of this pass's tickets have not ended."""
        return self.facts.outstanding[self.id]

    def _chooser(self) -> Chooser:
        return Chooser(self.topics.of, self.facts, self._on_lane, self.facts.taken(self.id))

    async def look(self) -> None:
        """Count what there is to do, and say it."""
        chooser = self._chooser()
        async for record in self.topics.tickets(self.reached):
            fate, ticket, _ = self._looked_at(record, chooser)
            end = self.facts.ends.get(key_of(ticket)) if ticket else None
            self.plan.add(fate, self.facts.usd_of(end.category if end else None))
        of, table = self.topics.of, Table.grid(padding=(0, 2))
        line(self.out, f"backfill {self.id}: tickets from {of.since.isoformat()} to {of.until.isoformat()}")
        if self.outstanding:
            table.add_row("on the slow lane from before", f"{self.outstanding:,}")
        for name, value in self.plan.lines(of.since, self.facts.answered.total()):
            table.add_row(name, value)
        self.out.print(table)

    def _looked_at(self, record: ConsumerRecord, chooser: Chooser) -> tuple[Fate, Ticket | None, Message | None]:
        """What becomes of a record; its message is there if it is due."""
        try:
            ticket = decode(Ticket, record.value)
        except PoisonError:
            return Fate.UNREADABLE, None, None
        if (fate := chooser.fate(ticket)) is not Fate.DUE:
            return fate, ticket, None
        message = self.topics.message(record, self._replay(record))
        return (fate, ticket, message) if message.excess_bytes <= 0 else (Fate.TOO_LARGE, ticket, None)

    def _replay(self, record: ConsumerRecord) -> Replay:
        return Replay(self.id, place(record), self.topics.of.replay_output)

    async def publish(self, producer: AIOKafkaProducer, most_outstanding: int) -> None:
        """Put what is due on the slow lane, no faster than it drains; then wait until all of it has ended."""
        before = self.outstanding
        with _bar(self.out) as bar:
            task = bar.add_task("")

            async def follow() -> None:
                if not await self.topics.follow(self.facts):
                    await asyncio.sleep(LOOK_S)
                published = before + self.published
                bar.update(
                    task,
                    description=f"{self.outstanding:,} on the slow lane, ended:",
                    completed=published - self.outstanding,
                    # A ticket that is handed off meanwhile is taken, too.
                    total=max(before + self.plan.due, published),
                )

            async with aclosing(self._chunks(min(CHUNK_RECORDS, most_outstanding))) as chunks:
                async for chunk in chunks:
                    while self.outstanding + len(chunk.messages) > most_outstanding:
                        await follow()
                    await self.topics.commit(producer, chunk.messages, chunk.reached)
                    for ticket, replay in chunk.tickets:
                        self.facts.add_published(ticket, replay)
                    self.published += len(chunk.messages)
            while self.outstanding:
                await follow()

    async def _chunks(self, most_records: int) -> AsyncGenerator["_Chunk", None]:
        chooser, chunk, size_bytes = self._chooser(), _Chunk(self.reached), 0
        positions = {number: span.position for number, span in self.reached.spans.items()}
        async for record in self.topics.tickets(self.reached):
            positions[record.partition] = record.offset + 1
            _, ticket, message = self._looked_at(record, chooser)
            if ticket and message:
                chunk.messages.append(message)
                chunk.tickets.append((ticket, self._replay(record)))
                size_bytes += len(record.value or b"")
            if len(chunk.messages) >= most_records or size_bytes >= CHUNK_BYTES:
                chunk.reached = self.reached.moved(positions)
                yield chunk
                chunk, size_bytes = _Chunk(self.reached), 0
        chunk.reached = self.reached.moved({number: span.end for number, span in self.reached.spans.items()})
        yield chunk

    def report(self) -> None:
        """Say how the tickets of this pass have ended."""
        outcomes = self.facts.outcomes(self.id)
        ended = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(outcomes.items()))
        line(self.out, f"{ended or 'nothing to do'}; the header headgate-replay-id of all of it is {self.id}")
        if (gone := self.plan.due - self.published) > 0:
            line(self.out, f"{gone:,} were taken by retention before it was their turn")


@dataclass(slots=True)
class _Chunk:
    """What one transaction publishes, and where the pass stands then."""

    reached: Pass
    messages: list[Message] = field(default_factory=list)
    tickets: list[tuple[Ticket, Replay]] = field(default_factory=list)


def _bar(out: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=out)
