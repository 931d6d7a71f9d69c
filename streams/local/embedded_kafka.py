"""A real Apache Kafka 4.3.1 in a process of its own, for the demo and the tests: no Docker, no Maven, no system Java.

One KRaft node on loopback, started in about 2 s. Invariants: a started broker
has answered a metadata request; its process never outlives ours, even if ours
is killed (Linux); ports and data survive `kill` and `restart`.
"""

import os
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from streams.local.java import JavaError, find_java
from streams.local.kafka_jars import KafkaJarsError, class_path
from streams.local.ports import free_ports, is_free
from streams.local.spawn import spawn

READY_LIMIT_S = 60.0
"""A start takes 1.5 s on two idle cores; 8.5 s was seen on loaded ones, and more after a kill with many partitions."""
MESSAGE_MAX_BYTES = 4 * 1024 * 1024
"""Default of topics that set none; ours do (schemas/topics.py)."""

# C1 alone starts quickest (1.5 s against 2.4 s with both compilers, measured) and is fast enough for a demo.
_QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# Under load the broker's code is worth the second compiler, and a benchmark is to measure the client.
_LOAD = ("-XX:+UseSerialGC",)
_BROKER = (
    "-Xms256m",
    "-Xmx256m",
    # A broker out of memory is to die and be seen, not to linger.
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)


class EmbeddedKafkaError(Exception):
    """The broker can't run here: why, and what to do."""


class EmbeddedKafka:
    """A broker whose data, settings and log live in `folder`. Calls from several threads take turns."""

    _options: tuple[str, ...] = ()
    """Further ones of its JVM."""

    def __init__(self, folder: Path, port: int = 0, load: bool = False) -> None:
        """Nothing runs before `start`. Port 0 takes a free one, and keeps it. `load`: tuned for load tests."""
        self.folder = folder
        self.log_path = folder / "broker.log"
        self._port = port
        self._compilers = _LOAD if load else _QUICK
        self._controller_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        # A `stop` that comes while another thread is inside `start` waits, and then finds what was started.
        self._turn = threading.RLock()

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id, or None while it isn't running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start the broker on what the folder holds, formatting it if it is new; return once it answers.

        Raises: EmbeddedKafkaError naming what is missing, or with the end of the broker's log.
        """
        with self._turn:
            if not self.pid:
                self._start()
        return self

    def stop(self, limit_s: float = 10.0) -> None:
        """Stop the broker cleanly; after `limit_s` kill it."""
        self._end(signal.SIGTERM, limit_s)

    def kill(self) -> None:
        """End the broker as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL, None)

    def restart(self) -> Self:
        """Stop the broker if it runs, and start it on the same ports and data."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        java, jars = _java_and_jars()
        self._choose_ports()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "server.properties").write_text(self._properties(), "ascii")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format([java, *_QUICK, *jars])
        with self.log_path.open("ab") as broker_log:
            argv = [java, *self._compilers, *_BROKER, *self._options, *jars, "kafka.Kafka", "server.properties"]
            self._process = spawn(argv, output=broker_log.fileno(), folder=self.folder, when_orphaned=signal.SIGKILL)
        try:
            self._wait_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def _choose_ports(self) -> None:
        if self._port and not is_free(self._port):
            raise EmbeddedKafkaError(
                f"port {self._port} is taken: choose another, or name its Kafka in kafka.bootstrap_servers"
            )
        if not self._controller_port:
            free = [port for port in free_ports(3) if port != self._port]
            self._port, self._controller_port = self._port or free[0], free[1]

    def _properties(self) -> str:
        return properties(self._port, self._controller_port)

    def _format(self, java: Sequence[str]) -> None:
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # An id that begins with a dash reads as an option.
        argv = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", "server.properties"]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EmbeddedKafkaError(f"Kafka could not format {self.folder}:\n{done.stdout}{done.stderr}")

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while not _answers(self._port):
            if process.poll() is not None:
                raise EmbeddedKafkaError(f"Kafka ended at once (exit code {process.returncode}); {self._log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedKafkaError(f"Kafka was not ready within {READY_LIMIT_S:.0f} s; {self._log_tail()}")
            time.sleep(0.05)

    def _log_tail(self) -> str:
        lines = self.log_path.read_text("utf-8", "replace").splitlines()
        return "\n".join([f"the end of {self.log_path}:", *lines[-20:]])

    def _end(self, by: signal.Signals, limit_s: float | None) -> None:
        with self._turn:
            if self._process is None:
                return
            self._process.send_signal(by)
            try:
                self._process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _java_and_jars() -> tuple[str, list[str]]:
    try:
        return str(find_java()), ["-cp", os.pathsep.join(map(str, class_path()))]
    except (JavaError, KafkaJarsError) as exc:
        raise EmbeddedKafkaError(str(exc)) from exc


def properties(port: int, controller_port: int) -> str:
    """The broker's settings. Paths are relative to its folder, so that no folder's name needs escaping."""
    values: dict[str, str | int] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": "data",
        # A misspelt topic is to fail, not to appear.
        "auto.create.topics.enable": "false",
        "message.max.bytes": MESSAGE_MAX_BYTES,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 8,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # Nobody else is coming: the 3 s wait for further members would only delay every stage's start.
        "group.initial.rebalance.delay.ms": 0,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        # After a kill the new broker is refused until the old one's session ends: 9 s with the defaults.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        "num.recovery.threads.per.data.dir": 4,
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _answers(port: int) -> bool:
    """Whether the broker says that a broker is there (a Metadata v1 request for no topics)."""
    # Size, api_key 3, api_version 1, correlation_id, no client_id, an empty array of topics.
    request = struct.pack(">ihhihi", 14, 3, 1, 0, -1, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as answer:
                _size, _correlation_id, brokers = struct.unpack(">iii", answer.read(12))
    except (OSError, struct.error):
        return False
    return bool(brokers > 0)
