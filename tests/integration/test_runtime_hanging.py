"""A broker ends a transaction without its markers: whoever opens the partition next takes it back, whole.

Three brokers; what the transaction writes has its one copy on one of them, which is gone while another one ends the
transaction. With one broker for all, every restart is such a moment; here it always comes.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from schemas.codec import decode
from schemas.events import Event
from schemas.tickets import Ticket
from schemas.topics import EVENTS, TICKETS, all_names
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime import group
from streams.runtime.clock import utc_now
from streams.runtime.delivery import ExactlyOnce
from streams.runtime.hanging import abort_hanging, hanging
from streams.runtime.loop import StageLoop
from streams.runtime.messages import Message
from streams.runtime.offsets import CommitPoint
from streams.runtime.stage import Done, Record, Stage, singly
from streams.settings import KafkaSettings
from tests.cluster import Cluster, Node
from tests.kafka import committed_records, until, write_tickets

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Skipped where not even the one shared broker can run."""
    brokers = Cluster(tmp_path_factory.mktemp("cluster"), offsets_copies=1)
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.kill()


@dataclass(frozen=True)
class World:
    """A partition whose outputs and whose group's offsets are all on one broker."""

    cluster: Cluster
    broker: Node
    settings: KafkaSettings
    group: str
    admin: AIOKafkaAdminClient

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(f"{self.settings.topic_prefix}tickets", 0)

    @property
    def outputs(self) -> list[str]:
        return [f"{self.settings.topic_prefix}events"]

    async def opened(self) -> ExactlyOnce:
        """The partition's delivery, its former owners fenced."""
        delivery = ExactlyOnce(self.settings, self.group, self.partition)
        await delivery.start()
        return delivery

    async def place(self) -> CommitPoint | None:
        return (await group.commit_points(self.admin, self.group, [self.partition]))[self.partition]

    async def seen(self, wanted: int) -> list[bytes]:
        records = await committed_records(self.settings.bootstrap_servers, self.outputs[0], wanted, 30.0)
        return [record.value for record in records]


@pytest.fixture
async def world(cluster: Cluster) -> AsyncIterator[World]:
    prefix = f"test-{uuid.uuid4().hex[:8]}-"
    settings = KafkaSettings(bootstrap_servers=cluster.bootstrap_servers, topic_prefix=prefix)
    broker = await cluster.coordinator_of_group(f"{prefix}headgate-router")
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    await admin.start()
    one_copy = {"min.insync.replicas": "1"}
    await admin.create_topics(
        [
            NewTopic(prefix + name, -1, -1, replica_assignments={0: [broker.number]}, topic_configs=one_copy)
            for name in all_names()
        ]
    )
    yield World(cluster, broker, settings, f"{prefix}headgate-router", admin)
    await admin.close()


def output(text: str) -> Message:
    return Message(EVENTS, b"t1", text.encode(), (), partition=0)


commit_transaction = AIOKafkaProducer.commit_transaction


async def end_without_markers(world: World, producer: AIOKafkaProducer) -> None:
    """End the producer's transaction while the partitions' only broker is away. The others acknowledge it."""
    await asyncio.to_thread(world.broker.kill)
    await until(lambda: has_leader(world, False), limit_s=60.0)
    await asyncio.wait_for(commit_transaction(producer), 60.0)
    await asyncio.to_thread(world.broker.start)
    await until(lambda: has_leader(world, True), limit_s=60.0)


async def has_leader(world: World, wanted: bool) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=world.settings.bootstrap_servers)
    try:
        await admin.start()
        [described] = await admin.describe_topics(world.outputs)
        return (described["partitions"][0]["leader"] == world.broker.number) == wanted
    except KafkaError:
        return False
    finally:
        await admin.close()


@pytest.fixture
def forgetful(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The next transaction ends without markers; says so."""
    ended: list[str] = []

    async def first_time(producer: AIOKafkaProducer) -> None:
        if ended:
            await commit_transaction(producer)
        else:
            ended.append("without markers")
            await end_without_markers(world, producer)

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", first_time)
    return ended


async def test_what_a_broker_has_ended_without_markers_is_there_once(world: World, forgetful: list[str]) -> None:
    """The next owner finds the place where it was, does the record again, and readers see the second try alone."""
    first = await world.opened()
    await first.commit([output("first try")], CommitPoint(1))
    assert forgetful
    second = await world.opened()
    assert await world.place() is None
    assert await hanging(world.admin, world.group, [world.partition]) == [world.partition]
    await abort_hanging(world.admin, world.group, {world.partition: second}, world.outputs)
    assert await hanging(world.admin, world.group, [world.partition]) == []
    assert await world.place() is None
    await second.commit([output("second try")], CommitPoint(1))
    assert await world.seen(1) == [b"second try"]
    assert await world.place() == CommitPoint(1)
    await first.close()
    await second.close()


async def test_an_answer_does_not_stay_unseen_while_no_ticket_comes(world: World, forgetful: list[str]) -> None:
    """Whoever has committed it looks some seconds later, takes it back, and does it again."""
    tries: list[str] = []

    async def handle(record: Record[Ticket]) -> Done:
        tries.append(record.value.ticket_id)
        key, event_id = record.value.ticket_id, f"router/{record.origin}"
        event = Event(event_id=event_id, at=utc_now(), stage="router", outcome="routed", ticket_id=key)
        return Done((), event)

    stage = Stage("router", TICKETS, Ticket, singly(handle), batch_size=1)
    loop = StageLoop(stage, world.settings)
    running = asyncio.create_task(loop.run())
    await write_tickets(world.settings.bootstrap_servers, world.settings.topic_prefix, ["t1"], partition=0)
    events = await committed_records(world.settings.bootstrap_servers, world.outputs[0], 1, 90.0)
    loop.stop()
    await running
    assert forgetful
    assert [(record.key, decode(Event, record.value).outcome) for record in events] == [(b"t1", "routed")]
    assert tries == ["t1", "t1"]
