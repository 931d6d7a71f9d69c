"""What a helpdesk and a reader do on a topic, for the tests that need a real broker: raw bytes in, raw records out."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from streams.settings import KafkaSettings


def kafka_settings(servers: str, prefix: str = "", partitions: int = 2, replication_factor: int = 1) -> KafkaSettings:
    """Of a broker that asks for no login."""
    return KafkaSettings(
        bootstrap_servers=servers, topic_prefix=prefix, partitions=partitions, replication_factor=replication_factor
    )


Headers = Sequence[tuple[str, bytes | None]]


def ticket(ticket_id: str, body: str = "Where is my router?") -> bytes:
    """The least that a helpdesk publishes."""
    return msgspec.json.encode({"ticket_id": ticket_id, "body": body})


async def write(
    servers: str,
    topic: str,
    records: Sequence[tuple[bytes | None, bytes | None]],
    headers: Headers = (),
    partition: int | None = None,
) -> None:
    """Publish (key, value) pairs as a plain producer without transactions does."""
    async with AIOKafkaProducer(bootstrap_servers=servers, max_request_size=8 << 20) as producer:
        sent = [await producer.send(topic, v, key=k, headers=list(headers), partition=partition) for k, v in records]
        await asyncio.gather(*sent)


async def write_tickets(servers: str, prefix: str, ids: Sequence[str], partition: int | None = None) -> None:
    """Publish tickets under their ids."""
    await write(servers, prefix + "tickets", [(i.encode(), ticket(i)) for i in ids], partition=partition)


async def committed_records(servers: str, topic: str, wanted: int, limit_s: float = 40.0) -> list[ConsumerRecord]:
    """What a read_committed reader finds once `wanted` records are there, and everything that stands behind them.

    Fewer than wanted come back after `limit_s`: the caller's assertion then says what is missing.
    """
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    found: list[ConsumerRecord] = []
    async with consumer:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            polled = await consumer.getmany(timeout_ms=200)
            found += [record for records in polled.values() for record in records]
            if len(found) >= wanted and not polled:
                break
    return found


async def group_offsets(servers: str, prefix: str, topic: str = "tickets") -> dict[int, int]:
    """The committed offsets of the router's group by partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(f"{prefix}headgate-router")
    finally:
        await admin.close()
    return {p.partition: o.offset for p, o in offsets.items() if p == TopicPartition(prefix + topic, p.partition)}


async def until(condition: Callable[[], Awaitable[bool] | bool], limit_s: float = 40.0) -> None:
    """Wait for a condition; one that meets a broker that is away is asked again."""
    deadline = time.monotonic() + limit_s
    while True:
        with suppress(KafkaError):
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s"
        await asyncio.sleep(0.05)
