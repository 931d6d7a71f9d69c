"""Whose record is it, and until when does Kafka keep it? What `headgate forget` decides; nothing here meets Kafka.

A record is the customer's if it carries the customer's id, or names a ticket of a record that does. Labels, feedback
and events carry none, so the others are read first.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from schemas.codec import PoisonError, decode
from schemas.tickets import TicketKey
from schemas.topics import (
    ANSWERS,
    AUDITS,
    BACKFILL,
    DEAD_LETTERS,
    DRAFTS,
    EVENTS,
    FEEDBACK,
    HANDOFFS,
    LABELS,
    RETRY,
    SCOREBOARD_AUDITS,
    SCOREBOARD_JOURNEYS,
    SCOREBOARD_LABELS,
    SEEN,
    TICKETS,
    TIER1,
    TIER2,
    Topic,
)
from streams.read import Received
from streams.scoreboard.board import AuditOf, DraftOf
from workers.learning.provenance import ticket_digest

BY_CUSTOMER = (TICKETS, TIER1, TIER2, DRAFTS, ANSWERS, HANDOFFS, AUDITS, DEAD_LETTERS)
"""Their records say whose they are. Of dead letters those that can be read at all."""
BY_TICKET = (EVENTS, FEEDBACK, LABELS, SEEN, SCOREBOARD_JOURNEYS, SCOREBOARD_LABELS, SCOREBOARD_AUDITS)
"""Their records name a ticket. `spend`, its snapshots, `batches` and the scoreboard's cells name none."""

RETENTION, SEGMENT, CLEANUP, MAX_LAG = "retention.ms", "segment.ms", "cleanup.policy", "max.compaction.lag.ms"
KEYS = (RETENTION, SEGMENT, CLEANUP, MAX_LAG)

FOR_EVER_S = 1000 * 365 * 86_400.0
"""What is kept for longer is kept for ever: some clusters say so by the largest number, 2**63 - 1 milliseconds."""


class _Named(Struct):
    """A ticket, or what names one."""

    ticket_id: str
    tenant: str = "default"
    customer_id: str = ""


class _Carrier(Struct):
    """What carries a ticket."""

    ticket: _Named


class _Draft(Struct):
    routed: _Carrier


_CARRIERS = {topic.name for topic in (TIER1, TIER2, HANDOFFS, AUDITS)}


class _Step(Struct):
    event: _Named


class _Journey(Struct):
    steps: tuple[_Step, ...]


@dataclass(slots=True)
class Held:
    """What a topic holds of the customer."""

    records: int = 0
    oldest_s: float = 0.0
    newest_s: float = 0.0
    """Seconds since the epoch."""

    def add(self, written_s: float) -> None:
        self.oldest_s = min(self.oldest_s, written_s) if self.records else written_s
        self.newest_s = max(self.newest_s, written_s)
        self.records += 1


@dataclass(slots=True)
class Found:
    """A customer's records, as they come from the topics: first those of BY_CUSTOMER."""

    tenant: str
    customer_id: str
    tickets: set[str] = field(default_factory=set)
    """Digests of the customer's tickets; those of an earlier run first."""
    held: dict[str, Held] = field(default_factory=dict)
    """By the topic's name, without its prefix."""
    keys: dict[tuple[str, int, bytes], None] = field(default_factory=dict)
    """Topic, partition and key of what is in force on compacted topics."""
    unreadable: int = 0
    """Dead letters of which nobody can tell whose they are."""

    def take(self, received: Received) -> None:
        """One record of BY_CUSTOMER or BY_TICKET, in its partition's order."""
        topic = received.topic.name
        place = (topic, received.partition, received.key or b"")
        if received.raw is None:
            # A tombstone, or a dead letter's marker.
            self.keys.pop(place, None)
            return
        try:
            ticket = self._ticket_of(topic, received.key or b"", received.raw)
        except (PoisonError, UnicodeDecodeError):
            self.unreadable += topic == DEAD_LETTERS.name
            return
        if ticket is not None and ticket_digest(ticket) in self.tickets:
            self.held.setdefault(topic, Held()).add(received.written_s)
            if "compact" in received.topic.cleanup:
                self.keys[place] = None

    def _ticket_of(self, topic: str, key: bytes, raw: bytes) -> TicketKey | None:
        """The ticket that a record is about; of those that say whose they are, the customer's alone."""
        if topic.startswith(SEEN.name):
            tenant, _, ticket_id = key.decode().partition("\0")
            return tenant, ticket_id
        if topic == SCOREBOARD_JOURNEYS.name:
            steps = decode(_Journey, raw).steps
            mine = (s.event for s in steps if ticket_digest((s.event.tenant, s.event.ticket_id)) in self.tickets)
            event = next(mine, None)
            return (event.tenant, event.ticket_id) if event else None
        if topic == SCOREBOARD_LABELS.name:
            draft = decode(DraftOf, key)
            return draft.tenant, draft.ticket_id
        if topic == SCOREBOARD_AUDITS.name:
            audit = decode(AuditOf, key)
            return audit.tenant, audit.ticket_id
        return self._named(_ticket_in(topic, raw))

    def _named(self, ticket: _Named) -> TicketKey:
        key = ticket.tenant, ticket.ticket_id
        if (ticket.tenant, ticket.customer_id) == (self.tenant, self.customer_id):
            self.tickets.add(ticket_digest(key))
        return key


def _ticket_in(topic: str, raw: bytes) -> _Named:
    base = topic.removesuffix(BACKFILL).removesuffix(RETRY)
    if base == DRAFTS.name:
        return decode(_Draft, raw).routed.ticket
    if base in _CARRIERS:
        return decode(_Carrier, raw).ticket
    if base == DEAD_LETTERS.name:
        # From any stage's input.
        with suppress(PoisonError):
            return decode(_Draft, raw).routed.ticket
        with suppress(PoisonError):
            return decode(_Carrier, raw).ticket
    return decode(_Named, raw)


@dataclass(frozen=True, slots=True)
class Remains:
    """A line of the report: what is left of the customer in a place, and until when."""

    place: str
    records: int
    oldest: datetime | None
    gone_by: datetime | None
    """By then at the latest; None: nobody can say."""
    said: str


def remains(topic: str, held: Held, config: Mapping[str, str], tombstones: int, now: datetime) -> Remains:
    """What becomes of a topic's records, by the settings that the cluster has for it. `tombstones` are written now."""
    oldest = _moment(held.oldest_s)
    retention_ms = int(config[RETENTION])
    deleted = "delete" in config[CLEANUP] and retention_ms >= 0
    # Kafka deletes whole segments, by their newest record; the one that is written to is closed after segment.ms.
    kept_s = (retention_ms + int(config[SEGMENT])) / 1000
    gone_by = _moment(held.newest_s + kept_s) if deleted and kept_s < FOR_EVER_S else None
    if not tombstones and "compact" not in config[CLEANUP]:
        return Remains(topic, held.records, oldest, gone_by, "stays until then" if gone_by else "stays")
    if gone_by is None and (lag_ms := int(config[MAX_LAG])) / 1000 < FOR_EVER_S:
        gone_by = now + timedelta(milliseconds=lag_ms)
    when = "when Kafka compacts, or by then" if gone_by else "when Kafka compacts: max.compaction.lag.ms sets no limit"
    said = f"{tombstones} tombstones" if tombstones else "had tombstones before"
    return Remains(topic, held.records, oldest, gone_by, f"{said}; gone {when}")


def all_of(topics: tuple[Topic, ...]) -> list[Topic]:
    """With their twins, each read as bytes."""
    return [replace(topic, name=topic.name + twin, value=None) for topic in topics for twin in ("", *topic.twins)]


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
