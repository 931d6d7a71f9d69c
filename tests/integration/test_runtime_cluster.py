"""Three brokers, one of which goes: a stage follows the coordinators and leaders that move, and loses nothing."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from streams.local.embedded_kafka import EmbeddedKafka
from streams.topics import apply
from tests.cluster import Cluster, Node
from tests.kafka import kafka_settings
from tests.processes import Processes, assert_answered_once, goes_on, load

pytestmark = pytest.mark.integration

Find = Callable[[Cluster, str], Awaitable[Node]]


@pytest.fixture(scope="module")
def cluster(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Skipped where not even the one shared broker can run."""
    brokers = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.kill()


@pytest.fixture
async def processes(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Processes]:
    """On topics of the test's own, each partition with a replica on every broker."""
    prefix = f"test-{uuid.uuid4().hex[:8]}-"
    await apply(kafka_settings(cluster.bootstrap_servers, prefix, partitions=2, replication_factor=3))
    started = Processes(tmp_path, cluster.bootstrap_servers, prefix)
    yield started
    started.kill_all()
    await cluster.until_whole()


def group_coordinator(cluster: Cluster, prefix: str) -> Awaitable[Node]:
    return cluster.coordinator_of_group(f"{prefix}headgate-router")


def transaction_coordinator(cluster: Cluster, prefix: str) -> Awaitable[Node]:
    return cluster.coordinator_of_transactions(f"{prefix}headgate-router-{prefix}tickets-0")


def input_leader(cluster: Cluster, prefix: str) -> Awaitable[Node]:
    return cluster.leader(prefix + "tickets")


@pytest.mark.parametrize(
    ("find", "end"),
    [
        (group_coordinator, Node.kill),
        (transaction_coordinator, Node.kill),
        (input_leader, Node.kill),
        (group_coordinator, Node.stop),
    ],
    ids=["the group's coordinator dies", "the transactions' coordinator dies", "a leader dies", "a coordinator stops"],
)
async def test_a_broker_goes_and_comes_back(
    cluster: Cluster, processes: Processes, find: Find, end: Callable[[Node], None]
) -> None:
    """Whatever it led moves, twice; the stage goes on by itself each time, and every ticket is answered once."""
    process = processes.start(BATCH="1", WORK_S="0.1")
    async with load(processes) as ids:
        await goes_on(processes, ids)
        broker = await find(cluster, processes.prefix)
        await asyncio.to_thread(end, broker)
        await goes_on(processes, ids)
        assert await find(cluster, processes.prefix) is not broker
        await asyncio.to_thread(broker.start)
        await cluster.until_whole()
        await goes_on(processes, ids)
    await assert_answered_once(processes, ids)
    assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
