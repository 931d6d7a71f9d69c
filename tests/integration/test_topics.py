"""Topics on a real broker: created, grown, left alone, shown."""

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.topics import DAY_MS, all_names
from streams import topics as topic_admin
from streams.local.embedded_kafka import EmbeddedKafka
from streams.topics import Applied, TopicsError, TopicState, apply, show
from tests.kafka import kafka_settings

pytestmark = pytest.mark.integration


async def test_applying_twice_changes_nothing_the_second_time(kafka: EmbeddedKafka, topics: str) -> None:
    """Every stage of a deployment may run it at every start."""
    before = await show(kafka_settings(kafka.bootstrap_servers, topics))
    applied = await apply(kafka_settings(kafka.bootstrap_servers, topics))
    assert {(a.action, a.drift) for a in applied} == {("kept", ())}
    assert await show(kafka_settings(kafka.bootstrap_servers, topics)) == before


async def test_every_topic_of_the_table_is_created_as_the_table_says(kafka: EmbeddedKafka, topics: str) -> None:
    """Partitions, leaders, retention and clean-up, read back from the broker."""
    states = {state.topic: state for state in await show(kafka_settings(kafka.bootstrap_servers, topics))}
    assert states.keys() == all_names(topics).keys()
    assert states[topics + "answers"] == TopicState(topics + "answers", (1, 1), 30 * DAY_MS, "delete", 0)
    assert states[topics + "policy"] == TopicState(topics + "policy", (1,), -1, "compact", 0)
    assert states[topics + "tickets.backfill"].partitions == 2


async def test_a_larger_number_adds_partitions_and_a_smaller_one_takes_none_away(
    kafka: EmbeddedKafka, topics: str
) -> None:
    """Scaling out is a changed setting and one command; the policy topic stays whole."""
    grown = {a.topic: a for a in await apply(kafka_settings(kafka.bootstrap_servers, topics, partitions=3))}
    assert grown[topics + "tickets"] == Applied(topics + "tickets", "grown", 3)
    assert grown[topics + "policy"] == Applied(topics + "policy", "kept", 1)
    again = {a.topic: a for a in await apply(kafka_settings(kafka.bootstrap_servers, topics))}
    assert again[topics + "tickets"] == Applied(topics + "tickets", "kept", 3, ("has 3 partitions, wanted 2",))
    states = {state.topic: state for state in await show(kafka_settings(kafka.bootstrap_servers, topics))}
    assert states[topics + "tickets"].leaders == (1, 1, 1)


async def test_a_topic_that_somebody_else_made_is_left_as_it_is(kafka: EmbeddedKafka) -> None:
    """What differs is reported, with both values."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic("theirs-tickets", 1, 1, topic_configs={"retention.ms": "1000"})])
    await admin.close()
    for _ in range(2):
        applied = {a.topic: a for a in await apply(kafka_settings(kafka.bootstrap_servers, "theirs-", partitions=1))}
    assert applied["theirs-tickets"].action == "kept"
    assert applied["theirs-tickets"].drift[0] == f"retention.ms is 1000, wanted {7 * DAY_MS}"
    assert applied["theirs-answers"].drift == ()


async def test_records_are_counted_over_all_partitions(kafka: EmbeddedKafka, topics: str) -> None:
    """And each topic by itself."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        for partition in (0, 1, 1):
            await producer.send_and_wait(topics + "tickets", b"{}", partition=partition)
    records = {state.topic: state.records for state in await show(kafka_settings(kafka.bootstrap_servers, topics))}
    assert records.pop(topics + "tickets") == 3
    assert set(records.values()) == {0}


async def test_missing_topics_are_shown_without_partitions(kafka: EmbeddedKafka) -> None:
    """And showing them creates none."""
    for _ in range(2):
        states = await show(kafka_settings(kafka.bootstrap_servers, "never-applied-"))
        assert [state.topic for state in states] == list(all_names("never-applied-"))
        assert {state.partitions for state in states} == {0}


async def test_a_refused_creation_names_the_topic_and_the_reason(kafka: EmbeddedKafka) -> None:
    """Three copies can't be had on one broker."""
    with pytest.raises(TopicsError, match=r"could not create refused-\S+: .*replication factor"):
        await apply(kafka_settings(kafka.bootstrap_servers, "refused-", partitions=1, replication_factor=3))


async def test_a_partition_that_gets_no_leader_is_named(kafka: EmbeddedKafka, topics: str) -> None:
    """The wait ends, and says which partition it waited for."""
    async with topic_admin._admin(kafka_settings(kafka.bootstrap_servers)) as admin:
        with pytest.raises(TopicsError, match=f"without a leader: {topics}tickets/2"):
            await topic_admin._wait_for_leaders(admin, {topics + "tickets": 3}, limit_s=0.2)


async def test_an_absent_broker_is_named() -> None:
    """Not a traceback from inside the client."""
    with pytest.raises(TopicsError, match=r"Kafka at 127\.0\.0\.1:1: "):
        await apply(kafka_settings("127.0.0.1:1", partitions=1))
