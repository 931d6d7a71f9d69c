"""Stage processes of the test's own (tests/stage_process.py), to be killed, stopped and frozen, and a load for them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.kafka import committed_records, ticket, until

SCRIPT = Path(__file__).parent / "stage_process.py"


class Process:
    """A stage process of the test's own, with a folder for its gate and its log."""

    def __init__(self, folder: Path, servers: str, prefix: str, environment: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.log_path = folder / "log"
        own = {"HEADGATE_KAFKA__BOOTSTRAP_SERVERS": servers, "HEADGATE_KAFKA__TOPIC_PREFIX": prefix}
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                env={**os.environ, "FOLDER": str(folder), "HEADGATE_KAFKA__DRAIN_S": "5", **own, **environment},
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def events(self, name: str) -> list[dict[str, object]]:
        """The log's events of that name."""
        lines = self.log_path.read_text().splitlines()
        found = (json.loads(line) for line in lines if f'"{name}"' in line and line.endswith("}"))
        return [event for event in found if event.get("event") == name]

    def partitions(self) -> list[int]:
        """The partitions that this process was given last."""
        return (self.assignments() or [[]])[-1]

    def assignments(self) -> list[list[int]]:
        """The partitions that this process was given, rebalance by rebalance, over its restarts under one name."""
        return [event["partitions"] for event in self.events("partitions_assigned")]  # type: ignore[misc]

    def answered(self) -> set[str]:
        """The ids of the tickets that this process has answered."""
        return {str(event["ticket_id"]) for event in self.events("ticket_answered")}

    def is_held(self) -> bool:
        return (self.folder / "held").exists()

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def end(self, by: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.popen.send_signal(by)
        return self.popen.wait(30)


class Processes:
    """Starts processes on one broker and one prefix; whatever is left is killed."""

    def __init__(self, folder: Path, servers: str, prefix: str) -> None:
        self.folder, self.servers, self.prefix = folder, servers, prefix
        self.group = prefix + "headgate-router"
        self.started: list[Process] = []

    def start(self, name: str = "a", **environment: str) -> Process:
        process = Process(self.folder / name, self.servers, self.prefix, environment)
        self.started.append(process)
        return process

    def kill_all(self) -> None:
        for process in self.started:
            process.popen.kill()
            process.popen.wait()
            # Shown where the test failed.
            print(process.log_path.read_text("utf-8", "replace")[-20_000:])


async def answers(of: Processes, wanted: int) -> Counter[str]:
    """How often each ticket was answered, for a read_committed reader."""
    records = await committed_records(of.servers, of.prefix + "answers", wanted)
    return Counter(r.key.decode() for r in records)


async def goes_on(of: Processes, ids: Sequence[str]) -> None:
    """Wait until tickets of a `load` that are published from now on have been answered."""
    latest = max(ids, default="")

    def later() -> set[str]:
        assert any(process.popen.poll() is None for process in of.started), "every process has ended"
        return {i for process in of.started for i in process.answered() if i > latest}

    await until(lambda: len(later()) > 20)


async def assert_answered_once(of: Processes, ids: Sequence[str]) -> None:
    """Every ticket has one answer and one event; nothing else has any."""
    for topic in ("answers", "events"):
        records = await committed_records(of.servers, of.prefix + topic, len(ids))
        counted = Counter(r.key.decode() for r in records)
        lost = sorted(set(ids) - counted.keys())
        unknown = sorted(counted.keys() - set(ids))
        repeated = {key: times for key, times in counted.items() if times > 1}
        assert (lost, unknown, repeated) == ([], [], {}), f"{topic}: {lost=} {unknown=} {repeated=}"


@asynccontextmanager
async def load(of: Processes, per_s: float = 50.0) -> AsyncIterator[list[str]]:
    """Tickets published while the block lasts, under ids that grow; yields the ids so far.

    None is lost or published twice, whatever happens to the broker; when the block has ended, all are there. While it
    lasts, the group's offsets are watched: they may only grow.
    """
    ids: list[str] = []
    delivered: list[asyncio.Future[object]] = []
    async with AIOKafkaProducer(bootstrap_servers=of.servers, enable_idempotence=True, acks="all") as producer:

        async def publish() -> None:
            while True:
                ids.append(f"t{len(ids):05}")
                key = ids[-1]
                delivered.append(await producer.send(of.prefix + "tickets", ticket(key), key=key.encode()))
                await asyncio.sleep(1 / per_s)

        tasks = [asyncio.create_task(publish()), asyncio.create_task(_watch_offsets(of))]
        try:
            yield ids
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in ended if not isinstance(error, asyncio.CancelledError)] == []
        # The last id may have been cut off before it was sent.
        del ids[len(delivered) :]
        await asyncio.gather(*delivered)


async def _watch_offsets(of: Processes) -> None:
    seen: dict[TopicPartition, int] = {}
    admin = AIOKafkaAdminClient(bootstrap_servers=of.servers)
    try:
        await admin.start()
        while True:
            # A coordinator that has just moved may know nothing for a moment; what it does know must not be less.
            with suppress(KafkaError):
                for partition, found in (await admin.list_consumer_group_offsets(of.group)).items():
                    assert found.offset >= seen.get(partition, 0), f"the offset of {partition} went back"
                    seen[partition] = found.offset
            await asyncio.sleep(0.25)
    finally:
        await admin.close()
