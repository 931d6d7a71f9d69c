"""Stages as processes that are killed, stopped and frozen, and a broker that dies: every ticket is answered once."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from streams.local.embedded_kafka import EmbeddedKafka
from streams.topics import apply
from tests.kafka import committed_records, group_offsets, kafka_settings, until, write_tickets
from tests.processes import Processes, answers

pytestmark = pytest.mark.integration


@pytest.fixture
def processes(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path, kafka.bootstrap_servers, topics)
    yield started
    started.kill_all()


# With a name that stays, the broker gives a restarted process its partitions at once, without waiting for the dead one.
SAME = {"HEADGATE_KAFKA__GROUP_INSTANCE_ID": "only-one"}
IDS = [f"t{i:03}" for i in range(40)]


@pytest.mark.parametrize("hold", ["handler", "commit"])
async def test_a_kill_mid_batch_does_every_record_once(processes: Processes, hold: str) -> None:
    """Killed at work, or with outputs sent and the transaction open: a reader sees all of a batch or nothing."""
    await write_tickets(processes.servers, processes.prefix, IDS)
    process = processes.start(HOLD=hold, **SAME)
    await until(process.is_held)
    process.end(signal.SIGKILL)
    assert await committed_records(processes.servers, processes.prefix + "answers", 1, limit_s=0.5) == []
    processes.start("b", **SAME)
    assert await answers(processes, len(IDS)) == Counter(IDS)
    events = await committed_records(processes.servers, processes.prefix + "events", len(IDS))
    assert Counter(r.key.decode() for r in events) == Counter(IDS)


async def test_kills_at_any_moment_do_every_record_once(processes: Processes) -> None:
    """Whatever a kill hits, offsets only grow and no ticket is lost or answered twice."""
    ids = [f"t{i:04}" for i in range(600)]
    await write_tickets(processes.servers, processes.prefix, ids)
    seen: dict[int, int] = {}

    async def grown(least: int) -> bool:
        offsets = await group_offsets(processes.servers, processes.prefix)
        assert all(offsets.get(p, 0) >= offset for p, offset in seen.items())
        seen.update(offsets)
        return sum(offsets.values()) >= least

    for least in (1, 150, 300, 450):
        process = processes.start(BATCH="4", **SAME)
        await until(lambda least=least: grown(least))
        process.end(signal.SIGKILL)
    processes.start(BATCH="4", **SAME)
    assert await answers(processes, len(ids)) == Counter(ids)
    await until(lambda: grown(len(ids)))


async def test_partitions_spread_over_two_processes_and_move_when_one_stops(processes: Processes) -> None:
    """Adding a process takes half of the work, a clean stop gives it back at once."""
    first = processes.start("first")
    await until(lambda: first.partitions() == [0, 1])
    second = processes.start("second")
    await until(lambda: sorted(first.partitions() + second.partitions()) == [0, 1] and bool(second.partitions()))
    await write_tickets(processes.servers, processes.prefix, IDS)
    assert await answers(processes, len(IDS)) == Counter(IDS)
    assert first.events("ticket_answered")
    assert second.events("ticket_answered")
    assert first.end(signal.SIGTERM) == 0
    await until(lambda: second.partitions() == [0, 1])
    await write_tickets(processes.servers, processes.prefix, ["last0"], partition=0)
    await write_tickets(processes.servers, processes.prefix, ["last1"], partition=1)
    assert await answers(processes, len(IDS) + 2) == Counter([*IDS, "last0", "last1"])


async def test_sigterm_finishes_the_batch_and_exits_cleanly(processes: Processes) -> None:
    """What is in flight at a SIGTERM is committed, and the exit code is 0."""
    await write_tickets(processes.servers, processes.prefix, IDS[:4], partition=0)
    process = processes.start(HOLD="handler")
    await until(process.is_held)
    process.popen.send_signal(signal.SIGTERM)
    process.open_gate()
    assert await asyncio.to_thread(process.popen.wait, 30) == 0
    assert await answers(processes, 4) == Counter(IDS[:4])
    assert process.events("stage_stopped")


async def test_health_pages_say_alive_at_once_and_ready_once_joined(processes: Processes) -> None:
    """A probe finds the stage alive before it is ready, and ready when it has its partitions."""
    process = processes.start()
    await until(lambda: bool(process.events("stage_started")))
    address = f"http://127.0.0.1:{process.events('stage_started')[0]['health_port']}"
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/healthz")).status_code == 200

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(is_ready)
        assert process.partitions() == [0, 1]
        assert "headgate_records_total" in (await client.get("/metrics")).text


async def test_a_broker_that_dies_and_comes_back_is_met_again(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """The stage outlives its broker: it goes on by itself, and every ticket is answered once."""
    with EmbeddedKafka(tmp_path / "own") as broker:
        await apply(kafka_settings(broker.bootstrap_servers))
        processes = Processes(tmp_path, broker.bootstrap_servers, "")
        try:
            process = processes.start(HOLD="commit", **SAME)
            await write_tickets(processes.servers, "", IDS)
            await until(process.is_held)
            broker.kill()
            process.open_gate()
            broker.start()
            assert await answers(processes, len(IDS)) == Counter(IDS)
            assert process.popen.poll() is None
            assert process.end(signal.SIGTERM) == 0
        finally:
            processes.kill_all()


async def test_sigterm_ends_a_stage_whose_broker_is_gone(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """Closing waits for a lost broker for a bounded time only, even with a transaction open."""
    with EmbeddedKafka(tmp_path / "own") as broker:
        await apply(kafka_settings(broker.bootstrap_servers))
        processes = Processes(tmp_path, broker.bootstrap_servers, "")
        try:
            process = processes.start(HOLD="commit", HEADGATE_KAFKA__DRAIN_S="1")
            await write_tickets(processes.servers, "", IDS)
            await until(process.is_held)
            broker.kill()
            process.open_gate()
            assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
        finally:
            processes.kill_all()
