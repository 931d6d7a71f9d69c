"""`headgate backfill` on a real broker: each past ticket that is due goes over the slow lane once, whatever happens."""

import asyncio
import io
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord
from rich.console import Console

from schemas.answers import HandoffReason
from schemas.codec import decode, encode
from schemas.events import Event, Outcome
from schemas.tickets import Routed, Ticket, TicketId
from schemas.topics import ANSWERS, BACKFILL, HANDOFFS, MIB, TICKETS, TIER2
from streams import backfill
from streams.backfill_plan import BackfillError, asked
from streams.local.embedded_kafka import EmbeddedKafka
from streams.outcomes import answer, handoff
from streams.router import _duplicate, identity
from streams.runtime.clock import utc_now
from streams.runtime.headers import REPLAY_ID, REPLAY_OF, REPLAY_OUTPUT
from streams.runtime.loop import StageLoop
from streams.runtime.stage import Done, Output, Record, Stage, singly
from streams.settings import KafkaSettings
from streams.topics import shape_of
from tests.kafka import committed_records, ticket, until, write
from tests.records import a_decision, a_draft, a_verdict

pytestmark = pytest.mark.integration

TODAY = datetime.now(UTC).date()
FROM, TO = f"{TODAY - timedelta(days=1)}", f"{TODAY + timedelta(days=1)}"
OWN: tuple[tuple[str, Any], ...] = (("own", b"\x00\xff"), (REPLAY_OUTPUT, b"policy"))


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0)


async def past(settings: KafkaSettings, ids: Sequence[str], outcome: Outcome | None = "handed_off") -> None:
    """Tickets of the past, and the events of their ends."""
    topic = settings.topic_prefix
    await write(settings.bootstrap_servers, topic + "tickets", [(i.encode(), ticket(i)) for i in ids], OWN)
    if outcome:
        events = [
            Event(
                event_id=f"tier2/{i}",
                at=utc_now(),
                stage="tier2",
                outcome=outcome,
                ticket_id=TicketId(i),
                tenant="default",
                category="orders",
                reasons=(HandoffReason.TIER2_UNAVAILABLE,) if outcome == "handed_off" else (),
                cost_usd=0.0 if outcome == "handed_off" else 0.25,
            )
            for i in ids
        ]
        await write(settings.bootstrap_servers, topic + "events", [(e.ticket_id.encode(), encode(e)) for e in events])


async def run(
    settings: KafkaSettings,
    *filters: str,
    since: str = FROM,
    to: str = TO,
    again: bool = False,
    output: str = "answers",
    most: int = 1000,
    dry_run: bool = False,
) -> str:
    """The command; returns what it printed."""
    out = io.StringIO()
    of = asked(since, to, filters, output, again)
    await backfill.backfill(settings, of, most, dry_run, Console(file=out, width=200))
    return out.getvalue()


@asynccontextmanager
async def stages(settings: KafkaSettings, refused: Sequence[str] = ()) -> AsyncIterator[None]:
    """Two stages on the slow lane: a router that remembers tickets as the real one does, and one that answers all but
    those refused."""

    def event(record: Record[Any], stage: Any, outcome: Outcome, of: Ticket) -> Event:
        id_ = f"{stage}/{record.origin}"
        reasons = (HandoffReason.SPEND_LIMIT,) if outcome == "handed_off" else ()
        return Event(
            event_id=id_,
            at=utc_now(),
            stage=stage,
            outcome=outcome,
            ticket_id=of.ticket_id,
            tenant=of.tenant,
            category="orders",
            reasons=reasons,
        )

    async def route(record: Record[Ticket]) -> Done:
        routed = Routed(ticket=record.value, decision=a_decision("tier2"), received_at=record.written_at)
        return Done((Output(TIER2, record.value.ticket_id, routed),), event(record, "router", "routed", record.value))

    async def end(record: Record[Routed]) -> Done:
        of = record.value.ticket
        if of.ticket_id in refused:
            handed = handoff(record.value, HandoffReason.SPEND_LIMIT, "")
            return Done((Output(HANDOFFS, of.ticket_id, handed),), event(record, "tier2", "handed_off", of))
        answered = answer(a_draft(routed=record.value, tier="tier2"), a_verdict())
        return Done((Output(ANSWERS, of.ticket_id, answered),), event(record, "tier2", "answered", of))

    slow_tickets, slow_tier2 = (replace(each, name=each.name + BACKFILL, twins=()) for each in (TICKETS, TIER2))
    router = Stage("router", slow_tickets, Ticket, singly(route), batch_size=1, identity=identity, duplicate=_duplicate)
    loops = [
        StageLoop(stage, settings) for stage in (router, Stage("tier2", slow_tier2, Routed, singly(end), batch_size=1))
    ]
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
    finally:
        for loop in loops:
            loop.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 40)


async def found(settings: KafkaSettings, topic: str, wanted: int) -> list[ConsumerRecord[Any, Any]]:
    return await committed_records(settings.bootstrap_servers, settings.topic_prefix + topic, wanted)


def ids(records: Sequence[ConsumerRecord[Any, Any]], replayed: bool = True) -> Counter[str]:
    """How often which tickets are there, of those that were replayed or all."""
    return Counter(r.key.decode() for r in records if not replayed or REPLAY_ID in dict(r.headers))


def named(count: int, start: str = "h") -> list[str]:
    return [f"{start}{n:03}" for n in range(count)]


async def test_tickets_handed_to_people_are_answered_once_and_nothing_else_is(settings: KafkaSettings) -> None:
    """Not those answered, nor those on their way; run again, or with another window, it does nothing."""
    await past(settings, named(5))
    await past(settings, named(3, "a"), "answered")
    await past(settings, ["w"], None)
    await past(settings, ["h000"])  # its helpdesk published it again
    async with stages(settings):
        said = await run(settings)
        counts = [line.split()[-1] for line in said.splitlines()[1:6]]
        assert counts == ["10", "3", "1", "1", "5"], said
        assert "5 answered; " in said
        assert "nothing to do" in await run(settings)
        assert "nothing to do" in await run(settings, to=f"{TODAY + timedelta(days=2)}")
    slow = await found(settings, "tickets.backfill", 5)
    assert ids(slow) == Counter(named(5))
    first = next(r for r in slow if r.key == b"h001")
    headers = dict(first.headers)
    assert headers["own"] == b"\x00\xff"
    assert REPLAY_OUTPUT not in headers, "a helpdesk can't choose where answers go"
    (topic, partition, offset) = headers[REPLAY_OF].decode().split("/")
    original = [
        r for r in await found(settings, "tickets", 10) if (r.partition, r.offset) == (int(partition), int(offset))
    ]
    assert (topic, [r.value for r in original]) == (settings.topic_prefix + "tickets", [first.value])
    answers = await found(settings, "answers", 5)
    assert ids(answers) == Counter(named(5))
    assert {dict(r.headers)[REPLAY_ID] for r in answers} == {headers[REPLAY_ID]}
    ends = [decode(Event, r.value) for r in await found(settings, "events", 18)]
    assert Counter(e.outcome for e in ends if e.replay_id == headers[REPLAY_ID].decode()) == {
        "routed": 5,
        "answered": 5,
    }


async def test_a_dry_run_tells_counts_and_cost_and_writes_nothing(settings: KafkaSettings) -> None:
    """The price is that of the answers in the window."""
    await past(settings, named(4))
    await past(settings, named(2, "a"), "answered")
    said = await run(settings, dry_run=True)
    assert "$1.0000: by category, what 2 answers since" in said
    assert await found(settings, "tickets.backfill", 0) == []
    assert "all of it" not in said
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    known = {name for name, _ in await admin.list_consumer_groups()}
    await admin.close()
    assert not [name for name in known if name.startswith(f"{settings.topic_prefix}headgate-backfill")]


async def test_a_ticket_behind_one_of_a_fast_clock_is_in_the_window(settings: KafkaSettings) -> None:
    """Records stand in the order in which they came, whatever their producers' clocks say. A window that begins with
    time itself is one, too."""
    now_ms = int(utc_now().timestamp() * 1000)
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:
        for name, at_ms in (("fast", now_ms + 1_800_000), ("t", now_ms), ("later", now_ms + 1_800_000)):
            topic = settings.topic_prefix + "tickets"
            await producer.send(topic, ticket(name), partition=0, timestamp_ms=at_ms)
    to = f"{utc_now() + timedelta(minutes=1):%Y-%m-%dT%H:%M}"
    for since in (FROM, "1970-01-01"):
        said = await run(settings, since=since, to=to, dry_run=True)
        assert said.splitlines()[1].split()[-1] == "1", said


async def test_no_more_is_on_the_slow_lane_than_may_be_and_what_comes_later_is_not_in(settings: KafkaSettings) -> None:
    """Though --to lies in the future. Another backfill ends this one, which goes on when told again."""
    await past(settings, named(10))
    first = asyncio.create_task(run(settings, most=3))
    await until(lambda: _count(settings, "tickets.backfill", 3))
    await past(settings, named(4, "later"))
    # It takes nothing of what the first has on the lane, and the first three of the others.
    second = asyncio.create_task(run(settings, to=f"{TODAY + timedelta(days=2)}", most=1))
    with pytest.raises(BackfillError, match="another backfill has begun"):
        async with stages(settings):
            await first
    assert not second.done() or second.exception() is None
    async with stages(settings):
        await second
        assert "14 answered" not in await run(settings, most=3)
    slow = await found(settings, "tickets.backfill", 14)
    assert ids(slow) == Counter([*named(10), *named(4, "later")])


async def _count(settings: KafkaSettings, topic: str, wanted: int) -> bool:
    return len(await committed_records(settings.bootstrap_servers, settings.topic_prefix + topic, wanted, 1)) >= wanted


async def test_again_answers_again_and_once_only(settings: KafkaSettings) -> None:
    """Also what went over the slow lane a moment ago; but a finished one that is run again pays for nothing."""
    await past(settings, named(3))
    await past(settings, ["a"], "answered")
    async with stages(settings):
        await run(settings)
        await run(settings, again=True)
        with pytest.raises(BackfillError, match="finished"):
            await run(settings, again=True)
    assert ids(await found(settings, "answers", 7)) == Counter({**dict.fromkeys(named(3), 2), "a": 1})


async def test_what_was_handed_off_again_is_taken_by_the_next_pass(settings: KafkaSettings) -> None:
    """The same command, once it has finished, looks again."""
    await past(settings, named(4))
    async with stages(settings, refused=["h001", "h002"]):
        assert "2 answered, 2 handed off" in await run(settings)
    async with stages(settings):
        assert "2 answered" in await run(settings)
    assert ids(await found(settings, "tickets.backfill", 6)) == Counter([*named(4), "h001", "h002"])
    assert ids(await found(settings, "answers", 4)) == Counter(named(4))


async def test_answers_and_handoffs_go_to_another_topic(settings: KafkaSettings) -> None:
    """If it is there and takes what an answer may have; answers and handoffs themselves get nothing."""
    await past(settings, named(3))
    with pytest.raises(BackfillError, match="there is no topic"):
        await run(settings, output="trial")
    with pytest.raises(BackfillError, match="Headgate's own"):
        await run(settings, output="policy")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    small, large = (settings.topic_prefix + name for name in ("small", "trial"))
    await admin.create_topics(
        [
            NewTopic(small, 1, 1, topic_configs={"max.message.bytes": str(MIB)}),
            NewTopic(large, 1, 1, topic_configs={"max.message.bytes": str(4 * MIB)}),
        ]
    )
    await until(lambda: _is_there(settings, small))
    await until(lambda: _is_there(settings, large))
    with pytest.raises(BackfillError, match=r"max\.message\.bytes"):
        await run(settings, output="small")
    async with stages(settings, refused=["h001"]):
        assert "2 answered, 1 handed off" in await run(settings, output="trial")
        assert "1 handed off" in await run(settings, output="trial"), (
            "the handoff is looked at again, the answers are not"
        )
    records = await found(settings, "trial", 4)
    await admin.delete_topics([small, large])
    await admin.close()
    assert ids(records) == Counter(["h000", "h001", "h001", "h002"])
    kinds = {r.key: dict(r.headers)["ce_type"] for r in records}
    assert kinds == {b"h000": b"headgate.answer.v1", b"h001": b"headgate.handoff.v1", b"h002": b"headgate.answer.v1"}
    assert await found(settings, "answers", 0) == await found(settings, "handoffs", 0) == []


async def _is_there(settings: KafkaSettings, topic: str) -> bool:
    return await shape_of(settings, topic) is not None


async def test_a_backfill_that_is_killed_over_and_over_publishes_each_ticket_once(settings: KafkaSettings) -> None:
    """Wherever the kill falls; the last run ends what is left."""
    await past(settings, named(400))
    own = {
        "HEADGATE_KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "HEADGATE_KAFKA__TOPIC_PREFIX": settings.topic_prefix,
        "HEADGATE_KAFKA__TRANSACTION_TIMEOUT_S": "3",
    }
    argv = [sys.executable, "-m", "streams.cli", "backfill", "--from", FROM, "--to", TO, "--outstanding", "350"]
    for after_s in (0.0, 0.03):
        process = await asyncio.create_subprocess_exec(*argv, env={**os.environ, **own}, stdout=asyncio.subprocess.PIPE)
        assert process.stdout
        await asyncio.wait_for(process.stdout.readuntil(b"estimated cost"), 100)
        await asyncio.sleep(after_s)
        process.kill()
        await process.wait()
    async with stages(settings):
        await run(settings)
    assert ids(await found(settings, "tickets.backfill", 400)) == Counter(named(400))
    assert ids(await found(settings, "answers", 400)) == Counter(named(400))
