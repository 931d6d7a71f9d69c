"""`headgate dead-letters requeue`: dead letters sent again to where they came from, each at most once.

A record and a marker behind its dead letter are published in one transaction. Invariants:
- A dead letter is requeued exactly if a committed marker names it.
- One requeue works at a time. Its producer's start fences an earlier one and waits until
  that one's last transaction is committed or gone; only then are the markers read.
- A marker stands in its dead letter's partition, behind it: retention takes it later.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, MessageSizeTooLargeError, ProducerFenced
from rich.console import Console

from schemas.topics import MIB
from streams.dead_letters import DeadLetterTopic, line, opened
from streams.exclusive import exclusive_producer, transaction
from streams.letters import DeadLettersError, Filters, Letter, LetterId, Message, Plan, messages, plan
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings

CHUNK_RECORDS, CHUNK_BYTES = 100, 8 * MIB
"""Of one transaction: enough that its fixed cost doesn't count, little enough to hold in memory (guesses)."""

Chunk = Sequence[tuple[Letter, bytes | None]]


async def requeue(
    settings: KafkaSettings, ids: Sequence[LetterId], filters: Filters, dry_run: bool, out: Console
) -> None:
    """Send dead letters again: those named, or without names all that the filters take. May be repeated.

    Raises: DeadLettersError for a named one that isn't there (nothing is sent then) or can't be requeued (others are).
    """
    async with opened(settings) as topic:
        work = _Requeue(settings, topic, out)
        if dry_run:
            todo = await _planned(topic, ids, filters)
            for letter in todo.letters:
                line(out, f"{letter.id} would go to {letter.source}")
        else:
            todo = await work.run(ids, filters)
    for id_ in todo.requeued:
        if id_ not in work.sent:
            line(out, f"{id_} has been requeued before")
    for id_, why in (todo.refused | work.failed).items():
        line(out, f"{id_} can't be requeued: {why}")
    line(out, f"{len(todo.letters)} to requeue" if dry_run else f"{len(work.sent)} requeued")
    if ids and (todo.refused or work.failed):
        raise DeadLettersError("not all of the dead letters named can be requeued, see above")


async def _planned(topic: DeadLetterTopic, ids: Sequence[LetterId], filters: Filters) -> Plan:
    contents = await topic.contents(ids)
    return plan(contents, ids or [letter.id for letter in contents.chosen(filters)], topic.partitions)


@asynccontextmanager
async def _only_requeue(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    """The one producer that may requeue: once it has started, no earlier one commits anything."""
    try:
        async with exclusive_producer(settings, "requeue") as producer:
            yield producer
    except (ProducerFenced, IllegalOperation) as exc:
        raise DeadLettersError("another requeue has begun since; what is listed above stays requeued") from exc
    except TimeoutError as exc:
        again = "run it again, what has been requeued is not sent twice"
        raise DeadLettersError(f"Kafka did not answer in time: {again}") from exc


class _Requeue:
    """One run, and what it has done so far."""

    def __init__(self, settings: KafkaSettings, topic: DeadLetterTopic, out: Console) -> None:
        self.settings = settings
        self.topic = topic
        self.out = out
        self.sent: set[LetterId] = set()
        self.failed: dict[LetterId, str] = {}
        """Which ones could not be requeued, and why."""

    async def run(self, ids: Sequence[LetterId], filters: Filters) -> Plan:
        """Requeue all that can be; returns the last plan."""
        while True:
            async with _only_requeue(self.settings) as producer:
                todo = await _planned(self.topic, ids, filters)
                left = [letter for letter in todo.letters if letter.id not in self.failed]
                async for chunk in self._chunks(left):
                    if too_large := await self._transaction(producer, chunk):
                        self.failed |= dict.fromkeys(too_large, "its topic takes no record of this size")
                        # The producer's sequence is broken by it. The next producer starts with the markers again:
                        # between the two somebody else may have requeued.
                        break
                    for letter, _ in chunk:
                        self.sent.add(letter.id)
                        line(self.out, f"{letter.id} requeued to {letter.source}")
                else:
                    gone = [x.id for x in left if x.id not in self.sent]
                    self.failed |= dict.fromkeys(gone, "retention has taken it")
                    return todo

    async def _chunks(self, letters: Sequence[Letter]) -> AsyncIterator[Chunk]:
        chunk: list[tuple[Letter, bytes | None]] = []
        async for letter, body in self.topic.bodies(letters):
            chunk.append((letter, body))
            if len(chunk) >= CHUNK_RECORDS or sum(each.size_bytes for each, _ in chunk) >= CHUNK_BYTES:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    async def _transaction(self, producer: AIOKafkaProducer, chunk: Chunk) -> set[LetterId]:
        """Send all and commit; or nothing, and return which dead letters are too large for their topic."""
        sends = [message for letter, body in chunk for message in messages(letter, body, utc_now())]
        async with transaction(producer, self.settings.transaction_timeout_s):
            too_large = await self._refused(producer, sends)
            if not too_large:
                await producer.commit_transaction()
            return too_large

    async def _refused(self, producer: AIOKafkaProducer, sends: Sequence[Message]) -> set[LetterId]:
        """Send; returns on behalf of which dead letters a record was refused for its size."""
        futures = [
            await producer.send(m.topic or self.topic.name, m.value, m.key, m.partition, headers=list(m.headers))
            for m in sends
        ]
        results = await asyncio.gather(*futures, return_exceptions=True)
        refused = {
            m.of for m, result in zip(sends, results, strict=True) if isinstance(result, MessageSizeTooLargeError)
        }
        if not refused:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return refused
