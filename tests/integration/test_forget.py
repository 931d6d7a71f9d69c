"""`headgate forget` on a real broker: what learning sees afterwards, what gets tombstones, and what is told."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.audits import Audit
from schemas.codec import encode
from schemas.events import Event
from schemas.labels import Label
from schemas.seen import Seen
from schemas.tickets import TicketId
from schemas.topics import (
    AUDITS,
    DEAD_LETTERS,
    EVENTS,
    FORGOTTEN,
    LABELS,
    SCOREBOARD_JOURNEYS,
    SCOREBOARD_LABELS,
    SEEN,
    TICKETS,
    Topic,
)
from streams.forget import Report, forget
from streams.labels import read_labels
from streams.learn_topics import make
from streams.local.embedded_kafka import EmbeddedKafka
from streams.read import raw, reader
from streams.scoreboard.board import DraftOf, TicketOf
from streams.scoreboard.journeys import Journey, Step
from streams.scoreboard.quality import Judged
from streams.settings import KafkaSettings, Settings, load
from tests.kafka import write
from tests.records import AT, a_decision, a_ticket, an_attempt
from workers.learning.provenance import Manifest

pytestmark = pytest.mark.integration

FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"
THEIRS, OTHERS = "customer-7", "customer-8"


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Fernway's, on this broker."""
    monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
    own = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics)
    return load().model_copy(update={"kafka": own, "store": tmp_path / "store"})


def an_audit(ticket_id: str, customer_id: str) -> Audit:
    return Audit(
        ticket=a_ticket(f"What does {ticket_id} cost?", ticket_id=TicketId(ticket_id), customer_id=customer_id),
        decision=a_decision(model_version="router-1", audited=True),
        draft=an_attempt(text="It costs $5.", finish_reason="stop", model="small-1"),
        at=AT,
    )


def a_label(ticket_id: str) -> Label:
    return Label(
        ticket_id=TicketId(ticket_id),
        category="orders",
        acceptable=True,
        source="judge",
        propensity=0.2,
        at=AT,
        p_ok=0.7,
        score=0.8,
        model="small-1",
        model_version="router-1",
    )


async def publish(settings: Settings, topic: Topic, *records: tuple[bytes, msgspec.Struct | bytes]) -> None:
    pairs = [(key, value if isinstance(value, bytes) else encode(value)) for key, value in records]
    await write(settings.kafka.bootstrap_servers, settings.kafka.topic_prefix + topic.name, pairs, partition=0)


async def publish_both(settings: Settings) -> None:
    """A ticket of either customer, with all that the stages make of it."""
    both = {b"t-theirs": THEIRS, b"t-others": OTHERS}
    audits = {key: an_audit(key.decode(), customer_id) for key, customer_id in both.items()}
    events = {
        key: Event(event_id=key.decode(), at=AT, stage="router", outcome="routed", ticket_id=TicketId(key.decode()))
        for key in both
    }
    events = {key: msgspec.structs.replace(event, tenant="default") for key, event in events.items()}
    tickets = [(key, audit.ticket) for key, audit in audits.items()]
    seen = Seen(at=AT, origin="tickets/0/0")
    judged = Judged(AT, 0, "orders", "tier1", True, 0.2, True)
    journeys = [(encode(TicketOf(0, key.decode())), Journey(steps=(Step(0, event),))) for key, event in events.items()]
    await publish(settings, TICKETS, *tickets)
    await publish(settings, AUDITS, *audits.items())
    await publish(settings, LABELS, *[(key, a_label(key.decode())) for key in both])
    await publish(settings, EVENTS, *events.items())
    await publish(settings, DEAD_LETTERS, *tickets, (b"t-theirs", b"no JSON"))
    await publish(settings, SEEN, *[(b"default\0" + key, seen) for key in both])
    await publish(settings, SCOREBOARD_JOURNEYS, *journeys)
    drafts = [encode(DraftOf(0, "default", key.decode(), "tier1")) for key in both]
    await publish(settings, SCOREBOARD_LABELS, *[(key, judged) for key in drafts])


async def in_force(settings: Settings, topic: Topic) -> Mapping[bytes, bytes | None]:
    """The last value of each key."""
    async with reader(settings.kafka, [raw(topic)]) as source:
        return {received.key or b"": received.raw async for received in source.until_end()}


async def dataset(settings: Settings, folder: Path) -> tuple[int, Mapping[str, int]]:
    """How many rows, and what was left out."""
    made: Manifest = await make("thresholds", settings, folder, "headgate dataset thresholds")
    return made.files["rows.jsonl"].rows, made.left_out


def by_place(report: Report) -> dict[str, Any]:
    return {each.place: each for each in report.remains}


async def test_a_forgotten_customer_is_in_no_data_set_and_the_compacted_topics_get_tombstones(
    settings: Settings, tmp_path: Path
) -> None:
    """The other customer stays as he was; what remains is told with until when, by the cluster's own settings."""
    await publish_both(settings)
    assert await dataset(settings, tmp_path / "before") == (2, {})
    assert len((await read_labels(settings.kafka)).outcomes) == 2

    tried = await forget(settings, "default", THEIRS, True, [tmp_path / "before"])
    assert await in_force(settings, FORGOTTEN) == {}
    assert None not in (await in_force(settings, SEEN)).values()

    report = await forget(settings, "default", THEIRS, False, [tmp_path / "before"])
    assert report == replace(tried, dry_run=False)
    assert report.tickets == 1
    found = by_place(report)
    assert {place: each.records for place, each in found.items()} == {
        **dict.fromkeys(("tickets", "audits", "labels", "events", "dead-letters"), 1),
        **dict.fromkeys(("seen", "scoreboard-journeys", "scoreboard-labels", str(tmp_path / "before")), 1),
    }
    # Seven days of retention, and as many until a segment closes.
    until = found["tickets"].gone_by - datetime.now(UTC)
    assert timedelta(days=13.9) < until < timedelta(days=14)
    assert found["scoreboard-journeys"].gone_by is None
    assert "1 dead letters can't be read" in report.notes[0]

    for topic, theirs, others in (
        (SEEN, b"default\0t-theirs", b"default\0t-others"),
        (SCOREBOARD_JOURNEYS, b'[0,"t-theirs"]', b'[0,"t-others"]'),
        (SCOREBOARD_LABELS, b'[0,"default","t-theirs","tier1"]', b'[0,"default","t-others","tier1"]'),
    ):
        values = await in_force(settings, topic)
        assert (values[theirs], values[others] is None) == (None, False)
    (named,) = await in_force(settings, FORGOTTEN)
    assert THEIRS.encode() not in named

    assert await dataset(settings, tmp_path / "after") == (1, {"a record of a customer who is forgotten": 1})
    join = await read_labels(settings.kafka)
    assert (list(join.outcomes), join.forgotten) == ([("default", "t-others")], 2)


async def test_who_was_forgotten_stays_so_when_old_tickets_come_again_and_when_it_is_asked_twice(
    settings: Settings, tmp_path: Path
) -> None:
    """An archive that is published again has tickets that nobody knew; a second run forgets nothing of the first."""
    await publish_both(settings)
    await forget(settings, "default", THEIRS, False, [])
    old = a_ticket("an old question", ticket_id=TicketId("t-archive"), customer_id=THEIRS)
    await publish(settings, TICKETS, (b"t-archive", old))
    await publish(settings, LABELS, (b"t-archive", a_label("t-archive")))
    assert list((await read_labels(settings.kafka)).outcomes) == [("default", "t-others")]

    again = await forget(settings, "default", THEIRS, False, [])
    assert again.tickets == 2
    assert "had tombstones before" in by_place(again)["seen"].said
    assert (await dataset(settings, tmp_path / "set"))[0] == 1
    elsewhere = await forget(settings, "another", THEIRS, True, [])
    assert (elsewhere.tickets, list(elsewhere.remains)) == (0, [])
    assert "is the id, and the tenant, right?" in elsewhere.notes[0]
