"""From a finished record to its messages: outputs and event, or a dead letter and its event, whatever their size."""

from typing import Any

import msgspec
from aiokafka.structs import ConsumerRecord

from schemas.events import Event
from schemas.topics import ANSWERS, DEAD_LETTERS, EVENTS
from streams.runtime.attempt import Attempted
from streams.runtime.messages import Message, finished, messages_for
from streams.runtime.stage import DeadLetter, Done, Origin, Output
from tests.records import AT, a_ticket

ORIGIN = Origin("tickets", 0, 7)
HEADERS = (("own", b"\x00"),)


def source(key: bytes | None = b"t1", value: bytes | None = b"{}") -> ConsumerRecord[Any, Any]:
    return ConsumerRecord("tickets", 0, 7, 1000, 0, key, value, None, 0, 0, HEADERS)


def done(body: str = "x") -> Done:
    event = Event(event_id="e", at=AT, stage="router", outcome="answered", ticket_id=a_ticket().ticket_id)
    return Done((Output(ANSWERS, "t1", a_ticket(body)),), event)


def messages(result: Done | DeadLetter, of: ConsumerRecord[Any, Any]) -> list[Message]:
    return list(messages_for("router", Attempted(ORIGIN, result, 1), of, 2.0))


def test_a_done_record_is_its_outputs_and_its_event() -> None:
    """Each under the ticket's key, with an id of its own."""
    output, event = messages(done(), source())
    assert (output.topic, output.key) == (ANSWERS, b"t1")
    assert (event.topic, event.key) == (EVENTS, b"t1")
    assert dict(output.headers)["ce_id"] != dict(event.headers)["ce_id"]


def test_a_dead_letter_is_the_record_as_it_came_and_an_event() -> None:
    """Bytes and key untouched; the event has the key for a ticket_id, which is all that is known."""
    letter, event = messages(DeadLetter("not a Ticket", "PoisonError"), source(b"\xff", b"\x00\x01"))
    assert (letter.topic, letter.key, letter.value) == (DEAD_LETTERS, b"\xff", b"\x00\x01")
    assert letter.headers[:1] == HEADERS
    told = msgspec.json.decode(event.value or b"", type=Event)
    assert (told.outcome, told.ticket_id, told.reasons, told.age_s) == (
        "dead_lettered",
        "\ufffd",
        ("PoisonError",),
        1.0,
    )


def test_a_tombstone_stays_one_and_nothing_at_all_gets_a_key() -> None:
    """The client refuses a message with neither key nor value."""
    assert messages(DeadLetter("r"), source(b"k", None))[0].value is None
    letter = messages(DeadLetter("r"), source(None, None))[0]
    assert (letter.key, letter.value) == (b"", None)
    assert messages(DeadLetter("r"), source(None, b"v"))[0].key is None


def test_outputs_that_fit_are_sent() -> None:
    """Nothing changes for them."""
    attempted = Attempted(ORIGIN, done(), 1)
    assert finished("router", attempted, source(), 2.0) == (attempted, messages(done(), source()))


def test_an_output_too_large_for_its_topic_makes_a_dead_letter_of_its_record() -> None:
    """The result says so too, so that it is counted and logged as one."""
    attempted, sent = finished("router", Attempted(ORIGIN, done("x" * (4 << 20)), 2), source(), 2.0)
    assert isinstance(attempted.result, DeadLetter)
    assert attempted.attempts == 2
    assert [m.topic for m in sent] == [DEAD_LETTERS, EVENTS]
    assert all(m.excess_bytes <= 0 for m in sent)


def test_the_largest_record_of_any_topic_is_buried_whole() -> None:
    """The dead letters' topic has room for the headers as well."""
    value = b"x" * ANSWERS.max_message_bytes
    letter = messages(DeadLetter("r" * 1000), source(value=value))[0]
    assert letter.value == value
    assert letter.excess_bytes <= 0


def test_a_record_larger_than_any_topic_is_cut_and_says_so() -> None:
    """It came compressed; what remains is as much as Kafka takes."""
    value = bytes(6 << 20)
    letter = messages(DeadLetter("r"), source(value=value))[0]
    assert letter.excess_bytes == 0
    assert dict(letter.headers)["headgate-cut-from-bytes"] == str(len(value)).encode()
