"""`headgate dead-letters list` and `show`: the dead letters of every stage, read for an operator.

Invariant: the topic is read up to the high watermark. The last stable offset, at which
committed records end, may stand before what was committed long ago: a transaction that
is still open holds it back. A requeue that missed a marker so would send twice.
"""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.topics import DEAD_LETTERS
from streams.connection import connection
from streams.exclusive import patience_s
from streams.letters import (
    UNITS_S,
    Contents,
    Filters,
    Letter,
    LetterId,
    contents_of,
    parsed,
    preview,
    printable,
    summary,
)
from streams.read import between
from streams.runtime.clock import age_s
from streams.runtime.closing import closed
from streams.settings import KafkaSettings
from streams.topics import TopicsError, show


async def print_list(settings: KafkaSettings, filters: Filters, requeued: bool, as_json: bool, out: Console) -> None:
    """Dead letters that are not requeued (or all), oldest first and without bodies; then how many of which reason."""
    async with opened(settings) as topic:
        contents = await topic.contents()
    letters = contents.chosen(filters, requeued)
    if as_json:
        for letter in letters:
            sys.stdout.write(orjson.dumps(summary(letter, contents)).decode() + "\n")
        return
    columns = ("id", "stage", "reason", "exception", "attempts", "age", "key", "bytes", *["requeued_at"] * requeued)
    table = Table(*columns)
    for letter in letters:
        row = summary(letter, contents) | {"age": _age(age_s(letter.at))}
        table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in columns))
    out.print(table)
    for reason, count in Counter(letter.added("reason") for letter in letters).most_common():
        line(out, f"{count:>7}  {printable(reason)}")
    line(out, f"{len(letters):>7}  in all")


async def print_one(settings: KafkaSettings, id_: LetterId, raw: bool, out: Console) -> None:
    """A dead letter's headers and its body; raw is the body's bytes and nothing else.

    Raises: DeadLettersError if it isn't there.
    """
    async with opened(settings) as topic:
        contents = await topic.contents([id_])
        letter = contents.letter(id_)
        (body,) = [body async for _, body in topic.bodies([letter])] or [None]
    if raw:
        sys.stdout.buffer.write(body or b"")
        sys.stdout.buffer.flush()
        return
    for name, value in summary(letter, contents).items():
        if value is not None:
            line(out, f"{name}: {value}")
    line(out, "\nheaders")
    for name, header in [*letter.own_headers, *letter.added_headers.items()]:
        shown = "(no value)" if header is None else header.decode("utf-8", "backslashreplace")
        line(out, printable(f"  {name}: {shown}"))
    line(out, "\nbody")
    line(out, preview(body))


def line(out: Console, text: str) -> None:
    """Print text as it is."""
    # Text, not str: what stands in brackets would be taken for the console's own markup.
    out.print(Text(text), soft_wrap=True)


def _age(age_s: float) -> str:
    unit, unit_s = next(((u, s) for u, s in reversed(UNITS_S.items()) if age_s >= s), ("s", 1))
    return f"{age_s / unit_s:.0f} {unit}"


@dataclass(frozen=True, slots=True)
class DeadLetterTopic:
    """The dead-letters topic, open for reading."""

    name: str
    partitions: Mapping[str, int]
    """Of every topic of ours, by its full name."""
    committed: AIOKafkaConsumer
    uncommitted: AIOKafkaConsumer
    """Asked for offsets only: the end that a reader of committed records is told is the last stable offset."""
    patience_s: float
    """By then a transaction that was open has ended, or Kafka is away."""

    async def contents(self, ids: Sequence[LetterId] = ()) -> Contents:
        """All that the topic holds now; with ids, no more than what tells of them: they and what stands behind them."""
        numbers = {id_.partition for id_ in ids} if ids else set(range(self.partitions[self.name]))
        asked = [TopicPartition(self.name, number) for number in numbers if number < self.partitions[self.name]]
        starts = await self.uncommitted.beginning_offsets(asked)
        ends = await self.uncommitted.end_offsets(asked)
        firsts = {p: min((i.offset for i in ids if i.partition == p.partition), default=0) for p in asked}
        spans = {p: (max(firsts[p], starts[p]), ends[p]) for p in asked}
        return contents_of([parsed(record) async for record in self._read(spans)])

    async def bodies(self, letters: Iterable[Letter]) -> AsyncIterator[tuple[Letter, bytes | None]]:
        """The letters again, with their bodies; one that retention took in between is left out."""
        wanted = {letter.id: letter for letter in letters}
        spans = {}
        for number in {id_.partition for id_ in wanted}:
            offsets = [id_.offset for id_ in wanted if id_.partition == number]
            spans[TopicPartition(self.name, number)] = (min(offsets), max(offsets) + 1)
        async for record in self._read(spans):
            if letter := wanted.get(LetterId(record.partition, record.offset)):
                yield letter, record.value

    def _read(self, spans: Mapping[TopicPartition, tuple[int, int]]) -> AsyncIterator[ConsumerRecord]:
        return between(self.committed, spans, self.patience_s)


@asynccontextmanager
async def opened(settings: KafkaSettings) -> AsyncIterator[DeadLetterTopic]:
    """The topic while the block runs. Raises: TopicsError if Kafka can't be reached or the topic is not there."""
    # The admin client says so at once; a consumer of a topic that isn't there tries for most of a minute.
    partitions = {t.topic: t.partitions for t in await show(settings)}
    name = settings.topic_prefix + DEAD_LETTERS.name
    if not partitions.get(name):
        raise TopicsError(f"no topic {name}: create them with `headgate topics apply`")
    common = {
        "client_id": "headgate-dead-letters",
        "enable_auto_commit": False,
        # Retention may take what an offset points to before it is read.
        "auto_offset_reset": "earliest",
    }
    committed = AIOKafkaConsumer(**connection(settings), isolation_level="read_committed", **common)
    uncommitted = AIOKafkaConsumer(**connection(settings), isolation_level="read_uncommitted", **common)
    try:
        await committed.start()
        await uncommitted.start()
        yield DeadLetterTopic(name, partitions, committed, uncommitted, patience_s(settings))
    finally:
        await closed(committed.stop)
        await closed(uncommitted.stop)
