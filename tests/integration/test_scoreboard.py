"""The scoreboard as a process on a real broker: what it counts over kills, and what its pages say."""

import random
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from schemas.codec import encode
from schemas.events import Event
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.spend import Reserve, Settle, SpendEntry
from schemas.tickets import TicketId
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.clock import utc_now
from streams.scoreboard.summary import Summary, summary
from streams.scoreboard.views import AuditsView, BacklogView, Failure, JourneyView, PoliciesView, SpendView
from tests.kafka import committed_records, ticket, until, write
from tests.scoreboard import Scoreboard, count

pytestmark = pytest.mark.integration

SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", why="no labels", audit_share=0.2)


def started(folder: Path, servers: str, prefix: str) -> Scoreboard:
    """With a name of its own in its group, so that it needn't wait for the one that was killed."""
    return Scoreboard(
        folder,
        servers,
        prefix,
        Policy(scope="default", version="file", default=SHADOW),
        KAFKA__GROUP_INSTANCE_ID="scoreboard-1",
        KAFKA__SESSION_TIMEOUT_S="6",
        TIER2__SPEND__MONTH_USD="5",
    )


@pytest.fixture
async def scoreboard(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> AsyncIterator[Scoreboard]:
    found = started(tmp_path, kafka.bootstrap_servers, topics)
    yield found
    found.kill()
    print(found.log[-10_000:])


def event(number: int) -> Event:
    rng = random.Random(number)
    return Event(
        event_id=f"tickets/0/{number}",
        at=utc_now(),
        stage=rng.choice(("router", "tier1", "tier2", "checker")),
        outcome=rng.choice(("routed", "drafted", "answered", "escalated", "handed_off")),
        ticket_id=TicketId(f"t{number // 4}"),
        tenant="acme",
        category=rng.choice(("billing", "plans", "roaming")),
        tier=rng.choice(("tier1", "tier2")),
        reasons=("low_score",),
        cost_usd=rng.random() / 300,
        age_s=rng.random() * 20,
    )


async def publish(servers: str, topic: str, events: Sequence[Event]) -> None:
    await write(servers, topic, [(e.ticket_id.encode(), encode(e)) for e in events])


async def test_a_kill_changes_no_figure(kafka: EmbeddedKafka, topics: str, scoreboard: Scoreboard) -> None:
    """Killed amid a stream with repeated events, unreadable records and a transaction that is taken back, it shows what
    a count over the topic shows, to the digit."""
    servers, name = kafka.bootstrap_servers, topics + "events"
    stream = [event(n) for n in range(900)]
    repeated = random.Random(1).choices(stream[:300], k=90) + random.Random(2).choices(stream, k=90)
    await publish(servers, name, [*stream[:300], *repeated[:90]])
    await scoreboard.shows(partial(_has_counted, 1))
    await taken_back(servers, name, event(10_000))
    await write(servers, name, [(b"x", b"none of ours")] * 3)
    await publish(servers, name, [*stream[300:], *repeated[90:]])
    # Wherever it is now: some of it is counted, some is read, some is not.
    scoreboard.kill()
    scoreboard.start()
    records = await committed_records(servers, name, 900 + 180 + 3)
    known = [msgspec.json.decode(r.value, type=Event) for r in records if r.value != b"none of ours"]
    assert len(known) == 900 + 180

    def wanted(until_s: int) -> Summary:
        return summary(count(known).items(), [], "1h", until_s - 1, unreadable=3, repeated=180)

    found = await scoreboard.shows(lambda s: s == wanted(s.until_s))
    assert found == wanted(found.until_s)
    assert found.total.volume > 100
    scoreboard.process.terminate()
    assert scoreboard.process.wait(30) == 0, scoreboard.log[-5_000:]
    assert scoreboard.files == {"log", "policy.json"}, "it writes none"


def _has_counted(least: int, found: Summary) -> bool:
    return found.total.volume > least


async def taken_back(servers: str, topic: str, of: Event) -> None:
    """An event in a transaction that is aborted, as a stage leaves one that dies."""
    async with AIOKafkaProducer(bootstrap_servers=servers, transactional_id=f"{topic}-dies") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, encode(of), key=b"x")
        await producer.abort_transaction()


async def test_the_pages_say_what_the_topics_hold(kafka: EmbeddedKafka, topics: str, scoreboard: Scoreboard) -> None:
    """A journey, the audit queue, the policy, spending and the backlog; what can't be answered is an error with a word
    of why. No ticket text anywhere."""
    servers = kafka.bootstrap_servers

    async def published(topic: str, records: Sequence[tuple[bytes, bytes]], partition: int | None = None) -> None:
        await write(servers, topics + topic, records, partition=partition)

    audits = [{"ticket": {"ticket_id": f"t{n}", "body": "secret words"}, "at": utc_now()} for n in range(3)]
    await publish(servers, topics + "events", [event(n) for n in range(8)])
    await published("audits", [(b"t", msgspec.json.encode(audit)) for audit in audits])
    label = Label(
        ticket_id=TicketId("t1"), category="billing", acceptable=True, source="rubric", propensity=0.2, at=utc_now()
    )
    await published("labels", [(b"t1", encode(label))])
    await published("tickets", [(b"a", ticket("a", "secret words")), (b"b", ticket("b", "secret words"))], partition=0)
    steps = [
        Reserve(id="one", tenant="acme", micro_usd=3_000),
        Settle(id="one", micro_usd=1_000),
        Reserve(id="two", tenant="acme", micro_usd=500),
    ]
    await published("spend", [(b"", encode(SpendEntry(step=step))) for step in steps])
    await scoreboard.shows(lambda s: s.labels == 1)

    async def audits_are_read() -> bool:
        return (await scoreboard.says("/api/audits", AuditsView)).waiting == 2

    await until(audits_are_read)
    assert (await scoreboard.says("/api/audits", AuditsView)).labels == {"judge": 0, "rubric": 1, "person": 0}
    journey = await scoreboard.says("/api/journey/t1", JourneyView)
    assert [e.event_id for e in journey.events] == [f"tickets/0/{n}" for n in (4, 5, 6, 7)]
    assert await scoreboard.says("/api/journey/t1?tenant=acme", JourneyView) == journey
    policy = (await scoreboard.says("/api/policy", PoliciesView)).active
    assert (policy.version, [(c.name, c.state, c.labels) for c in policy.categories]) == (
        "file",
        [("billing", "shadow", 1), ("", "shadow", 0)],
    )
    spend = {limit.period: limit for limit in (await scoreboard.says("/api/spend", SpendView)).limits}
    assert {p: (limit.spent_usd, limit.reserved_usd) for p, limit in spend.items()}["month"] == (0.0015, 0.0005)
    assert spend["month"].limit_usd == 5.0
    stages = (await scoreboard.says("/api/backlog", BacklogView)).stages
    assert {(s.stage, s.topic): s.unfinished for s in stages if s.unfinished} == {
        ("router", "tickets"): 2,
        ("judge", "audits"): 3,
    }
    assert all(0 <= s.oldest_s < 600 for s in stages if s.oldest_s is not None)
    for path, status in (("/api/journey/nobody", 404), ("/api/summary?span=1y", 400), ("/nowhere", 404)):
        failure = await scoreboard.get(path)
        assert (failure.status_code, bool(msgspec.json.decode(failure.content, type=Failure).error)) == (status, True)
    page = await scoreboard.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await scoreboard.get("/healthz")).text == "ok\n"
    assert "secret" not in scoreboard.seen + scoreboard.log


async def test_a_row_that_cant_be_read_ends_the_start(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> None:
    """Passed over, its figures would be wrong without a word."""
    await write(kafka.bootstrap_servers, topics + "scoreboard-cells", [(b"no key", b"no row")], partition=0)
    scoreboard = started(tmp_path, kafka.bootstrap_servers, topics)
    try:
        await until(lambda: scoreboard.process.poll() is not None, limit_s=60)
        assert scoreboard.process.returncode == 1
        assert f"{topics}scoreboard-cells: not a" in scoreboard.log
    finally:
        scoreboard.kill()
