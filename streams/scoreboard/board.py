"""The scoreboard's tables, and what a record of events, labels or audits changes in them. No Kafka, no clock.

Each table is written to a changelog of its own, and a crash may cut each at another place: what was written before the
cut is there. So a value holds the offset of the latest record that it counts, and a start reads the topic again from
the lowest place that every table is known to have reached. What is read twice then changes nothing, and nothing is
passed over, whatever offset was committed.

Invariants:
- A record of a partition changes only rows of that partition; Faust writes them to the changelog's same partition.
- An event is counted in one row; that row's offset is below the event's exactly if it is not counted yet.
- The row with a partition's highest offset is never removed.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
from msgspec import Struct
from msgspec.structs import replace

from schemas.codec import PoisonError, decode
from schemas.events import Event
from schemas.labels import Label
from schemas.tickets import Moment
from schemas.topics import AUDITS, BACKFILL, EVENTS, LABELS
from streams.scoreboard.journeys import Journey, in_order, is_repeated, with_step
from streams.scoreboard.quality import Judged, in_force, judged
from streams.scoreboard.summary import SPANS_S
from streams.scoreboard.tally import WINDOW_S, Cell, CellKey, cell_of, key_of, merge

KEPT_S = max(SPANS_S.values()) + 2 * WINDOW_S
"""Windows that are older are removed: longer than the longest span that can be asked for."""

INPUTS = (EVENTS.name, LABELS.name, *(AUDITS.name + twin for twin in ("", BACKFILL)))
"""Topics without their prefix."""

NOTED_EVERY = 1_000
"""Offsets: at least so often a partition's place is written down, for stretches in which nothing is counted."""

K = TypeVar("K")
V = TypeVar("V")

log = structlog.get_logger()


class Window(Struct, frozen=True, array_like=True):
    """A cell of one partition. With `start_s` NOWHERE: what is known of the partition itself."""

    partition: int
    start_s: int
    category: str
    tier: str


class Counted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Some events of one partition as sums, with the offset of the last one."""

    offset: int = -1
    cell: Cell = Cell()
    unreadable: int = 0
    repeated: int = 0


class TicketOf(Struct, frozen=True, array_like=True):
    """A ticket id in one partition. When partitions were added, a ticket may be in two."""

    partition: int
    ticket_id: str


class DraftOf(Struct, frozen=True, array_like=True):
    """What a label is about."""

    partition: int
    tenant: str
    ticket_id: str
    tier: str


class AuditOf(Struct, frozen=True, array_like=True):
    """A ticket that was drawn for an audit. The slow lane's topic has partitions of its own."""

    topic: str
    partition: int
    tenant: str
    ticket_id: str


class Waiting(Struct, frozen=True, kw_only=True):
    """What is remembered of an audit; it waits until there is a label of tier-1's draft."""

    offset: int
    at: Moment


class _Row(Protocol):
    @property
    def offset(self) -> int: ...


class _Ticket(Struct):
    ticket_id: str
    tenant: str = "default"


class _Audit(Struct):
    """The part of an audit that is read here: no texts."""

    ticket: _Ticket
    at: Moment


NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Tables:
    """What lasts. Plain dicts will do; Faust's are written to changelogs."""

    cells: MutableMapping[Window, Counted]
    journeys: MutableMapping[TicketOf, Journey]
    labels: MutableMapping[DraftOf, Judged]
    audits: MutableMapping[AuditOf, Waiting]


class Board:
    """Reads and changes the tables; what it knows besides them is only in which order rows go."""

    def __init__(self, tables: Tables, tickets: int, labels: int) -> None:
        """At most so many tickets, labels and audits are remembered of each partition; the oldest go."""
        self._tables = tables
        self._most_tickets, self._most_labels = tickets, labels
        self.restored()

    def restored(self) -> None:
        """The tables were filled from outside."""
        self._windows: dict[int, dict[int, set[Window]]] = defaultdict(lambda: defaultdict(set))
        for window in self._tables.cells:
            if window.start_s != NOWHERE:
                self._windows[window.partition][window.start_s].add(window)
        self._tickets: dict[int, OrderedDict[TicketOf, None]] = defaultdict(OrderedDict)
        for ticket in _by_offset(self._tables.journeys):
            self._tickets[ticket.partition][ticket] = None
        self._labelled: dict[int, OrderedDict[DraftOf, None]] = defaultdict(OrderedDict)
        for draft in _by_offset(self._tables.labels):
            self._labelled[draft.partition][draft] = None
        self._audits: dict[tuple[str, int], OrderedDict[AuditOf, None]] = defaultdict(OrderedDict)
        for audit in _by_offset(self._tables.audits):
            self._audits[audit.topic, audit.partition][audit] = None

    def next_offset(self, topic: str, partition: int) -> int:
        """Where to go on reading one of INPUTS: every record before it is in all tables."""
        tables = self._tables
        match topic:
            case EVENTS.name:
                counted = (row.offset for of, row in tables.cells.items() if of.partition == partition)
                told = (row.offset for of, row in tables.journeys.items() if of.partition == partition)
                latest = min(max(counted, default=-1), max(told, default=-1))
            case LABELS.name:
                latest = max((row.offset for of, row in tables.labels.items() if of.partition == partition), default=-1)
            case _:
                place = (topic, partition)
                known = (row.offset for of, row in tables.audits.items() if (of.topic, of.partition) == place)
                latest = max(known, default=-1)
        return latest + 1

    def take(self, topic: str, partition: int, offset: int, raw: bytes | None, now_s: float) -> None:
        """Take one record of one of INPUTS; the records of a partition come in order, and some come again."""
        try:
            match topic:
                case EVENTS.name:
                    self._take_event(partition, offset, decode(Event, raw), now_s)
                case LABELS.name:
                    self._take_label(partition, offset, decode(Label, raw))
                case _:
                    self._take_audit(topic, partition, offset, decode(_Audit, raw))
        except PoisonError as exc:
            log.warning("record_unreadable", topic=topic, partition=partition, offset=offset, error=exc.reason)
            if topic == EVENTS.name:
                self._note(partition, offset, unreadable=1)

    def _take_event(self, partition: int, offset: int, event: Event, now_s: float) -> None:
        ticket = TicketOf(partition, event.ticket_id)
        journey = self._tables.journeys.get(ticket) or Journey()
        if is_repeated(journey, offset, event):
            self._note(partition, offset, repeated=1)
            return
        if offset > journey.offset:
            self._tables.journeys[ticket] = with_step(journey, offset, event)
            _keep_latest(self._tickets[partition], ticket, self._most_tickets, self._tables.journeys)
        oldest_s = now_s - KEPT_S
        key = key_of(event)
        if key.start_s > oldest_s:
            self._count(Window(partition, key.start_s, key.category, key.tier), offset, event)
        self._forget(partition, offset, oldest_s)

    def _take_label(self, partition: int, offset: int, label: Label) -> None:
        """Of a draft's labels the latest is in force."""
        if (found := judged(label, offset)) is None:
            return
        draft = DraftOf(partition, label.tenant, label.ticket_id, label.tier)
        before = self._tables.labels.get(draft)
        if before is None or in_force(before, found) is found:
            self._tables.labels[draft] = found
            _keep_latest(self._labelled[partition], draft, self._most_labels, self._tables.labels)

    def _take_audit(self, topic: str, partition: int, offset: int, audit: _Audit) -> None:
        key = AuditOf(topic, partition, audit.ticket.tenant, audit.ticket.ticket_id)
        self._tables.audits[key] = Waiting(offset=offset, at=audit.at)
        _keep_latest(self._audits[topic, partition], key, self._most_labels, self._tables.audits)

    def _count(self, window: Window, offset: int, event: Event) -> None:
        before = self._tables.cells.get(window) or Counted()
        if offset > before.offset:
            cell = merge((before.cell, cell_of(event)))
            self._tables.cells[window] = replace(before, offset=offset, cell=cell)
            self._windows[window.partition][window.start_s].add(window)

    def _note(self, partition: int, offset: int, unreadable: int = 0, repeated: int = 0) -> None:
        """Write down how far the partition was read, and what was left out at this offset."""
        place = Window(partition, NOWHERE, "", "")
        before = self._tables.cells.get(place) or Counted()
        if offset > before.offset:
            self._tables.cells[place] = replace(
                before,
                offset=offset,
                unreadable=before.unreadable + unreadable,
                repeated=before.repeated + repeated,
            )

    def _forget(self, partition: int, offset: int, oldest_s: float) -> None:
        """Remove what no span shows any more."""
        windows = self._windows[partition]
        over = [start_s for start_s in windows if start_s <= oldest_s]
        noted = self._tables.cells.get(Window(partition, NOWHERE, "", ""))
        if over or offset - (noted.offset if noted else -1) >= NOTED_EVERY:
            # First the place, then the rows from which it would be known.
            self._note(partition, offset)
        for start_s in over:
            for window in windows.pop(start_s):
                del self._tables.cells[window]

    # -- what is shown ------------------------------------------------------------------------------------------

    def cells(self) -> list[tuple[CellKey, Cell]]:
        """A key comes once a partition."""
        return [
            (CellKey(window.start_s, window.category, window.tier), row.cell)
            for window, row in self._tables.cells.items()
            if window.start_s != NOWHERE
        ]

    def labels(self) -> list[Judged]:
        """The labels in force."""
        latest: dict[tuple[str, str, str], Judged] = {}
        for draft, label in self._tables.labels.items():
            key = (draft.tenant, draft.ticket_id, draft.tier)
            latest[key] = in_force(latest.get(key), label)
        return list(latest.values())

    def audits_waiting(self) -> list[Moment]:
        """When the tickets ended whose audits nobody has judged, earliest first."""
        judged_tickets = {(d.tenant, d.ticket_id) for d in self._tables.labels if d.tier == "tier1"}
        waiting = (w.at for a, w in self._tables.audits.items() if (a.tenant, a.ticket_id) not in judged_tickets)
        return sorted(waiting)

    def left_out(self) -> tuple[int, int]:
        """Unreadable records, and events that were there already."""
        noted = [row for window, row in self._tables.cells.items() if window.start_s == NOWHERE]
        return sum(row.unreadable for row in noted), sum(row.repeated for row in noted)

    def journey(self, ticket_id: str, partitions: Iterable[int]) -> tuple[Event, ...]:
        """A ticket's events, first to last; none of a ticket that isn't remembered."""
        found = [self._tables.journeys.get(TicketOf(partition, ticket_id)) for partition in partitions]
        events = [event for journey in found if journey for event in in_order(journey)]
        return tuple(sorted(events, key=lambda event: event.at))


def _by_offset(rows: Mapping[K, _Row]) -> list[K]:
    return sorted(rows, key=lambda key: rows[key].offset)


def _keep_latest(order: OrderedDict[K, None], key: K, most: int, rows: MutableMapping[K, V]) -> None:
    """Make `key` the latest, and remove the oldest row where there are too many."""
    order[key] = None
    order.move_to_end(key)
    while len(order) > most:
        del rows[order.popitem(last=False)[0]]
