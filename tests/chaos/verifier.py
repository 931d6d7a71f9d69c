"""What must hold when the dust has settled: a pure function from what was seen to what is wrong with it.

The log tells on itself. An output's `ce_id` (STAGE/ORIGIN/NUMBER) names the
input record that it was made of, and the event of that record bears the same
STAGE/ORIGIN: both were written in one transaction, so one without the other, or
either of them twice, comes from a transaction that should not have been read.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Literal

from schemas.events import Event, Outcome
from schemas.topics import ANSWERS, DEAD_LETTERS, DRAFTS, EVENTS, HANDOFFS, TICKETS, TIER1, TIER2

Delivery = Literal["exactly_once", "at_least_once"]

ENDS = (ANSWERS.name, HANDOFFS.name, DEAD_LETTERS.name)
INPUTS = {"router": TICKETS.name, "tier1": TIER1.name, "tier2": TIER2.name, "checker": DRAFTS.name}
"""What each stage reads."""
OUTPUT_OF: Mapping[Outcome, tuple[str, ...]] = {
    "routed": (TIER1.name, TIER2.name),
    "drafted": (DRAFTS.name,),
    "answered": (ANSWERS.name,),
    "escalated": (TIER2.name,),
    "handed_off": (HANDOFFS.name,),
    "dead_lettered": (DEAD_LETTERS.name,),
    "duplicate": (),
}
"""Where the one output of a record went whose event says so; a duplicate has none."""


class Rule(StrEnum):
    """What may be broken, as the operator reads it."""

    LOST = "tickets that were published and never ended"
    DUPLICATE = "tickets that ended more than once"
    UNKNOWN = "ends of tickets that nobody published"
    WRONG_END = "poison that was answered, or tickets that were buried as poison"
    ABORTED = "records of a transaction that was aborted, or was repeated"
    NO_EVENT = "input records that no event tells of"
    UNMATCHED_EVENT = "events whose output or whose input record is not there"
    OFFSET_BACK = "committed offsets that went back"
    OFFSET_BEHIND = "partitions with records behind the last committed offset"
    OVERPAID = "paid calls repeated beyond the bound"
    UNPAID = "tier-2 answers that nobody was asked for"


TOLERATED: Mapping[Delivery, frozenset[Rule]] = {
    "exactly_once": frozenset(),
    # A record may be worked on twice, and so be written and paid twice; nothing may be missing.
    "at_least_once": frozenset({Rule.DUPLICATE, Rule.ABORTED, Rule.OFFSET_BACK, Rule.OVERPAID}),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as a read_committed reader finds it, without what it says."""

    topic: str
    partition: int
    offset: int
    key: str
    ce_id: str = ""
    """STAGE/ORIGIN/NUMBER; empty for what a helpdesk published."""

    @property
    def origin(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def cause(self) -> str:
        """The id of the event in whose transaction this was written."""
        return self.ce_id.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Committed:
    """One look at a group's committed offset on the topic that its stage reads."""

    stage: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen of a run, once it is quiet."""

    published: Mapping[str, int]
    """How often the broker acknowledged each ticket, poison included."""
    poison: frozenset[str]
    """Which of them can't be decoded."""
    records: Sequence[Entry]
    """All topics, from their start, in the order of each partition."""
    events: Sequence[Event]
    """What the records of the events topic say."""
    offsets: Sequence[Committed]
    """In the order in which they were seen; the last ones after every worker had stopped."""
    paid_calls: int
    """As the provider counted them."""
    paid_bound: int
    """Most calls that the rounds may have caused to be made again."""
    delivery: Delivery = "exactly_once"
    deduplicated: bool = True
    """Whether a ticket that is published again is answered once; otherwise once for each time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence comes to."""

    tickets: int
    broken: Mapping[Rule, tuple[str, ...]]
    """By rule the offenders, in order; nothing under a rule that held."""
    tolerated: Mapping[Rule, tuple[str, ...]]
    """The same for what the delivery allows."""
    paid_repeats: int

    @property
    def holds(self) -> bool:
        return not self.broken

    def count(self, rule: Rule) -> int:
        """Offenders against a rule, tolerated or not."""
        return len(self.broken.get(rule, ())) + len(self.tolerated.get(rule, ()))


def verify(seen: Evidence) -> Verdict:
    """Hold the evidence against every rule."""
    repeats = seen.paid_calls - _calls_needed(seen)
    found: dict[Rule, list[str]] = {}
    checks = (_ends(seen), _transactions(seen), _events(seen), _offsets(seen), _paid(repeats, seen.paid_bound))
    for rule, offender in chain.from_iterable(checks):
        found.setdefault(rule, []).append(offender)
    tolerated = TOLERATED[seen.delivery]
    return Verdict(
        tickets=len(seen.published),
        broken={rule: tuple(ids) for rule, ids in found.items() if rule not in tolerated},
        tolerated={rule: tuple(ids) for rule, ids in found.items() if rule in tolerated},
        paid_repeats=repeats,
    )


def ends_owed(published: Mapping[str, int], poison: Container[str], deduplicated: bool) -> Iterator[tuple[str, int]]:
    """How often each ticket must end at least."""
    for ticket_id, acknowledged in published.items():
        # Poison has no id that could be told from another's: it is buried as often as it came.
        yield ticket_id, 1 if deduplicated and ticket_id not in poison else acknowledged


Offences = Iterator[tuple[Rule, str]]


def _on(topics: Iterable[str], records: Iterable[Entry]) -> Iterator[Entry]:
    wanted = frozenset(topics)
    return (r for r in records if r.topic in wanted)


def _ends(seen: Evidence) -> Offences:
    """Every ticket ends once: answered or handed to a person, or buried if it is poison."""
    ends = Counter(r.key for r in _on(ENDS, seen.records))
    # A send whose acknowledgement was lost is sent again, so more may stand in the log than was acknowledged.
    logged = Counter(r.key for r in _on([TICKETS.name], seen.records))
    for ticket_id, owed in ends_owed(seen.published, seen.poison, seen.deduplicated):
        if ends[ticket_id] < owed:
            yield Rule.LOST, ticket_id
        if ends[ticket_id] > (1 if seen.deduplicated and ticket_id not in seen.poison else logged[ticket_id]):
            yield Rule.DUPLICATE, ticket_id
    for record in _on(ENDS, seen.records):
        if record.key not in seen.published:
            yield Rule.UNKNOWN, record.key
        elif (record.topic == DEAD_LETTERS.name) != (record.key in seen.poison):
            yield Rule.WRONG_END, record.key


def _transactions(seen: Evidence) -> Offences:
    """Whatever a stage wrote stands there once, and beside the event of its transaction."""
    written = [r for r in seen.records if r.ce_id]
    for ce_id, times in Counter(r.ce_id for r in written).items():
        if times > 1:
            yield Rule.ABORTED, ce_id
    told = {e.event_id for e in seen.events}
    for record in written:
        if record.cause not in told:
            yield Rule.ABORTED, record.ce_id


def _events(seen: Evidence) -> Offences:
    """Each input record has an event, each event its input record and the output that it tells of."""
    told = {e.event_id for e in seen.events}
    expected = {f"{stage}/{r.origin}": r for stage, topic in INPUTS.items() for r in _on([topic], seen.records)}
    for event_id in expected:
        if event_id not in told:
            yield Rule.NO_EVENT, event_id
    written = {(r.cause, r.topic) for r in seen.records if r.topic != EVENTS.name}
    for event in seen.events:
        wanted = OUTPUT_OF[event.outcome]
        has_output = not wanted or any((event.event_id, topic) in written for topic in wanted)
        if not has_output or event.event_id not in expected:
            yield Rule.UNMATCHED_EVENT, f"{event.outcome} {event.event_id}"


def _offsets(seen: Evidence) -> Offences:
    """What is committed only grows, and in the end nothing lies behind it."""
    last: dict[tuple[str, int], int] = {}
    for look in seen.offsets:
        partition = (look.stage, look.partition)
        if look.offset < last.get(partition, 0):
            yield Rule.OFFSET_BACK, f"{look.stage}/{look.partition}: {last[partition]} -> {look.offset}"
        last[partition] = look.offset
    for stage, topic in INPUTS.items():
        for number, end in _ends_of_partitions(topic, seen.records).items():
            if last.get((stage, number), 0) < end:
                yield Rule.OFFSET_BEHIND, f"{stage}/{number}: {last.get((stage, number), 0)} of {end}"


def _ends_of_partitions(topic: str, records: Iterable[Entry]) -> dict[int, int]:
    """Past the last record; what may follow are transaction markers, which nobody commits past."""
    ends: dict[int, int] = {}
    for record in _on([topic], records):
        ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)
    return ends


def _calls_needed(seen: Evidence) -> int:
    """One for each ticket that reached tier-2; without deduplication one for each time that it was published."""
    asked = {r.key for r in _on([TIER2.name], seen.records)}
    if seen.deduplicated:
        return len(asked)
    return sum(r.key in asked for r in _on([TICKETS.name], seen.records))


def _paid(repeats: int, bound: int) -> Offences:
    for number in range(bound, repeats):
        yield Rule.OVERPAID, f"repeated call {number + 1}, where {bound} may be"
    if repeats < 0:
        yield Rule.UNPAID, f"{-repeats} fewer calls than tickets that needed one"
