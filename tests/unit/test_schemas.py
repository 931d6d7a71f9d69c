"""Records and their codec: the compatibility rule, and what becomes of bytes that are no record."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import PoisonError, decode, encode
from schemas.labels import Feedback
from schemas.tickets import Message, Ticket, TicketId
from schemas.topics import TOPICS

AT = "2026-11-24T12:00:00Z"
TICKET: dict[str, Any] = {"ticket_id": "t1", "body": "Where is it?"}
DECISION: dict[str, Any] = {
    "tier": "tier1",
    "reason": "confident",
    "p_ok": 0.9,
    "category": "orders",
    "p_category": 0.8,
    "threshold": 0.5,
    "propensity": 1.0,
    "policy_version": "v1",
    "cost_usd": 0.001,
}
ATTEMPT: dict[str, Any] = {
    "tier": "tier1",
    "text": "x",
    "reason": "empty",
    "score": None,
    "cost_usd": 0.1,
    "duration_s": 1.0,
}
ROUTED: dict[str, Any] = {"ticket": TICKET, "decision": DECISION, "received_at": AT}
COSTS: dict[str, Any] = {"router_usd": 0.1, "tier1_usd": 0.1, "checker_usd": 0.1, "tier2_usd": 0.1}
VERDICT: dict[str, Any] = {
    "accepted": True,
    "reasons": [],
    "score": None,
    "threshold": None,
    "policy_version": "v1",
    "cost_usd": 0.0,
}
THRESHOLDS: dict[str, Any] = {"p_ok_threshold": 0.5, "score_threshold": 0.5}

LEAST: dict[str, dict[str, Any]] = {
    "Ticket": TICKET,
    "Routed": ROUTED,
    "Draft": {
        "routed": ROUTED,
        "tier": "tier1",
        "text": "Today.",
        "finish_reason": "stop",
        "model": "m",
        "provider": "p",
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        "logprobs": {"mean": -1.0, "minimum": -2.0, "q10": -1.5, "q50": -1.0, "tokens": 3},
        "cost_usd": 0.1,
        "duration_s": 1.0,
    },
    "Answer": {
        "ticket_id": "t1",
        "tenant": "default",
        "customer_id": "",
        "text": "Today.",
        "tier": "tier1",
        "model": "m",
        "category": "orders",
        "language": "en",
        "decision": DECISION,
        "verdict": VERDICT,
        "attempts": [ATTEMPT],
        "costs": COSTS,
        "received_at": AT,
        "answered_at": AT,
    },
    "Handoff": {
        "ticket": TICKET,
        "reason": "spend_limit",
        "detail": "",
        "decision": DECISION,
        "attempts": [],
        "costs": COSTS,
        "received_at": AT,
        "handed_off_at": AT,
    },
    "Event": {"event_id": "e", "at": AT, "stage": "router", "outcome": "routed", "ticket_id": "t1"},
    "Audit": {"ticket": TICKET, "decision": DECISION, "draft": ATTEMPT, "at": AT},
    "Feedback": {"ticket_id": "t1", "at": AT},
    "Label": {
        "ticket_id": "t1",
        "category": "orders",
        "acceptable": True,
        "source": "rubric",
        "propensity": 1.0,
        "at": AT,
    },
    "Policy": {"scope": "*", "version": "v1", "default": THRESHOLDS},
    "Forgotten": {"at": AT},
    "Seen": {"at": AT, "origin": "tickets/0/7"},
    "SpendEntry": {"step": {"type": "reserve", "id": "a-1", "tenant": "default", "micro_usd": 7}},
    "Batch": {
        "partition": 0,
        "target": "anthropic/m",
        "phone_region": "US",
        "tickets": [[7, "a-1", 9_000]],
        "at": AT,
    },
    "SpendSnapshot": {"offset": 3, "newest_s": 1.5, "windows": [], "pending": []},
}
"""What its first version requires of each record. It never grows: a field that came later has a default."""

RECORDS = {topic.value.__name__: topic.value for topic in TOPICS if topic.value}


def from_the_future(value: Any) -> Any:
    """The same document with a field that nobody here knows in every object."""
    if isinstance(value, dict):
        return {k: from_the_future(v) for k, v in value.items()} | {"field_of_the_future": {"deep": [1]}}
    return [from_the_future(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_the_first_version_is_read(name: str) -> None:
    """New fields have defaults, so an old process's records can be read."""
    record = decode(RECORDS[name], msgspec.json.encode(LEAST[name]))
    assert decode(RECORDS[name], encode(record)) == record


@pytest.mark.parametrize("name", RECORDS)
def test_unknown_fields_are_accepted(name: str) -> None:
    """So a new process's records can be read by an old one."""
    record = decode(RECORDS[name], msgspec.json.encode(LEAST[name]))
    assert decode(RECORDS[name], msgspec.json.encode(from_the_future(LEAST[name]))) == record


@pytest.mark.parametrize(("name", "field"), [(n, f) for n, least in LEAST.items() for f in least])
def test_the_least_is_the_least(name: str, field: str) -> None:
    """Each field of the table is required: a default that crept in would hide a broken producer."""
    document = {k: v for k, v in LEAST[name].items() if k != field}
    with pytest.raises(PoisonError, match=f"`{field}`"):
        decode(RECORDS[name], msgspec.json.encode(document))


BROKEN: dict[str, bytes | None] = {
    "bad JSON": b'{"ticket_id": "t1"',
    "wrong type": b'{"ticket_id": 7, "body": "x"}',
    "not an object": b"[]",
    "empty": b"",
    "bad UTF-8": b'{"ticket_id": "t1", "body": "\xff\xfe"}',
    "half a surrogate": b'{"ticket_id": "t1", "body": "\\ud800"}',
    "deep nesting": b'{"ticket_id": "t1", "body": "x", "new": ' + b"[" * 100_000,
    "deep nesting, complete": b'{"ticket_id": "t1", "body": "x", "new": ' + b"[" * 9_999 + b"]" * 9_999 + b"}",
    "tombstone": None,
    "no time zone": b'{"ticket_id": "t1", "body": "x", "created_at": "2026-11-24T12:00:00"}',
    "empty id": b'{"ticket_id": "", "body": "x"}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_bytes_that_are_no_record_are_kept(name: str) -> None:
    """A dead letter carries what came, not what was made of it."""
    with pytest.raises(PoisonError) as caught:
        decode(Ticket, BROKEN[name])
    assert caught.value.data is BROKEN[name]
    assert caught.value.reason


CANARY = "Mrs Canary's password: hunter2 - at `$.x`"


@pytest.mark.parametrize(
    "document",
    [
        {"ticket_id": CANARY},
        {"ticket_id": CANARY * 20, "body": "x"},
        {"ticket_id": [CANARY], "body": "x"},
        {"ticket_id": "t1", "body": "x", "thread": [{"author": CANARY, "body": CANARY}]},
        {"ticket_id": "t1", "body": "x", "created_at": CANARY},
        {"ticket_id": "t1", "body": "x", "metadata": {CANARY: 1}},
        {"ticket_id": "t1", "body": {"text": CANARY}},
        {"ticket_id": "t1", "body": "x", "context": [CANARY, 1]},
    ],
)
def test_the_reason_holds_no_value_of_the_data(document: dict[str, Any]) -> None:
    """It goes into headers and logs, where a customer's words have no place."""
    with pytest.raises(PoisonError) as caught:
        decode(Ticket, msgspec.json.encode(document))
    assert "Canary" not in caught.value.reason
    assert "hunter2" not in caught.value.reason


def test_the_reason_names_the_field() -> None:
    """Whoever publishes learns where to look."""
    document = {"ticket_id": "t1", "body": "x", "thread": [{"author": "someone", "body": "x"}]}
    with pytest.raises(PoisonError, match=r"enum value - at `\$\.thread\[0\]\.author`"):
        decode(Ticket, msgspec.json.encode(document))


def test_a_moment_without_a_time_zone_is_refused_and_any_zone_is_kept() -> None:
    """A local time says nothing to the next process."""
    with pytest.raises(PoisonError, match="timezone"):
        decode(Feedback, b'{"ticket_id": "t1", "at": "2026-11-24T12:00:00"}')
    feedback = decode(Feedback, b'{"ticket_id": "t1", "at": "2026-11-24T13:00:00+01:00"}')
    assert feedback.at == datetime(2026, 11, 24, 12, tzinfo=UTC)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MOMENT = st.none() | st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1), timezones=st.just(UTC))
TICKETS = st.builds(
    Ticket,
    ticket_id=TEXT.filter(bool).map(TicketId),
    body=TEXT.filter(bool),
    subject=TEXT,
    tenant=TEXT,
    created_at=MOMENT,
    deadline=MOMENT,
    thread=st.lists(st.builds(Message, author=st.sampled_from(["customer", "agent"]), body=TEXT), max_size=3).map(
        tuple
    ),
    context=st.lists(TEXT, max_size=3).map(tuple),
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
)


@given(TICKETS)
def test_a_ticket_survives_its_journey(ticket: Ticket) -> None:
    """What is encoded is what is decoded, whatever the texts hold."""
    assert decode(Ticket, encode(ticket)) == ticket


@given(st.binary(max_size=200))
def test_any_bytes_are_a_ticket_or_poison(data: bytes) -> None:
    """No third thing happens, whatever a producer writes."""
    try:
        decode(Ticket, data)
    except PoisonError as exc:
        kept = exc.data
    else:
        kept = data
    assert kept is data
