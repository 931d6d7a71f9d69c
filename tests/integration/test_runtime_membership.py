"""Processes that join, leave, restart, freeze and share a name while tickets come in: each is answered once."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams.local.embedded_kafka import EmbeddedKafka
from streams.topics import apply
from tests.kafka import kafka_settings, until, write_tickets
from tests.processes import Process, Processes, assert_answered_once, goes_on, load

pytestmark = pytest.mark.integration

NAMES = ("a", "b", "c")
# One ticket a call, and each takes its own time: at every moment some are at work and some are out of order.
BUSY = {"BATCH": "1", "WORK_S": "0.2"}
# The shortest that brokers grant: others wait so long for one that freezes.
SHORT_SESSION = {"HEADGATE_KAFKA__SESSION_TIMEOUT_S": "6"}


@pytest.fixture
async def processes(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> AsyncIterator[Processes]:
    """On three partitions, one for each of NAMES."""
    await apply(kafka_settings(kafka.bootstrap_servers, topics, partitions=len(NAMES)))
    started = Processes(tmp_path, kafka.bootstrap_servers, topics)
    yield started
    started.kill_all()


def named(name: str) -> dict[str, str]:
    """The environment of a process that is a static member."""
    return {"HEADGATE_KAFKA__GROUP_INSTANCE_ID": f"router-{name}"}


async def started_in_turn(processes: Processes, names: tuple[str, ...], **environment: str) -> list[Process]:
    """Static members, one joining after the other. The assignments that this makes have all arrived when it returns,
    so that any later one has another cause."""
    members: list[Process] = []
    for name in names:
        members.append(processes.start(name, **named(name), **environment))
        await until(lambda: all(len(m.assignments()) == len(members) - n for n, m in enumerate(members)))
    return members


async def test_a_rolling_restart_under_static_membership_moves_no_partition(processes: Processes) -> None:
    """Each comes back to the partition it had, and the others hear nothing of it."""
    members = await started_in_turn(processes, NAMES, **BUSY)
    before = {name: member.assignments() for name, member in zip(NAMES, members, strict=True)}
    assert sorted(history[-1] for history in before.values()) == [[0], [1], [2]]
    async with load(processes) as ids:
        await goes_on(processes, ids)
        for name, member in zip(NAMES, members, strict=True):
            assert await asyncio.to_thread(member.end, signal.SIGTERM) == 0
            again = processes.start(name, **named(name), **BUSY)
            await until(lambda again=again, name=name: len(again.assignments()) > len(before[name]))
            await goes_on(processes, ids)
    # All three logs, and not only the last line of each.
    assert {name: m.assignments() for name, m in zip(NAMES, members, strict=True)} == {
        name: [*history, history[-1]] for name, history in before.items()
    }
    await assert_answered_once(processes, ids)


async def test_processes_join_and_leave_under_load(processes: Processes) -> None:
    """From one to three and back to one that was not the first: all work, and no ticket in flight suffers."""
    first = processes.start("a", **BUSY)
    async with load(processes) as ids:
        await goes_on(processes, ids)
        second, third = (processes.start(name, **BUSY) for name in NAMES[1:])
        everybody = (first, second, third)
        await until(lambda: sorted(p.partitions() for p in everybody) == [[0], [1], [2]])
        await until(lambda: all(len(p.answered()) > 20 for p in everybody))
        for leaving in (first, third):
            assert await asyncio.to_thread(leaving.end, signal.SIGTERM) == 0
        await until(lambda: second.partitions() == [0, 1, 2])
        await goes_on(processes, ids)
    await assert_answered_once(processes, ids)


async def test_two_processes_of_one_instance_id_are_told_apart(processes: Processes) -> None:
    """One of the two ends and names the setting; the other has all partitions, and no ticket suffers."""
    same = named("same") | BUSY | SHORT_SESSION
    pair = [processes.start("a", **same)]
    async with load(processes) as ids:
        await goes_on(processes, ids)
        pair.append(processes.start("b", **same))
        # It stays away three times, each for longer than a session, before it believes it.
        await until(lambda: any(p.popen.poll() is not None for p in pair), limit_s=90)
        (ended,) = (p for p in pair if p.popen.poll() is not None)
        (other,) = (p for p in pair if p is not ended)
        assert ended.popen.returncode == 2
        assert any("kafka.group_instance_id" in str(event.get("error")) for event in ended.events("stage_stopped"))
        # Whatever the ended one did last, the other hears of with its next heartbeat, 3 s later at most.
        seen = len(ids)
        await until(lambda: len(ids) > seen + 200)
        await until(lambda: other.partitions() == [0, 1, 2])
        await goes_on(processes, ids)
    await assert_answered_once(processes, ids)
    assert await asyncio.to_thread(other.end, signal.SIGTERM) == 0


@pytest.mark.parametrize("restarted", [False, True], ids=["", "after a restart of the group's leader"])
async def test_partitions_that_are_added_are_read(processes: Processes, restarted: bool) -> None:
    """The group's leader watches for them; a static member that leads and was restarted isn't told that it does."""
    often = {"METADATA_REFRESH_S": "1"}
    members = await started_in_turn(processes, NAMES[:2], **often)
    if restarted:
        # The first to join leads.
        assert await asyncio.to_thread(members[0].end, signal.SIGTERM) == 0
        processes.start("a", **named("a"), **often)
        await until(lambda: len(members[0].assignments()) == 3)
    await write_tickets(processes.servers, processes.prefix, ["before"], partition=0)
    await apply(kafka_settings(processes.servers, processes.prefix, partitions=5))
    ids = ["before", "new3", "new4"]
    await write_tickets(processes.servers, processes.prefix, ["new3"], partition=3)
    await write_tickets(processes.servers, processes.prefix, ["new4"], partition=4)
    await assert_answered_once(processes, ids)
    assert sorted(p for m in members for p in m.partitions()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("moment", ["handler", "commit", ""], ids=["at work", "with a transaction open", "idle"])
async def test_a_member_that_wakes_after_its_partitions_moved_writes_nothing(processes: Processes, moment: str) -> None:
    """What it had begun, or was being sent while it slept, is its successor's; then it joins again and takes its
    share of what comes."""
    ids = [f"t{i:02}" for i in range(30)]
    zombie = processes.start("zombie", HOLD=moment, **SHORT_SESSION)
    if moment:
        await write_tickets(processes.servers, processes.prefix, ids)
        await until(zombie.is_held)
        zombie.popen.send_signal(signal.SIGSTOP)
    else:
        await until(lambda: zombie.partitions() == [0, 1, 2])
        zombie.popen.send_signal(signal.SIGSTOP)
        # Its fetch is under way: these are in its socket when it wakes.
        await write_tickets(processes.servers, processes.prefix, ids)
    successor = processes.start("successor")
    await until(lambda: successor.partitions() == [0, 1, 2])
    await assert_answered_once(processes, ids)
    zombie.open_gate()
    zombie.popen.send_signal(signal.SIGCONT)
    async with load(processes) as later:
        await until(lambda: bool(zombie.answered()), limit_s=60)
    await assert_answered_once(processes, [*ids, *later])
    assert await asyncio.to_thread(zombie.end, signal.SIGTERM) == 0
