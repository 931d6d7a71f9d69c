"""The board comes to the same figures whatever a crash leaves of its changelogs, and wherever it reads on."""

from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.events import Event
from schemas.labels import Label
from schemas.tickets import TicketId
from streams.scoreboard.board import KEPT_S, NOTED_EVERY, Board, Tables
from streams.scoreboard.tally import CellKey, merge
from tests.scoreboard import count

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_S = NOW.timestamp()


class Logged(MutableMapping[Any, Any]):
    """A table and its changelog."""

    def __init__(self, log: list[tuple[Any, Any]]) -> None:
        self.log: list[tuple[Any, Any]] = []
        self._rows: dict[Any, Any] = {}
        for key, value in log:
            if value is None:
                del self[key]
            else:
                self[key] = value

    def __getitem__(self, key: Any) -> Any:
        return self._rows[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._rows[key] = value
        self.log.append((key, value))

    def __delitem__(self, key: Any) -> None:
        del self._rows[key]
        self.log.append((key, None))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def fresh() -> Tables:
    return Tables(Logged([]), Logged([]), Logged([]), Logged([]))


def after_crash(tables: Tables, cuts: tuple[float, float, float]) -> Tables:
    """The tables as changelogs have them of which a crash left these shares."""
    logs = [table.log for table in (tables.cells, tables.journeys, tables.labels)]  # type: ignore[attr-defined]
    return Tables(*(Logged(log[: round(cut * len(log))]) for log, cut in zip(logs, cuts, strict=True)), Logged([]))


def event(number: int, ticket: int, minutes_ago: float = 10.0, outcome: str = "answered") -> Event:
    return Event(
        event_id=f"e{number}",
        at=NOW - timedelta(minutes=minutes_ago),
        stage="checker",
        outcome=outcome,  # type: ignore[arg-type]
        ticket_id=TicketId(f"t{ticket}"),
        category=("billing", "plans")[number % 2],
        tier=("tier1", "tier2")[number % 3 > 0],
        cost_usd=0.1 * number,
        age_s=0.3 * number,
        reasons=("low_score",),
    )


def label(number: int, acceptable: bool = True, seconds: float = 0.0) -> bytes:
    return encode(
        Label(
            ticket_id=TicketId(f"t{number}"),
            category="billing",
            acceptable=acceptable,
            source="judge",
            propensity=0.5,
            at=NOW + timedelta(seconds=seconds),
        )
    )


def board(tables: Tables, tickets: int = 100, labels: int = 100) -> Board:
    return Board(tables, tickets, labels)


def counted(of: Board) -> dict[CellKey, Any]:
    cells: dict[CellKey, list[Any]] = {}
    for key, cell in of.cells():
        cells.setdefault(key, []).append(cell)
    return {key: merge(of_key) for key, of_key in cells.items()}


# The same id is the same ticket and event.
streams = st.lists(st.integers(0, 30), max_size=60).map(
    lambda numbers: [encode(event(n, n % 7, minutes_ago=float(n % 4 * 5))) if n else b"none of ours" for n in numbers]
)
shares = st.floats(0, 1)


@given(streams, st.lists(st.tuples(shares, shares, shares, shares), max_size=3))
def test_a_crash_anywhere_changes_no_figure(
    stream: list[bytes], crashes: list[tuple[float, float, float, float]]
) -> None:
    """Each changelog keeps another part of what was written; the figures are those of a count over the topic."""
    tables = fresh()
    for until, *cuts in crashes:
        life = board(tables)
        for offset in range(life.next_offset("events", 0), round(until * len(stream))):
            life.take("events", 0, offset, stream[offset], NOW_S)
        tables = after_crash(tables, tuple(cuts))  # type: ignore[arg-type]
    last = board(tables)
    for offset in range(last.next_offset("events", 0), len(stream)):
        last.take("events", 0, offset, stream[offset], NOW_S)
    known = [msgspec.json.decode(raw, type=Event) for raw in stream if raw != b"none of ours"]
    assert counted(last) == count(known)
    assert last.left_out() == (stream.count(b"none of ours"), len(known) - len({e.event_id for e in known}))


def test_the_committed_offset_decides_nothing() -> None:
    """A record that is read twice, even out of a stretch that was counted long ago, counts once."""
    life = board(fresh())
    stream = [encode(event(n, n)) for n in range(20)]
    for offset in [*range(20), *range(5, 20)]:
        life.take("events", 0, offset, stream[offset], NOW_S)
    assert counted(life) == count([event(n, n) for n in range(20)])
    assert life.left_out() == (0, 0)


def test_partitions_are_counted_apart_and_shown_together() -> None:
    life = board(fresh())
    for partition in (0, 1):
        life.take("events", partition, 7, encode(event(partition, partition)), NOW_S)
    assert (life.next_offset("events", 0), life.next_offset("events", 1), life.next_offset("events", 2)) == (8, 8, 0)
    assert counted(life) == count([event(0, 0), event(1, 1)])


def test_windows_that_no_span_shows_are_removed() -> None:
    """And the place from which a start would go on stays known."""
    tables = fresh()
    life = board(tables)
    life.take("events", 0, 0, encode(event(0, 0)), NOW_S)
    later_s = NOW_S + KEPT_S
    recent = event(1, 1, minutes_ago=-KEPT_S / 60)
    life.take("events", 0, 1, encode(recent), later_s)
    assert counted(life) == count([recent])
    old = event(2, 2)
    life.take("events", 0, 2, encode(old), later_s)
    assert counted(life) == count([recent])
    assert board(after_crash(tables, (1, 1, 1))).next_offset("events", 0) == 2


def test_a_long_stretch_of_old_events_is_not_read_again_from_its_start() -> None:
    tables = fresh()
    life = board(tables)
    for offset in range(2 * NOTED_EVERY):
        life.take("events", 0, offset, encode(event(offset, offset, minutes_ago=KEPT_S)), NOW_S)
    assert not life.cells()
    assert board(tables).next_offset("events", 0) > NOTED_EVERY


def test_only_the_latest_tickets_are_remembered() -> None:
    tables = fresh()
    life = board(tables, tickets=2)
    for offset, ticket in enumerate((1, 2, 1, 3)):
        life.take("events", 0, offset, encode(event(offset, ticket)), NOW_S)
    assert [len(life.journey(f"t{ticket}", [0])) for ticket in (1, 2, 3)] == [2, 0, 1]
    assert len(tables.journeys) == 2
    again = board(tables, tickets=2)
    again.take("events", 0, 4, encode(event(4, 4)), NOW_S)
    assert [len(again.journey(f"t{ticket}", [0])) for ticket in (1, 3, 4)] == [0, 1, 1]


def test_of_a_drafts_labels_the_latest_is_in_force() -> None:
    """Read again they change nothing; what is none of ours is passed over."""
    tables = fresh()
    life = board(tables)
    stream = [label(1, True), label(1, False, seconds=2), label(1, True, seconds=1), b"no label", label(2)]
    for _ in range(2):
        for offset, raw in enumerate(stream):
            life.take("labels", 0, offset, raw, NOW_S)
    assert sorted((found.offset, found.acceptable) for found in life.labels()) == [(1, False), (4, True)]
    assert life.next_offset("labels", 0) == 5


def audit(number: int, tenant: str = "default") -> bytes:
    """An audit as far as the board reads it, and a text that it must not keep."""
    ticket = {"ticket_id": f"t{number}", "tenant": tenant, "body": "secret words"}
    return msgspec.json.encode({"ticket": ticket, "at": NOW - timedelta(minutes=number)})


def test_an_audit_waits_until_its_draft_is_judged() -> None:
    """Whichever of the two is read first; texts are not kept."""
    tables = fresh()
    life = board(tables, labels=3)
    life.take("labels", 0, 0, label(2), NOW_S)
    for offset, raw in enumerate([audit(1), audit(2), b"no audit", audit(1, "acme")]):
        life.take("audits", 0, offset, raw, NOW_S)
    assert life.audits_waiting() == [NOW - timedelta(minutes=1)] * 2
    life.take("labels", 0, 1, label(1), NOW_S)
    assert len(life.audits_waiting()) == 1
    assert (life.next_offset("audits", 0), life.next_offset("audits.backfill", 0)) == (4, 0)
    assert "secret" not in repr(dict(tables.audits))
    for number in (5, 6, 7):
        life.take("audits", 0, number, audit(number), NOW_S)
    assert len(tables.audits) == 3
