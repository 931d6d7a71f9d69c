"""Records as large as their topic takes, a byte larger, and larger once unpacked: none stops its partition."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import ConsumerRecord

from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import ANSWERS, DEAD_LETTERS, TICKETS
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime import dispatcher, offsets
from streams.runtime.clock import utc_now
from streams.runtime.loop import StageLoop
from streams.runtime.stage import Done, Output, Record, Stage, singly
from streams.settings import KafkaSettings
from tests.kafka import Headers, committed_records, ticket, write_tickets
from workers.errors import RetryableError
from workers.retry import RetryLimits

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


async def answer(record: Record[Ticket]) -> Done:
    key = record.value.ticket_id
    event = Event(event_id=f"router/{record.origin}", at=utc_now(), stage="router", outcome="answered", ticket_id=key)
    return Done((Output(ANSWERS, key, record.value),), event)


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0)


@asynccontextmanager
async def running(settings: KafkaSettings, stage: Stage[Ticket] | None = None) -> AsyncIterator[None]:
    """A stage at work; stopped, and waited for, when the block ends."""
    loop = StageLoop(stage or Stage("router", TICKETS, Ticket, singly(answer), batch_size=1), settings)
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        loop.stop()
        await asyncio.wait_for(task, 30)


def batch_bytes(key: bytes, value: bytes) -> int:
    """The size that the broker holds against max.message.bytes: of the batch, even of one record."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=8 * MIB,
    )
    assert builder.append(0, int(time.time() * 1000), key, value, [])
    return len(builder.build())


def ticket_of(ticket_id: str, size_bytes: int) -> bytes:
    """A ticket whose batch has that size."""
    body = "x" * (size_bytes - 256)
    missing_bytes = size_bytes - batch_bytes(ticket_id.encode(), ticket(ticket_id, body))
    return ticket(ticket_id, body + "x" * missing_bytes)


async def send(
    settings: KafkaSettings, key: bytes, value: bytes, headers: Headers = (), compression: str | None = None
) -> None:
    """Publish one record to partition 0 of the tickets, from a helpdesk whose own limits are wide."""
    async with AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers, max_request_size=32 * MIB, compression_type=compression
    ) as producer:
        topic = settings.topic_prefix + "tickets"
        await producer.send_and_wait(topic, value, key=key, headers=list(headers), partition=0)


async def left(settings: KafkaSettings, topic: str, wanted: int) -> dict[bytes, ConsumerRecord]:
    """The topic's records by key; each came once."""
    records = await committed_records(settings.bootstrap_servers, settings.topic_prefix + topic, wanted)
    assert len(records) == len({r.key for r in records})
    return {r.key: r for r in records}


async def test_the_largest_ticket_that_the_topic_takes_is_answered(settings: KafkaSettings) -> None:
    """A byte more, and the broker refuses it: the helpdesk's own call fails, and no stage ever meets it."""
    largest = ticket_of("largest", TICKETS.max_message_bytes)
    async with running(settings):
        await send(settings, b"largest", largest)
        with pytest.raises(MessageSizeTooLargeError):
            await send(settings, b"larger!", largest.replace(b"largest", b"larger!").replace(b"xx", b"xxx", 1))
        await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ["after"], partition=0)
        answers = await left(settings, "answers", 2)
    assert answers.keys() == {b"largest", b"after"}
    assert msgspec.json.decode(answers[b"largest"].value)["body"] == msgspec.json.decode(largest)["body"]


async def test_a_ticket_that_unpacks_to_more_than_its_topic_takes(settings: KafkaSettings) -> None:
    """The broker sees the compressed batch only. What the outputs' topics take is answered, what they don't is buried
    with as much of it as fits."""
    async with running(settings):
        await send(settings, b"fits", ticket_of("fits", 3 * MIB), compression="gzip")
        await send(settings, b"vast", ticket_of("vast", 6 * MIB), compression="gzip")
        await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ["after"], partition=0)
        answers = await left(settings, "answers", 2)
        dead = await left(settings, "dead-letters", 1)
    assert answers.keys() == {b"fits", b"after"}
    headers = dict(dead[b"vast"].headers)
    assert b"too large" in headers["headgate-reason"]
    assert int(headers["headgate-cut-from-bytes"]) == len(ticket_of("vast", 6 * MIB))
    assert len(dead[b"vast"].value) > DEAD_LETTERS.max_message_bytes - MIB // 16


@pytest.mark.parametrize("part", ["key", "headers"])
async def test_poison_whose_key_or_headers_unpack_to_more_than_any_topic_takes(
    settings: KafkaSettings, part: str
) -> None:
    """Cutting its value doesn't help; it leaves all the same."""
    large = b"k" * (6 * MIB)
    key, headers = (large, ()) if part == "key" else (b"k", (("large", large),))
    async with running(settings):
        await send(settings, key, b"no ticket", headers, compression="gzip")
        await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ["after"], partition=0)
        answers = await left(settings, "answers", 1)
        dead = await left(settings, "dead-letters", 1)
    assert answers.keys() == {b"after"}
    (letter,) = dead.values()
    assert letter.value == b"no ticket"
    assert dict(letter.headers)["headgate-origin"] == f"{settings.topic_prefix}tickets/0/0".encode()


@pytest.mark.parametrize(
    ("size_bytes", "parks"), [(TICKETS.max_message_bytes, 1), (3 * MIB, 0)], ids=["the largest", "compressed"]
)
async def test_a_large_ticket_whose_retry_is_in_the_way_is_answered(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, size_bytes: int, parks: int
) -> None:
    """The retry topic has room for the largest ticket and its life so far; one that is larger, since it came in
    compressed, stays where it is until its back-off is over."""
    monkeypatch.setattr(offsets, "SLOW_FROM", 1)
    monkeypatch.setattr(dispatcher, "PARK_S", 0.1)
    failed = asyncio.Event()

    async def fails_first(record: Record[Ticket]) -> Done:
        if record.value.ticket_id == "large" and not failed.is_set():
            failed.set()
            raise RetryableError("busy")
        return await answer(record)

    # It rests until the ticket behind it comes and pushes it out of the way.
    limits = RetryLimits(attempts=3, first_delay_s=8.0)
    async with running(settings, Stage("router", TICKETS, Ticket, singly(fails_first), batch_size=1, retry=limits)):
        await send(settings, b"large", ticket_of("large", size_bytes), compression="gzip")
        await asyncio.wait_for(failed.wait(), 30)
        await write_tickets(settings.bootstrap_servers, settings.topic_prefix, ["after"], partition=0)
        events = await left(settings, "events", 2)
        outcomes = {key: msgspec.json.decode(event.value)["outcome"] for key, event in events.items()}
        parked = await left(settings, "tickets.retry", parks)
    assert outcomes == {b"large": "answered", b"after": "answered"}
    assert len(parked) == parks
