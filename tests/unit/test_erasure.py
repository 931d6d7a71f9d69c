"""Whose records `headgate forget` finds, and what it says becomes of them."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from msgspec import Struct

from schemas.answers import Costs, Handoff, HandoffReason
from schemas.audits import Audit
from schemas.codec import encode
from schemas.labels import Feedback, Label
from schemas.tickets import TicketId
from schemas.topics import (
    AUDITS,
    BACKFILL,
    BATCHES,
    CHANGELOGS,
    DAY_MS,
    DEAD_LETTERS,
    DRAFTS,
    FEEDBACK,
    FORGOTTEN,
    HANDOFFS,
    LABELS,
    POLICY,
    RETRY,
    SCOREBOARD_CELLS,
    SCOREBOARD_JOURNEYS,
    SEEN,
    SPEND,
    SPEND_SNAPSHOTS,
    TICKETS,
    TIER1,
    TOPICS,
    Topic,
)
from streams.erasure import BY_CUSTOMER, BY_TICKET, Found, Held, all_of, remains
from streams.read import Received
from tests.records import AT, a_decision, a_draft, a_routed, a_ticket, an_attempt

THEIRS = a_ticket(ticket_id=TicketId("t1"), customer_id="c7")
NEVER_MS = 2**63 - 1
"""Kafka's default for max.compaction.lag.ms, and what some set as a retention."""

KEEPS = {
    "retention.ms": str(7 * DAY_MS),
    "segment.ms": str(DAY_MS),
    "cleanup.policy": "delete",
    "max.compaction.lag.ms": str(NEVER_MS),
}


def received(topic: Topic, value: Struct | bytes | None, key: bytes = b"t1", at_s: float = 10.0) -> Received:
    raw = encode(value) if isinstance(value, Struct) else value
    return Received(topic, None, raw, (), 0, 0, key, at_s)


def counted(*records: Received, tenant: str = "default", customer_id: str = "c7") -> dict[str, int]:
    found = Found(tenant, customer_id)
    for record in records:
        found.take(record)
    return {topic: held.records for topic, held in found.held.items()}


def test_every_topic_is_read_but_those_that_name_no_ticket() -> None:
    """A topic that comes later must be put somewhere."""
    rest = {POLICY, SPEND, SPEND_SNAPSHOTS, BATCHES, FORGOTTEN, SCOREBOARD_CELLS}
    assert {*BY_CUSTOMER, *BY_TICKET} | rest == {*TOPICS, *CHANGELOGS}


def test_a_customers_records_are_found_wherever_the_ticket_stands_in_them() -> None:
    """At the top, inside, or inside of what is inside; in the twins, too."""
    routed = a_routed(THEIRS)
    handoff = Handoff(
        ticket=THEIRS,
        reason=HandoffReason.SPEND_LIMIT,
        detail="",
        decision=a_decision(),
        attempts=(),
        costs=Costs(router_usd=0.0, tier1_usd=0.0, checker_usd=0.0, tier2_usd=0.0),
        received_at=AT,
        handed_off_at=AT,
    )
    records = {
        TICKETS.name + BACKFILL: THEIRS,
        TIER1.name + RETRY: routed,
        DRAFTS.name: a_draft(routed=routed),
        HANDOFFS.name: handoff,
        AUDITS.name: Audit(ticket=THEIRS, decision=a_decision(), draft=an_attempt(), at=AT),
    }
    topics = {topic.name: topic for topic in all_of(BY_CUSTOMER)}
    for name, record in records.items():
        assert counted(received(topics[name], record)) == {name: 1}
        assert counted(received(topics[name], record), tenant="another") == {}
        assert counted(received(DEAD_LETTERS, record)) == {DEAD_LETTERS.name: 1}


def test_what_names_only_the_ticket_is_found_by_it() -> None:
    """Of the same tenant alone: helpdesks number their tickets by themselves."""
    label = Label(ticket_id=TicketId("t1"), category="orders", acceptable=True, source="judge", propensity=1.0, at=AT)
    others = [msgspec.structs.replace(label, **changes) for changes in ({"ticket_id": "t2"}, {"tenant": "another"})]
    found = counted(
        received(TICKETS, THEIRS),
        *(received(LABELS, each) for each in (label, *others)),
        received(FEEDBACK, Feedback(ticket_id=TicketId("t1"), at=AT)),
        received(SEEN, b"{}", b"default\0t1"),
        received(SEEN, b"{}", b"another\0t1"),
    )
    assert found == {"tickets": 1, "labels": 1, "feedback": 1, "seen": 1}


def test_a_helpdesks_own_field_does_not_hide_a_ticket() -> None:
    """Unknown fields are accepted, whatever they are called."""
    raw = msgspec.json.encode({**msgspec.to_builtins(THEIRS), "ticket": {"n": 1}, "routed": "by hand"})
    assert counted(received(TICKETS, raw), received(DEAD_LETTERS, raw)) == {"tickets": 1, "dead-letters": 1}


def test_tickets_without_a_customer_are_nobodys() -> None:
    """An empty id is no id."""
    assert counted(received(TICKETS, a_ticket()), customer_id="c7") == {}


def test_a_dead_letter_that_cannot_be_read_is_counted_and_a_marker_is_none() -> None:
    """Nobody can tell whose it is; what stands on other topics is for others to tell."""
    found = Found("default", "c7")
    for record in (received(DEAD_LETTERS, b"no JSON"), received(DEAD_LETTERS, None), received(TICKETS, b"no JSON")):
        found.take(record)
    assert (found.unreadable, found.held) == (1, {})


def test_a_key_that_has_its_tombstone_gets_no_other() -> None:
    """The last value of a key decides."""
    found = Found("default", "c7")
    journey = b'{"steps":[{"offset":1,"event":{"ticket_id":"t1","tenant":"default"}}]}'
    key = b'[0,"t1"]'
    for record in (received(TICKETS, THEIRS), received(SCOREBOARD_JOURNEYS, journey, key)):
        found.take(record)
    assert list(found.keys) == [("scoreboard-journeys", 0, key)]
    found.take(received(SCOREBOARD_JOURNEYS, None, key))
    assert (list(found.keys), found.held["scoreboard-journeys"].records) == ([], 1)


def test_records_are_gone_when_their_segment_is() -> None:
    """Kafka deletes a segment by its newest record, and closes the one that is written to after segment.ms."""
    held = Held()
    for at_s in (50.0, AT.timestamp(), 90.0):
        held.add(at_s)
    told = remains("tickets", held, KEEPS, 0, AT)
    assert (told.records, told.gone_by, told.said) == (3, AT + timedelta(days=8), "stays until then")
    assert told.oldest is not None
    assert told.oldest.timestamp() == 50.0
    for never in ({"retention.ms": "-1"}, {"retention.ms": str(NEVER_MS)}, {"segment.ms": str(NEVER_MS)}):
        for_ever = remains("tickets", held, {**KEEPS, **never}, 0, AT)
        assert (for_ever.gone_by, for_ever.said) == (None, "stays")


@pytest.mark.parametrize(
    ("cleanup", "lag_ms", "days"),
    [("compact", NEVER_MS, None), ("compact", 2 * DAY_MS, 2), ("compact,delete", NEVER_MS, 8)],
)
def test_a_tombstone_takes_effect_when_kafka_compacts(cleanup: str, lag_ms: int, days: int | None) -> None:
    """Which has a limit only where the topic sets one."""
    config = {**KEEPS, "cleanup.policy": cleanup, "max.compaction.lag.ms": str(lag_ms)}
    told = remains("seen", Held(1, AT.timestamp(), AT.timestamp()), config, 1, AT)
    assert told.gone_by == (None if days is None else AT + timedelta(days=days))
    assert told.said.startswith("1 tombstones; gone when Kafka compacts")
    assert remains("seen", Held(1, 0.0, 0.0), config, 0, AT).said.startswith("had tombstones before")


def test_the_twins_are_read_as_bytes() -> None:
    """So that a record that is none of ours ends nothing."""
    assert all_of((TICKETS,)) == [replace(TICKETS, name=f"tickets{twin}", value=None) for twin in ("", BACKFILL, RETRY)]
