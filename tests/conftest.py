"""Fixtures that more than one folder of tests uses: a real broker, and topics of a test's own on it."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from schemas.topics import all_names
from streams import topics as topic_admin
from streams.local.embedded_kafka import EmbeddedKafka, EmbeddedKafkaError
from tests.kafka import kafka_settings


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker for the whole run. Tests that kill brokers start their own."""
    broker = EmbeddedKafka(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
    except EmbeddedKafkaError as exc:
        # Not HEADGATE_REQUIRE_KAFKA: variables of that prefix are settings, and unknown ones stop a stage.
        if os.environ.get("CI") == "true" or os.environ.get("REQUIRE_KAFKA"):
            raise
        pytest.skip(f"no Kafka here, so nothing that needs one is tested: {exc}")
    yield broker
    broker.stop()


@pytest.fixture
async def topics(kafka: EmbeddedKafka) -> AsyncIterator[str]:
    """The prefix of topics that only this test uses: all of the table, 2 partitions each, ready."""
    prefix = f"test-{uuid.uuid4().hex[:8]}-"
    await topic_admin.apply(kafka_settings(kafka.bootstrap_servers, prefix))
    yield prefix
    # Hundreds of partitions would slow down everything that follows on this broker.
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.delete_topics(list(all_names(prefix)))
    await admin.close()
