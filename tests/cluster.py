"""Three brokers that share topics, transactions and offsets, for tests in which one of them dies and the others go on.

Each is broker and controller at once, so any one of the three may be killed. Everything has three replicas, and a write
waits for two of them; groups' offsets may have one, which dies with its broker.
"""

import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from streams.local import embedded_kafka
from streams.local.embedded_kafka import EmbeddedKafka
from streams.local.ports import free_ports
from streams.local.spawn import spawn
from tests.kafka import until

NODES = (1, 2, 3)
# The last one counts: three brokers of the usual size would take a gigabyte.
_SMALL = ("-Xms128m", "-Xmx160m")


class Node(EmbeddedKafka):
    """One broker of the three. It is ready only when two of them run, since one alone elects no controller."""

    def __init__(
        self, folder: Path, number: int, ports: tuple[int, int], voters: str, cluster_id: str, offsets_copies: int
    ) -> None:
        super().__init__(folder, ports[0])
        self._offsets_copies = offsets_copies
        self.number = number
        self._controller_port = ports[1]
        self._voters = voters
        self._cluster_id = cluster_id

    def _start(self) -> None:
        java, jars = embedded_kafka._java_and_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "server.properties").write_text(self._properties(), "ascii")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format([java, *embedded_kafka._QUICK, *jars])
        with self.log_path.open("ab") as broker_log:
            argv = [java, *self._compilers, *embedded_kafka._BROKER, *_SMALL, *jars, "kafka.Kafka", "server.properties"]
            self._process = spawn(argv, output=broker_log.fileno(), folder=self.folder, when_orphaned=signal.SIGKILL)
        try:
            self._wait_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def _format(self, java: Sequence[str]) -> None:
        argv = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={self._cluster_id}"]
        subprocess.run([*argv, "-c", "server.properties"], cwd=self.folder, capture_output=True, check=True)

    def _properties(self) -> str:
        """One broker's settings, then what differs among three: of two values the later one counts."""
        values = {
            "node.id": self.number,
            "controller.quorum.voters": self._voters,
            "default.replication.factor": len(NODES),
            "min.insync.replicas": 2,
            "offsets.topic.replication.factor": self._offsets_copies,
            "transaction.state.log.replication.factor": len(NODES),
            "transaction.state.log.min.isr": 2,
        }
        own = "".join(f"{key}={value}\n" for key, value in values.items())
        return embedded_kafka.properties(self._port, self._controller_port) + own


class Cluster:
    """The three brokers, and who of them leads what."""

    def __init__(self, folder: Path, offsets_copies: int = len(NODES)) -> None:
        # A fixed letter first: an id that begins with a dash would read as an option.
        cluster_id = "H" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[:21]
        ports = free_ports(2 * len(NODES))
        pairs = dict(zip(NODES, zip(ports[::2], ports[1::2], strict=True), strict=True))
        voters = ",".join(f"{number}@127.0.0.1:{controller}" for number, (_, controller) in pairs.items())
        self.nodes = {
            n: Node(folder / f"node{n}", n, pair, voters, cluster_id, offsets_copies) for n, pair in pairs.items()
        }

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(node.bootstrap_servers for node in self.nodes.values())

    def start(self) -> None:
        """Start all three at once, since none is ready alone; 6 s on two idle cores."""
        with ThreadPoolExecutor(len(NODES)) as threads:
            list(threads.map(Node.start, self.nodes.values()))

    def kill(self) -> None:
        """End all three; what they hold is of no use to anybody."""
        for node in self.nodes.values():
            node.kill()

    async def coordinator_of_group(self, group: str) -> Node:
        """The broker that keeps this consumer group's members and offsets."""
        return await self._coordinator(group, 0)

    async def coordinator_of_transactions(self, transactional_id: str) -> Node:
        """The broker that keeps the state of this producer's transactions."""
        return await self._coordinator(transactional_id, 1)

    async def leader(self, topic: str, partition: int = 0) -> Node:
        """The broker that takes this partition's records."""
        async with self._admin() as admin:
            (described,) = await admin.describe_topics([topic])
        return self.nodes[next(p["leader"] for p in described["partitions"] if p["partition"] == partition)]

    async def until_whole(self) -> None:
        """Wait until every replica of every partition is in step: then any one broker may go."""
        async with self._admin() as admin:

            async def whole() -> bool:
                topics = await admin.describe_topics()
                return all(len(p["isr"]) == len(NODES) for topic in topics for p in topic["partitions"])

            await until(whole, limit_s=60)

    async def _coordinator(self, key: str, kind: int) -> Node:
        found: list[int] = []

        async def is_found() -> bool:
            async with self._admin() as admin:
                found.append(await admin.find_coordinator(key, kind))
            return True

        # The first question makes the broker create the topic that coordinators keep their state in.
        await until(is_found)
        return self.nodes[found[-1]]

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()
