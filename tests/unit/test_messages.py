"""From a settled record to its messages: outputs and event, a dead letter and its event, or the record parked."""

from typing import Any

import msgspec
from aiokafka.structs import ConsumerRecord

from schemas.events import Event
from schemas.seen import Seen
from schemas.topics import ANSWERS, BACKFILL, DEAD_LETTERS, DRAFTS, EVENTS, RETRY, SEEN, TICKETS, Topic
from streams.runtime.headers import Parked, Replay, read_parked, read_replay, replay_headers
from streams.runtime.messages import Message, Settled, finished, messages_for
from streams.runtime.stage import DeadLetter, Done, Headers, Origin, Output
from tests.records import AT, a_ticket

ORIGIN = Origin("tickets", 0, 7)
HEADERS = (("own", b"\x00"),)
PARKED = Parked(ORIGIN, written_s=1.0, attempts=2, first_failed_s=1.5, due_s=40.0)


def source(
    key: bytes | None = b"t1", value: bytes | None = b"{}", headers: Headers = HEADERS
) -> ConsumerRecord[Any, Any]:
    return ConsumerRecord("tickets", 0, 7, 1000, 0, key, value, None, 0, 0, headers)


def done(body: str = "x", topic: Topic = ANSWERS) -> Done:
    event = Event(event_id="e", at=AT, stage="router", outcome="answered", ticket_id=a_ticket().ticket_id)
    return Done((Output(topic, "t1", a_ticket(body)),), event)


def messages(
    result: Done | DeadLetter | Parked,
    of: ConsumerRecord[Any, Any],
    mark: str | None = None,
    origin: Origin = ORIGIN,
) -> list[Message]:
    return list(messages_for("router", TICKETS, Settled(origin, result, 1, mark), of, 2.0))


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
    settled = Settled(ORIGIN, done(), 1)
    assert finished("router", TICKETS, settled, source(), 2.0) == (settled, messages(done(), source()))


def test_an_output_too_large_for_its_topic_makes_a_dead_letter_of_its_record() -> None:
    """The result says so too, so that it is counted and logged as one; its ticket is not remembered as taken in."""
    settled, sent = finished("router", TICKETS, Settled(ORIGIN, done("x" * (4 << 20)), 2, "t1"), source(), 2.0)
    assert isinstance(settled.result, DeadLetter)
    assert (settled.attempts, settled.mark) == (2, None)
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


def test_a_ticket_is_remembered_beside_it_and_not_by_its_key() -> None:
    """In the partition that it came in: whoever owns that one owns the memory of it."""
    mark, *_ = messages(done(), source(), mark="acme\0t1")
    assert (mark.topic, mark.twin, mark.key, mark.partition) == (SEEN, "", b"acme\0t1", 0)
    told = msgspec.json.decode(mark.value or b"", type=Seen)
    assert (told.at.timestamp(), told.origin) == (1.0, "tickets/0/7")


def test_a_parked_record_goes_to_the_retry_twin_as_it_came() -> None:
    """Key, bytes and headers, then its life so far; it has no outputs and no event yet."""
    (parked,) = messages(PARKED, source())
    assert (parked.topic_name, parked.key, parked.value, parked.partition) == ("tickets" + RETRY, b"t1", b"{}", None)
    assert parked.headers[:1] == HEADERS
    assert read_parked(parked.headers) == PARKED


def test_the_largest_ticket_can_be_parked() -> None:
    """Its topic's twin takes its life so far beside it."""
    whole = source(value=b"x" * (TICKETS.max_message_bytes - 100))
    settled, (parked,) = finished("router", TICKETS, Settled(ORIGIN, PARKED, 2), whole, 2.0)
    assert (settled.result, parked.topic_name, parked.value) == (PARKED, "tickets" + RETRY, whole.value)


def test_a_record_too_large_to_be_parked_is_buried() -> None:
    """One that came in compressed, larger than its topic takes, must not stop its partition."""
    whole = source(value=b"x" * (2 * TICKETS.max_message_bytes))
    settled, sent = finished("router", TICKETS, Settled(ORIGIN, PARKED, 2), whole, 2.0)
    assert isinstance(settled.result, DeadLetter)
    assert "tickets.retry" in settled.result.reason
    assert (sent[0].topic, sent[0].value) == (DEAD_LETTERS, whole.value)


def test_a_parked_record_that_is_done_leaves_its_parking_headers_behind() -> None:
    """Its dead letter has the headers that it came with, so that a requeue starts its life anew."""
    (parked,) = messages(PARKED, source())
    again = ConsumerRecord("tickets.retry", 1, 3, 9000, 0, b"t1", b"{}", None, 0, 0, parked.headers)
    letter, _ = messages(DeadLetter("r"), again)
    assert letter.headers[0] == HEADERS[0]
    assert read_parked(letter.headers) is None


def test_what_comes_by_the_slow_lane_stays_on_it() -> None:
    """As far as topics have one: answers are answers. The memory of the slow lane stands beside it, too."""
    origin = Origin("tickets" + BACKFILL, 0, 7)
    names = [m.topic_name for m in messages(done(topic=DRAFTS), source(), "t1", origin)]
    assert names == ["seen" + BACKFILL, "drafts" + BACKFILL, "events"]
    assert [m.topic_name for m in messages(done(), source(), origin=origin)] == ["answers", "events"]


def test_a_backfills_headers_go_on_with_all_that_is_made_of_its_ticket() -> None:
    """And its event has the id. On the live lane the same headers are a helpdesk's own, and go nowhere."""
    replay, slow = Replay("b-1", "tickets/0/3", "mine"), Origin("drafts" + BACKFILL, 0, 7)
    of = source(headers=replay_headers(replay))
    answer, event = messages(done(), of, origin=slow)
    assert (answer.topic_name, answer.topic.max_message_bytes) == ("mine", ANSWERS.max_message_bytes)
    assert event.topic is EVENTS
    assert read_replay(answer.headers) == read_replay(event.headers) == replay
    assert msgspec.json.decode(event.value or b"", type=Event).replay_id == "b-1"
    draft, _ = messages(done(topic=DRAFTS), of, origin=slow)
    assert (draft.topic_name, read_replay(draft.headers)) == ("drafts" + BACKFILL, replay)
    letter, event = messages(DeadLetter("r"), of, origin=slow)
    assert read_replay(letter.headers) == read_replay(event.headers) == replay
    assert [(m.topic_name, read_replay(m.headers)) for m in messages(done(), of)] == [
        ("answers", None),
        ("events", None),
    ]
