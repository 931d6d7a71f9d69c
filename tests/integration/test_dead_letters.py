"""`headgate dead-letters` on a real broker: what it shows, and that each dead letter is sent again at most once."""

import asyncio
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord
from rich.console import Console

from schemas.tickets import Ticket
from schemas.topics import MIB, TICKETS
from streams import dead_letters, letters, requeue
from streams.letters import DeadLettersError, Filters, Letter, LetterId
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.clock import utc_now
from streams.runtime.headers import REQUEUE_OF, dead_letter_headers
from streams.runtime.loop import StageLoop
from streams.runtime.stage import DeadLetter, Done, Origin, Record, Stage, singly
from streams.settings import KafkaSettings
from tests.kafka import committed_records, until, write

pytestmark = pytest.mark.integration

OWN: tuple[tuple[str, Any], ...] = (("own", b"\x00\xff"), ("own", b"2"), ("traceparent", b"00-x"))
Body = tuple[bytes | None, bytes | None]


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0)


async def bury(
    settings: KafkaSettings, bodies: Sequence[Body], origin: int = 0, stage: str = "router", partition: int = 0
) -> None:
    """Write dead letters of tickets that came in on partition 1, all on one partition."""
    where = Origin(settings.topic_prefix + "tickets", 1, origin)
    letter = DeadLetter("PoisonError: not a Ticket", "PoisonError")
    headers = dead_letter_headers(stage, where, letter, 1, utc_now().timestamp(), OWN)
    topic = settings.topic_prefix + "dead-letters"
    await write(settings.bootstrap_servers, topic, bodies, headers, partition=partition)


async def sent_again(settings: KafkaSettings, wanted: int) -> list[ConsumerRecord]:
    return await committed_records(settings.bootstrap_servers, settings.topic_prefix + "tickets", wanted)


async def requeue_all(settings: KafkaSettings, *ids: LetterId, dry_run: bool = False) -> list[str]:
    """Run a requeue of some, or of all; returns what it printed."""
    out = io.StringIO()
    await requeue.requeue(settings, ids, Filters(), dry_run, Console(file=out))
    return out.getvalue().splitlines()


def headgate(settings: KafkaSettings, *arguments: str) -> subprocess.Popen[bytes]:
    """The command as an operator runs it."""
    own = {
        "HEADGATE_KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "HEADGATE_KAFKA__TOPIC_PREFIX": settings.topic_prefix,
    }
    argv = [sys.executable, "-m", "streams.cli", "dead-letters", *arguments]
    return subprocess.Popen(
        argv, env={**os.environ, **own, "COLUMNS": "200"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def said(settings: KafkaSettings, *arguments: str) -> tuple[int, bytes, str]:
    """Run the command to its end: exit code, output, errors."""
    process = headgate(settings, *arguments)
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, out, err.decode()


async def test_a_dead_letter_goes_back_as_it_came_and_only_once(settings: KafkaSettings) -> None:
    """Key, bytes and headers, to the partition that it came from; running it again sends nothing."""
    bodies: list[Body] = [(b"\xff\x00", b"\xfe no text"), (b"tombstone", None), (None, b"no key"), (b"", None)]
    await bury(settings, bodies)
    assert (await requeue_all(settings))[-1] == "4 requeued"
    assert (await requeue_all(settings))[-1] == "0 requeued"
    assert await requeue_all(settings, LetterId(0, 1)) == ["0/1 has been requeued before", "0 requeued"]
    records = await sent_again(settings, 4)
    assert [(r.key, r.value) for r in records] == bodies
    assert {r.partition for r in records} == {1}
    assert [r.headers for r in records] == [(*OWN, (REQUEUE_OF, f"0/{n}".encode())) for n in range(4)]


async def test_a_dry_run_sends_nothing(settings: KafkaSettings) -> None:
    """It says what would be sent; the real one then still sends it."""
    await bury(settings, [(b"a", b"1")])
    assert await requeue_all(settings, dry_run=True) == [
        f"0/0 would go to {settings.topic_prefix}tickets/1",
        "1 to requeue",
    ]
    assert (await requeue_all(settings))[-1] == "1 requeued"
    assert len(await sent_again(settings, 1)) == 1


async def test_two_requeues_at_once_send_each_dead_letter_once(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one fences the earlier; whatever that had committed the later one knows."""
    monkeypatch.setattr(requeue, "CHUNK_RECORDS", 3)
    await bury(settings, [(f"{n}".encode(), b"x") for n in range(60)])
    results = await asyncio.gather(*(requeue_all(settings) for _ in range(3)), return_exceptions=True)
    fenced = [r for r in results if isinstance(r, BaseException)]
    assert all(isinstance(r, DeadLettersError) and "another requeue" in str(r) for r in fenced), results
    assert len(fenced) < 3
    await requeue_all(settings)
    records = await sent_again(settings, 60)
    assert sorted(int(r.key) for r in records) == list(range(60))


@asynccontextmanager
async def open_transaction(settings: KafkaSettings, transactional_id: str) -> AsyncIterator[AIOKafkaProducer]:
    """A producer in the middle of a transaction, which it aborts at the end if it still can."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers,
        transactional_id=settings.topic_prefix + transactional_id,
        transaction_timeout_ms=60_000,
    )
    async with producer:
        await producer.begin_transaction()
        yield producer


async def send_requeue(settings: KafkaSettings, producer: AIOKafkaProducer, letter: Letter, body: bytes) -> None:
    """What a requeue sends in one transaction."""
    for m in letters.messages(letter, body, utc_now()):
        topic = m.topic or settings.topic_prefix + "dead-letters"
        await producer.send_and_wait(topic, m.value, m.key, m.partition, headers=list(m.headers))


async def the_letter(settings: KafkaSettings, id_: LetterId) -> Letter:
    async with dead_letters.opened(settings) as topic:
        return (await topic.contents([id_])).letter(id_)


async def test_a_requeue_that_died_before_its_commit_is_done_again(settings: KafkaSettings) -> None:
    """Its transaction is taken back when the next one starts, and does not count."""
    await bury(settings, [(b"a", b"1")])
    letter = await the_letter(settings, LetterId(0, 0))
    async with open_transaction(settings, "headgate-requeue") as dead:
        await send_requeue(settings, dead, letter, b"1")
        assert (await requeue_all(settings))[-1] == "1 requeued"
    assert [(r.key, r.value) for r in await sent_again(settings, 1)] == [(b"a", b"1")]


async def test_a_marker_behind_an_open_transaction_counts(settings: KafkaSettings) -> None:
    """A stage that is busy burying another record hides a committed marker from readers; a requeue waits for it."""
    await bury(settings, [(b"a", b"1")])
    letter = await the_letter(settings, LetterId(0, 0))
    async with open_transaction(settings, "a-stage") as stage:
        await stage.send_and_wait(settings.topic_prefix + "dead-letters", b"dying", b"b", 0)
        async with open_transaction(settings, "headgate-requeue") as earlier:
            await send_requeue(settings, earlier, letter, b"1")
            await earlier.commit_transaction()
        late = asyncio.create_task(requeue_all(settings, LetterId(0, 0)))
        done, _ = await asyncio.wait({late}, timeout=3.0)
        assert not done
        await stage.abort_transaction()
        assert await late == ["0/0 has been requeued before", "0 requeued"]
    assert len(await sent_again(settings, 1)) == 1


async def test_a_killed_requeue_is_finished_by_the_next(settings: KafkaSettings) -> None:
    """SIGKILL at any moment, five times: in the end each dead letter was sent once."""
    count, rng = 1200, random.Random(5)
    await bury(settings, [(f"{n}".encode(), b"x" * 2000) for n in range(count)])
    for _ in range(5):
        process = headgate(settings, "requeue", "--all-matching")
        assert process.stdout
        for _ in range(rng.randrange(1, 150)):
            # Lines come a transaction at a time: this ends it inside or just after one of the next.
            await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.communicate)
        assert process.returncode == -signal.SIGKILL
    code, out, err = await said(settings, "requeue", "--all-matching")
    assert (code, err) == (0, "")
    assert 0 < int(out.splitlines()[-1].split()[0]) < count
    records = await sent_again(settings, count)
    assert sorted(int(r.key) for r in records) == list(range(count))


async def test_what_is_too_large_for_its_topic_stays_and_the_rest_goes(settings: KafkaSettings) -> None:
    """What its producer had compressed below the limit fits again, compressed; what can't be holds nothing else up."""
    compressible = b"x" * (TICKETS.max_message_bytes + MIB)
    noise = random.Random(1).randbytes(TICKETS.max_message_bytes + 1000)
    await bury(settings, [(b"before", b"1"), (b"noise", noise), (b"large", compressible), (b"after", b"2")])
    out = await requeue_all(settings)
    assert "0/1 can't be requeued: its topic takes no record of this size" in out
    assert out[-1] == "3 requeued"
    records = await sent_again(settings, 3)
    assert [(r.key, len(r.value)) for r in records] == [(b"before", 1), (b"large", len(compressible)), (b"after", 1)]
    with pytest.raises(DeadLettersError, match="not all"):
        await requeue_all(settings, LetterId(0, 1))


async def test_the_list_shows_what_is_to_do_and_no_bodies(settings: KafkaSettings) -> None:
    """Both partitions, without what has been requeued unless asked, filtered, as a table or as JSON."""
    await bury(settings, [(b"k1", b"secret"), (b"k2\x1b[2J", b"secret"), (b"k3", b"secret")])
    await bury(settings, [(b"k4", b"secret")], stage="tier1", partition=1)
    await requeue_all(settings, LetterId(0, 0))
    code, table, err = await said(settings, "list")
    assert (code, err) == (0, "")
    assert b"secret" not in table
    assert b"k1" not in table
    assert b"k2\\x1b[2J" in table
    assert "      3  PoisonError: not a Ticket\n      3  in all" in table.decode()
    code, out, err = await said(settings, "list", "--all", "--json", "--since", "1h", "--reason", "poison")
    found = {row["id"]: row for row in map(orjson.loads, out.splitlines())}
    assert (code, err, set(found)) == (0, "", {"0/0", "0/1", "0/2", "1/0"})
    assert found["0/0"]["requeued_at"]
    assert found["1/0"]["requeued_at"] is None
    assert found["1/0"]["origin"] == f"{settings.topic_prefix}tickets/1/0"
    assert b"secret" not in out
    _, out, _ = await said(settings, "list", "--json", "--stage", "tier1")
    assert [orjson.loads(row)["id"] for row in out.splitlines()] == ["1/0"]


async def test_show_gives_headers_and_body_or_the_very_bytes(settings: KafkaSettings) -> None:
    """JSON is laid out, what might steer the terminal is escaped, and raw is raw."""
    await bury(settings, [(b"json", b'{"ticket_id":"[bold]7"}'), (b"bytes", b"\x1b[2J\xff\n")])
    code, out, err = await said(settings, "show", "0/0")
    assert (code, err) == (0, "")
    for expected in ('{\n  "ticket_id": "[bold]7"\n}', "headgate-stage: router", "own: \\x00\\xff", "reason: Poison"):
        assert expected in out.decode()
    _, out, _ = await said(settings, "show", "0/1")
    assert b"\x1b" not in out
    assert b"\\x1b[2J\\xff" in out
    assert (await said(settings, "show", "0/1", "--raw"))[1] == b"\x1b[2J\xff\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["show", "0/99"], 1, "no dead letter 0/99"),
        (["show", "77/0"], 1, "no dead letter 77/0"),
        (["requeue", "0/0", "0/99"], 1, "no dead letter 0/99"),
        (["show", "first"], 1, "PARTITION/OFFSET"),
        (["list", "--since", "soon"], 1, "--since soon"),
        (["requeue"], 2, "--all-matching"),
        (["requeue", "0/0", "--stage", "router"], 2, "--all-matching"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_a_mistake_ends_with_a_line(settings: KafkaSettings, arguments: list[str], code: int, says: str) -> None:
    """What was asked and can't be done: nothing is, and the last lines say why."""
    await bury(settings, [(b"a", b"1")])
    found, out, err = await said(settings, *arguments)
    assert (found, out) == (code, b"")
    assert says in " ".join(err.split())
    assert "Traceback" not in err
    if code == 1:
        assert err.count("\n") == 1
    assert (await requeue_all(settings, dry_run=True))[-1] == "1 to requeue"


@pytest.mark.parametrize("arguments", [["list"], ["show", "0/0"], ["requeue", "0/0"]])
async def test_no_topic_and_no_broker_end_with_a_line(kafka: EmbeddedKafka, arguments: list[str]) -> None:
    """As with the other commands: exit code 1, and what to do."""
    nothing = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix="nothing-")
    code, out, err = await said(nothing, *arguments)
    assert (code, out, "no topic nothing-dead-letters" in err) == (1, b"", True), err
    code, out, err = await said(KafkaSettings(bootstrap_servers="127.0.0.1:1"), *arguments)
    assert (code, out, "127.0.0.1:1" in err) == (1, b"", True), err
    assert "Traceback" not in err


async def test_poison_that_is_sent_again_dies_again_under_a_new_id(settings: KafkaSettings) -> None:
    """The stage's own dead letters, a record of nothing at all among them, go round once more with each requeue."""

    async def never(record: Record[Ticket]) -> Done:
        raise AssertionError("no ticket was published")

    servers, tickets = settings.bootstrap_servers, settings.topic_prefix + "tickets"
    await write(servers, tickets, [(b"k", b"{"), (b"k", None)], OWN, partition=0)
    loop = StageLoop(Stage("router", TICKETS, Ticket, singly(never)), settings)
    running = asyncio.create_task(loop.run())
    try:
        first = await committed_records(servers, settings.topic_prefix + "dead-letters", 2)
        ids = [LetterId(r.partition, r.offset) for r in first]
        assert (await requeue_all(settings, *ids))[-1] == "2 requeued"

        async def died_again() -> bool:
            async with dead_letters.opened(settings) as topic:
                return len((await topic.contents()).chosen(Filters())) == 2

        await until(died_again)
        async with dead_letters.opened(settings) as topic:
            contents = await topic.contents()
            again = [x async for x in topic.bodies(contents.chosen(Filters()))]
    finally:
        loop.stop()
        await asyncio.wait_for(running, 30)
    assert set(contents.requeued) == set(ids)
    assert {x.id for x, _ in again}.isdisjoint(ids)
    assert {x.origin.offset for x, _ in again if x.origin} == {2, 3}
    assert sorted(body or b"" for _, body in again) == [b"", b"{"]
    assert {dict(x.own_headers)[REQUEUE_OF].decode() for x, _ in again} == set(map(str, ids))
