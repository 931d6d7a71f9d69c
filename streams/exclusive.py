"""A command of which one works at a time: its producer fences an earlier one, and its transactions are all or nothing.

Once the producer has started, whatever an earlier one did is committed or gone: only then is its work to be read.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.topics import DEAD_LETTERS, MIB
from streams.connection import connection
from streams.runtime.closing import CLOSE_LIMIT_S, closed
from streams.settings import KafkaSettings

SWEEP_S = 10.0
"""How often a broker looks for transactions that are past their timeout (its default)."""


def patience_s(settings: KafkaSettings) -> float:
    """By then a transaction of ours that was open has ended, or Kafka is away."""
    return settings.transaction_timeout_s + SWEEP_S + CLOSE_LIMIT_S


@asynccontextmanager
async def exclusive_producer(settings: KafkaSettings, name: str) -> AsyncIterator[AIOKafkaProducer]:
    """The one producer of that name: once it has started, no earlier one commits anything.

    Raises: TimeoutError if it can't start; in the block, ProducerFenced or IllegalOperation once a later one has.
    """
    producer = AIOKafkaProducer(
        **connection(settings),
        client_id=f"headgate-{name}",
        transactional_id=f"{settings.topic_prefix}headgate-{name}",
        transaction_timeout_ms=int(settings.transaction_timeout_s * 1000),
        max_request_size=DEAD_LETTERS.max_message_bytes + MIB,
        # A record that its producer had compressed may be larger than its topic takes without.
        compression_type="gzip",
    )
    try:
        async with asyncio.timeout(settings.transaction_timeout_s + SWEEP_S):
            await producer.start()
        yield producer
    finally:
        await closed(producer.stop)


@asynccontextmanager
async def transaction(producer: AIOKafkaProducer, limit_s: float) -> AsyncIterator[None]:
    """A transaction that the block commits; aborted if the block fails or takes too long. Raises: TimeoutError."""
    try:
        async with asyncio.timeout(limit_s):
            await producer.begin_transaction()
            yield
    except BaseException:
        # Else readers of these topics wait for its timeout. A producer that is fenced or has begun to commit can't
        # abort, and asserts.
        with suppress(KafkaError, TimeoutError, AssertionError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await producer.abort_transaction()
        raise
