"""Dead letters as values: what a record of their topic says, which are meant, and what a requeue sends."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from streams import letters
from streams.letters import Contents, DeadLettersError, Filters, Letter, LetterId, Marker, contents_of
from streams.runtime.headers import REQUEUE_OF, Replay, dead_letter_headers, replay_headers
from streams.runtime.stage import DeadLetter, Headers, Origin

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
ID = LetterId(1, 5)
OWN: tuple[tuple[str, Any], ...] = (("own", b"\x00\xff"), ("own", b"2"), ("none", None), ("traceparent", b"00-x"))
PARTITIONS = {"p-tickets": 2, "p-tier1": 2}


def a_record(headers: Headers, key: bytes | None = b"k", value: bytes | None = b"body") -> ConsumerRecord[Any, Any]:
    written_ms = int(NOW.timestamp() * 1000)
    return ConsumerRecord("p-dead-letters", ID.partition, ID.offset, written_ms, 0, key, value, None, 0, 0, headers)


def died(own: Headers = OWN, origin: str = "p-tickets/1/9", at_s: float = NOW.timestamp()) -> Headers:
    topic, partition, offset = origin.rsplit("/", 2)
    letter = DeadLetter("PoisonError: not a Ticket", "PoisonError")
    return dead_letter_headers("router", Origin(topic, int(partition), int(offset)), letter, 3, at_s, own)


def a_letter(headers: Headers | None = None, id_: LetterId = ID) -> Letter:
    letter = letters.parsed(a_record(died() if headers is None else headers))
    assert isinstance(letter, Letter)
    return replace(letter, id=id_)


def test_a_dead_letter_says_what_the_runtime_wrote_into_it() -> None:
    """What came with the record and what was added to it are told apart by the headers that the runtime writes."""
    letter = a_letter()
    assert letter.own_headers == OWN
    assert (letter.added("stage"), letter.added("reason"), letter.attempts) == (
        "router",
        "PoisonError: not a Ticket",
        3,
    )
    assert (letter.origin, letter.at, letter.size_bytes) == (Origin("p-tickets", 1, 9), NOW, 4)


def test_a_record_can_not_choose_where_it_is_sent() -> None:
    """Headers of our names that a record brought along count for nothing, before or after its death."""
    forged = (
        ("headgate-origin", b"p-answers/0/0"),
        ("headgate-cut-from-bytes", b"9"),
        ("headgate-requeued", b"1/4"),
        ("headgate-reason", b"forged"),
        ("own", b"1"),
    )
    letter = a_letter(died(forged))
    assert letter.origin == Origin("p-tickets", 1, 9)
    assert letter.added("reason") == "PoisonError: not a Ticket"
    assert letters.obstacle(letter, PARTITIONS) == ""
    record, _ = letters.messages(letter, b"body", NOW)
    assert record.headers == (("own", b"1"), (REQUEUE_OF, b"1/5"))


def test_a_requeue_sends_the_record_as_it_came_and_a_marker() -> None:
    """Key, bytes, headers and partition are the record's; the marker names the dead letter, beside it."""
    record, marker = letters.messages(a_letter(), b"\xffbody", NOW)
    assert (record.topic, record.partition, record.key, record.value) == ("p-tickets", 1, b"k", b"\xffbody")
    assert record.headers == (*OWN, (REQUEUE_OF, b"1/5"))
    assert (marker.topic, marker.partition) == (None, ID.partition)
    assert letters.parsed(a_record(marker.headers, marker.key, marker.value)) == Marker(ID, NOW)


def test_a_requeue_of_a_backfills_ticket_goes_on_as_its_backfill() -> None:
    """Else its answer would go where the backfill's do not."""
    replay = replay_headers(Replay("b-1", "p-tickets/0/1", "mine"))
    record, _ = letters.messages(a_letter(died((*OWN, *replay), "p-tier2.backfill/1/9")), b"body", NOW)
    assert record.headers == (*OWN, *replay, (REQUEUE_OF, b"1/5"))


@pytest.mark.parametrize(("key", "value"), [(b"", None), (b"k", None), (None, b"v")])
def test_a_record_without_key_or_value_can_be_sent_again(key: bytes | None, value: bytes | None) -> None:
    """A tombstone's dead letter is no marker, and neither message lacks both."""
    letter = letters.parsed(a_record(died(), key, value))
    assert isinstance(letter, Letter)
    record, marker = letters.messages(letter, value, NOW)
    assert (record.key, record.value) == (key, value)
    assert marker.key is not None


def test_what_died_again_leaves_its_first_life_behind() -> None:
    """The second requeue names the second dead letter, and only that."""
    first, _ = letters.messages(a_letter(id_=LetterId(0, 1)), b"body", NOW)
    second, _ = letters.messages(a_letter(died(first.headers)), b"body", NOW)
    assert second.headers == (*OWN, (REQUEUE_OF, b"1/5"))


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ((*died(), ("headgate-cut-from-bytes", b"99")), "of 99 bytes only the first 4"),
        (died(origin="p-tickets/2/0"), "p-tickets/2, which isn't there"),
        (died(origin="q-tickets/0/0"), "q-tickets/0, which isn't there"),
        (OWN, "doesn't say where it came from"),
        ((*died()[:-2], ("headgate-origin", b"tickets/x/1")), "doesn't say where it came from"),
    ],
    ids=["cut", "no such partition", "no such topic", "none of ours", "unreadable"],
)
def test_what_can_not_go_back_is_refused_with_the_reason(headers: Headers, why: str) -> None:
    """A dead letter that would arrive changed, or nowhere, stays where it is."""
    plan = letters.plan(contents_of([a_letter(headers)]), [ID], PARTITIONS)
    assert plan.letters == ()
    assert why in plan.refused[ID]


def test_an_unknown_id_stops_the_requeue() -> None:
    """Nothing is sent for a list that holds a mistake."""
    with pytest.raises(DeadLettersError, match="no dead letter 1/6"):
        letters.plan(contents_of([a_letter()]), [ID, LetterId(1, 6)], PARTITIONS)


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)), st.data())
def test_nothing_that_a_marker_names_is_sent(there: set[int], marked: set[int], data: st.DataObject) -> None:
    """However letters and markers lie among each other: what is chosen is sent once, or was, and never both."""
    all_letters = [a_letter(id_=LetterId(0, n)) for n in there]
    markers = [Marker(LetterId(0, n), NOW) for n in marked]
    chosen = data.draw(st.lists(st.sampled_from(sorted(there)))) if there else []
    contents = contents_of(data.draw(st.permutations([*all_letters, *markers])))
    plan = letters.plan(contents, [LetterId(0, n) for n in chosen], PARTITIONS)
    assert [x.id.offset for x in plan.letters] == sorted(set(chosen) - marked)
    assert [x.offset for x in plan.requeued] == sorted(set(chosen) & marked)
    assert {x.id.offset for x in contents.chosen(Filters())} == there - marked
    assert {x.id.offset for x in contents.chosen(Filters(), requeued=True)} == there


def test_filters_take_what_matches_all_of_them() -> None:
    """Stage is exact, reason a part in any case, since a point in time."""
    letter = a_letter()
    assert Filters().take(letter)
    assert Filters("router", "poison", NOW).take(letter)
    assert not Filters("tier1").take(letter)
    assert not Filters(reason="timeout").take(letter)
    assert not Filters(since=NOW + timedelta(seconds=1)).take(letter)


def test_dead_letters_come_oldest_first() -> None:
    """By when they were given up, whatever their partition."""
    old = a_letter(died(at_s=NOW.timestamp() - 60), LetterId(1, 0))
    contents = contents_of([a_letter(id_=LetterId(0, 3)), old])
    assert [x.id for x in contents.chosen(Filters())] == [LetterId(1, 0), LetterId(0, 3)]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("9999999999d", datetime.min.replace(tzinfo=UTC)),
        ("2026-10-31", datetime(2026, 10, 31, tzinfo=UTC)),
        ("2026-10-31T10:00:00+02:00", datetime(2026, 10, 31, 8, tzinfo=UTC)),
    ],
)
def test_since_is_an_age_or_a_time(text: str, at: datetime) -> None:
    """A time without a zone is in UTC, as headers are; an age beyond the calendar means all."""
    assert letters.parse_since(text, NOW) == at


@pytest.mark.parametrize("text", ["", "h", "-2h", "2w", "yesterday", "2h\x1b[2J"])
def test_since_that_is_neither_is_refused(text: str) -> None:
    """The message repeats it without what could steer a terminal."""
    with pytest.raises(DeadLettersError) as caught:
        letters.parse_since(text, NOW)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "5", "1/", "1/2/3", "tickets/1/2", "-1/2", "1/٣", "1/2\n"])
def test_an_id_is_a_partition_and_an_offset(text: str) -> None:
    """What `list` prints can be read again, nothing else can."""
    assert letters.parse_id(str(ID)) == ID
    with pytest.raises(DeadLettersError, match="PARTITION/OFFSET"):
        letters.parse_id(text)


@given(st.binary(max_size=200))
def test_nothing_that_is_shown_can_steer_a_terminal(hostile: bytes) -> None:
    """Keys, reasons and bodies are whatever somebody published."""
    headers = tuple((name, hostile if name.startswith("headgate-") else value) for name, value in died())
    letter = replace(a_letter(headers), key=hostile)
    for value in letters.summary(letter, Contents({}, {})).values():
        assert str(value).isprintable()
    for text in letters.preview(hostile).split("\n"):
        assert text.isprintable()


def test_a_preview_lays_json_out_without_changing_it() -> None:
    """Numbers beyond a float and repeated names are what an operator may be looking for."""
    assert letters.preview(b'{"n":1e400,"n":12345678901234567890}') == (
        '{\n  "n": 1e400,\n  "n": 12345678901234567890\n}'
    )
    assert letters.preview(b'{"ticket_id": "x"') == '{"ticket_id": "x"'
    assert letters.preview(b"[" * 100_000).startswith("[[[")
    assert "95904 bytes more" in letters.preview(b"[" * 100_000)
    assert "tombstone" in letters.preview(None)
