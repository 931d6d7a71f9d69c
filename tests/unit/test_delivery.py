"""How commits are sent: in which order, in which batches, and how soon after each other."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata
from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import ANSWERS, DEAD_LETTERS, EVENTS, SEEN
from streams.runtime import delivery
from streams.runtime.messages import Message
from streams.runtime.offsets import CommitPoint
from streams.settings import KafkaSettings

PARTITIONS = 4
AT = TopicPartition("tickets", 1)


class Recorder:
    """Stands for the producer and the consumer: keeps what they are told, in order. Batches are the real ones."""

    def __init__(self, batch_bytes: int = 16_384) -> None:
        self.batch_bytes = batch_bytes
        self.told: list[tuple[str, int, int]] = []

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(PARTITIONS))

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.batch_bytes, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[None]":
        self.told.append((topic, partition, batch.record_count()))
        delivered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        delivered.set_result(None)
        return delivered

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self.told.append(("commit", AT.partition, offsets[AT].offset))


def message(topic: Any, key: bytes | None = b"k", value: bytes = b"v", partition: int | None = None) -> Message:
    return Message(topic, key, value, (("name", b"value"),), partition=partition)


async def test_a_ticket_is_remembered_after_its_answer_and_finished_after_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a transaction a crash may fall between any two of them: no order but this one loses nothing."""
    recorder = Recorder()
    monkeypatch.setattr(delivery, "AIOKafkaProducer", lambda **_: recorder)
    plain = delivery.AtLeastOnce(KafkaSettings(), "g", AT, recorder)
    messages = [message(SEEN, partition=1), message(ANSWERS), message(EVENTS), message(SEEN, partition=1)]
    await plain.commit(messages, CommitPoint(7))
    topics = [topic for topic, *_ in recorder.told]
    assert topics == ["answers", "events", "seen", "commit"]
    assert recorder.told[2] == ("seen", 1, 2)
    assert recorder.told[3] == ("commit", 1, 7)


async def test_batches_keep_the_order_of_a_partition_and_their_size() -> None:
    """What doesn't fit goes into the next batch; a message larger than a batch has one of its own."""
    recorder = Recorder(batch_bytes=1000)
    values = [b"a" * 400, b"b" * 400, b"c" * 5000, b"d"]
    await delivery._send(recorder, "p-", [message(ANSWERS, value=v) for v in values])
    (partition,) = {partition for _, partition, _ in recorder.told}
    assert recorder.told == [("p-answers", partition, n) for n in (2, 1, 1)]


@given(st.binary(min_size=1, max_size=40))
def test_a_key_goes_where_every_kafka_client_sends_it(key: bytes) -> None:
    """Consumers may join topics by partition."""
    usual = DefaultPartitioner()(key, list(range(PARTITIONS)), [])
    assert delivery._partition_of(message(ANSWERS, key), PARTITIONS) == usual


def test_a_message_without_a_key_goes_anywhere() -> None:
    """A dead letter may have none."""
    assert {delivery._partition_of(message(DEAD_LETTERS, None), PARTITIONS) for _ in range(200)} == set(range(4))


def test_the_name_that_makes_transactions_quick_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is aiokafka's own: should it go, a hop takes ten times as long, and nothing else would say so."""
    monkeypatch.setattr(sender, "BACKOFF_OVERRIDE", 0.02)
    delivery.hasten()
    assert sender.BACKOFF_OVERRIDE == delivery.TRANSACTION_BACKOFF_S
    used = sender.AddPartitionsToTxnHandler.handle_response.__code__.co_names
    assert "BACKOFF_OVERRIDE" in used
    monkeypatch.setattr(sender, "BACKOFF_OVERRIDE", None)
    with pytest.raises(TypeError, match="BACKOFF_OVERRIDE"):
        delivery.hasten()
