"""The embedded broker: it is a real one, it survives what the fault tests do to it, and it leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streams import topics as topic_admin
from streams.local.embedded_kafka import EmbeddedKafka, EmbeddedKafkaError
from tests.kafka import kafka_settings

pytestmark = pytest.mark.integration

START_ONLY = """
import sys
from pathlib import Path
from streams.local.embedded_kafka import EmbeddedKafka
print(EmbeddedKafka(Path(sys.argv[1])).start().pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def own_kafka(kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker that a test may harm; skipped where the shared one can't run either."""
    with EmbeddedKafka(tmp_path / "own") as broker:
        yield broker


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether no such process runs. One that is dead, and that nobody has asked about yet, is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


async def write(servers: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)


async def read(servers: str, topic: str, count: int, limit_ms: int = 20_000) -> list[bytes]:
    """The first `count` committed records of the topic's partition 0."""
    partition = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    values: list[bytes] = []
    async with consumer:
        consumer.assign([partition])
        deadline = time.monotonic() + limit_ms / 1000
        while len(values) < count and time.monotonic() < deadline:
            values += [r.value for r in (await consumer.getmany(timeout_ms=100)).get(partition, [])]
    return values


async def test_readers_see_what_a_transaction_committed_and_nothing_of_an_aborted_one(
    kafka: EmbeddedKafka, topics: str
) -> None:
    """Exactly-once effects need a broker with working transactions."""
    topic = topics + "answers"
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=topics)
    async with producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed", partition=0)
    assert await read(kafka.bootstrap_servers, topic, count=1) == [b"committed"]


async def test_a_record_of_a_stage_may_be_larger_than_kafka_s_default(kafka: EmbeddedKafka, topics: str) -> None:
    """A megabyte's ticket and what was added to it pass through."""
    big = b"x" * (3 * 1024 * 1024)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, max_request_size=2 * len(big)) as producer:
        await producer.send_and_wait(topics + "drafts", big, partition=0)
    assert await read(kafka.bootstrap_servers, topics + "drafts", count=1) == [big]


@pytest.mark.parametrize("end", [EmbeddedKafka.kill, EmbeddedKafka.stop], ids=["kill", "stop"])
async def test_the_data_and_the_address_survive(own_kafka: EmbeddedKafka, end: Callable[[EmbeddedKafka], None]) -> None:
    """A crashed and a stopped broker come back on the same port with every acknowledged record."""
    await topic_admin.apply(kafka_settings(own_kafka.bootstrap_servers))
    servers, values = own_kafka.bootstrap_servers, [b"%d" % n for n in range(20)]
    await write(servers, "tickets", values)
    end(own_kafka)
    assert own_kafka.pid is None
    own_kafka.restart()
    assert own_kafka.bootstrap_servers == servers
    await topic_admin.apply(kafka_settings(servers))
    assert await read(servers, "tickets", len(values)) == values


async def test_a_new_handle_on_the_folder_finds_its_data(own_kafka: EmbeddedKafka) -> None:
    """`headgate up` can be ended and started again another day, on other ports."""
    await topic_admin.apply(kafka_settings(own_kafka.bootstrap_servers, partitions=1))
    await write(own_kafka.bootstrap_servers, "tickets", [b"kept"])
    own_kafka.stop()
    with EmbeddedKafka(own_kafka.folder) as again:
        await topic_admin.apply(kafka_settings(again.bootstrap_servers, partitions=1))
        assert await read(again.bootstrap_servers, "tickets", count=1) == [b"kept"]


def test_a_stopped_broker_leaves_no_process(own_kafka: EmbeddedKafka) -> None:
    """Neither the broker nor anything that it started, nor its port."""
    pid = own_kafka.pid
    assert pid
    assert os.getsid(pid) == pid, "Ctrl-C in the terminal would reach the broker before us"
    own_kafka.stop()
    assert is_gone(pid)
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    own_kafka.stop()  # again, as a caller's clean-up may


def test_a_broker_that_does_not_listen_is_killed(own_kafka: EmbeddedKafka) -> None:
    """Stopping comes to an end, whatever state the broker is in."""
    pid = own_kafka.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    own_kafka.stop(limit_s=0.1)
    assert is_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_broker_dies_with_a_killed_parent(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """A demo that is killed with SIGKILL can clean nothing up, and still leaves no process."""
    argv = [sys.executable, "-c", START_ONLY, str(tmp_path / "own")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline().split()[-1])
        assert not is_gone(pid)
        parent.kill()
    wait_until(lambda: is_gone(pid))


async def test_a_broker_outlives_the_thread_that_started_it(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """To Linux the thread that forks is the parent; callers may start brokers from short-lived ones."""
    broker = EmbeddedKafka(tmp_path / "own")
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    wait_until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists())
    try:
        # Several round trips: far longer than a signal takes.
        await topic_admin.apply(kafka_settings(broker.bootstrap_servers, partitions=1))
        assert broker.pid
    finally:
        broker.stop()


def test_a_stop_during_a_start_leaves_no_process(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """Ctrl-C while a demo starts: its clean-up comes from another thread than the start."""
    broker = EmbeddedKafka(tmp_path / "own")
    thread = threading.Thread(target=broker.start)
    thread.start()
    wait_until((tmp_path / "own" / "server.properties").exists)
    broker.stop()
    assert broker.pid is None
    thread.join()
    assert broker.pid is None


def test_a_taken_port_is_named(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """Before anything is started."""
    port = int(kafka.bootstrap_servers.rpartition(":")[2])
    with pytest.raises(EmbeddedKafkaError, match=f"port {port} is taken"):
        EmbeddedKafka(tmp_path / "own", port).start()


def test_a_broker_that_cannot_start_says_why_and_leaves_no_process(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """The error carries the end of the broker's own log."""
    data = tmp_path / "own" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=other\n")
    broker = EmbeddedKafka(tmp_path / "own")
    with pytest.raises(EmbeddedKafkaError, match=r"ended at once .*broker\.log:(.|\n)*Stored node id 7"):
        broker.start()
    assert broker.pid is None
