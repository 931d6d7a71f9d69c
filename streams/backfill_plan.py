"""What a backfill is and what it does with a ticket: plain decisions over values; streams/backfill.py meets Kafka.

Invariants:
- A backfill is what was asked for: its id is made of that, so the same command is the same backfill.
- A ticket is taken at most once in a pass; without `again` only one that has ended as a handoff (or, when asked for,
  one that has not ended), has no answer where this one would go, and is not on the slow lane for the same place.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from schemas.answers import HandoffReason
from schemas.events import Event
from schemas.tickets import Ticket, TicketKey
from schemas.topics import ANSWERS
from streams.letters import iso_time, printable
from streams.runtime.headers import Replay

DEAD = "dead_lettered"
ANSWER, HANDOFF, NONE = "answer", "handoff", "none"
ENDS = (ANSWER, HANDOFF, *(reason.value for reason in HandoffReason), NONE)
"""How a ticket has ended: handoffs also by their reason."""
FIELDS = ("tenant", "customer_id", "channel", "language", "category", "ended")
METADATA = "metadata."
EPOCH = datetime.fromtimestamp(0, UTC)


class BackfillError(Exception):
    """What was asked can't be done, or no further: why, and what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a backfill is."""

    since: datetime
    until: datetime
    """Not included."""
    filters: tuple[tuple[str, str], ...] = ()
    """Name and value. A ticket passes if for each name it has one of the values."""
    output: str = ANSWERS.name
    again: bool = False

    @property
    def id(self) -> str:
        """The same for the same backfill, in whichever order its filters were written."""
        parts = [self.since.astimezone(UTC), self.until.astimezone(UTC), sorted(set(self.filters)), self.output]
        return hashlib.sha256(msgspec.json.encode([*parts, self.again])).hexdigest()[:12]

    @property
    def replay_output(self) -> str:
        """As in headers: empty for where answers and handoffs go always."""
        return "" if self.output == ANSWERS.name else self.output


def asked(since: str, until: str, filters: Sequence[str], output: str, again: bool) -> Asked:
    """From the words of the command. Raises: BackfillError for the first that means nothing."""
    made = Asked(_moment("--from", since), _moment("--to", until), tuple(map(_filter, filters)), output, again)
    if made.since >= made.until:
        raise BackfillError("--from must be before --to")
    if not again and ("ended", ANSWER) in made.filters:
        raise BackfillError("--filter ended=answer goes with --again: nothing is answered twice without it")
    return made


def _moment(option: str, text: str) -> datetime:
    # No ages like 2h: the same command would be another backfill a minute later.
    if at := iso_time(text):
        # Nothing is older, and Kafka knows no time before.
        return max(at, EPOCH)
    raise BackfillError(f"{option} {printable(text)}: not an ISO time like 2026-11-30T09:00 (UTC if it names no zone)")


def _filter(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not (name in FIELDS or name.removeprefix(METADATA) not in ("", name)):
        raise BackfillError(f"--filter {printable(text)}: NAME=VALUE, NAME one of {', '.join(FIELDS)}, {METADATA}KEY")
    if name == "ended" and value not in ENDS:
        raise BackfillError(f"--filter {printable(text)}: a ticket ends as one of {', '.join(ENDS)}")
    return name, value


def key_of(ticket: Ticket) -> TicketKey:
    """What makes two tickets one."""
    return ticket.tenant, ticket.ticket_id


@dataclass(frozen=True, slots=True)
class End:
    """How a ticket ended last; an answer is the last word."""

    as_: str
    """`answer`, or the handoff's reason."""
    category: str


@dataclass(slots=True)
class Facts:
    """What the events tell of past tickets, for a backfill whose answers go to `output` (as in headers)."""

    output: str
    ends: dict[TicketKey, End] = field(default_factory=dict)
    published: dict[tuple[str, str], TicketKey] = field(default_factory=dict)
    """Tickets that backfills put on the slow lane for this output, by replay id and place."""
    ended: dict[tuple[str, str], str] = field(default_factory=dict)
    """Those that have ended there, by the same, and the outcome."""
    outstanding: Counter[str] = field(default_factory=Counter)
    """How many of those published have not ended, by replay id."""
    spent_usd: Counter[str] = field(default_factory=Counter)
    """By category, on all tickets, whatever became of them."""
    answered: Counter[str] = field(default_factory=Counter)

    def add(self, event: Event, replay: Replay | None) -> None:
        """An event, in its order by ticket. A judge's work is not the ticket's."""
        if event.stage == "judge":
            return
        self.spent_usd[event.category] += event.cost_usd  # type: ignore[assignment]
        if event.outcome not in ("answered", "handed_off", DEAD):
            return
        if replay:
            self._add_end((replay.id, replay.of), event.outcome)
        self.answered[event.category] += event.outcome == "answered"
        if event.outcome == DEAD or (replay and replay.output not in ("", self.output)):
            return
        key, before = (event.tenant, event.ticket_id), self.ends.get((event.tenant, event.ticket_id))
        if before is None or before.as_ != ANSWER:
            self.ends[key] = End(_end_of(event), event.category)

    def add_published(self, ticket: Ticket, replay: Replay) -> None:
        """A record of the slow lane."""
        each = (replay.id, replay.of)
        if replay.output == self.output and each not in self.published:
            self.published[each] = key_of(ticket)
            self.outstanding[replay.id] += each not in self.ended

    def _add_end(self, each: tuple[str, str], outcome: str) -> None:
        if each in self.published and each not in self.ended:
            self.outstanding[each[0]] -= 1
        self.ended[each] = outcome

    def on_lane(self) -> set[TicketKey]:
        """Tickets that wait there, or are worked on, for the same output; dead letters from there, which a requeue may
        bring back, too."""
        return {key for each, key in self.published.items() if self.ended.get(each, DEAD) == DEAD}

    def taken(self, replay_id: str) -> set[TicketKey]:
        """The tickets of one pass."""
        return {key for (id_, _), key in self.published.items() if id_ == replay_id}

    def outcomes(self, replay_id: str) -> Counter[str]:
        """How those of one pass have ended."""
        return Counter(outcome for (id_, _), outcome in self.ended.items() if id_ == replay_id)

    def usd_of(self, category: str | None) -> float | None:
        """What an answer of the category costs, failed tries and handoffs included; where it has none, of all
        categories. None if nothing was answered."""
        if category is not None and self.answered[category]:
            return float(self.spent_usd[category] / self.answered[category])
        answers = self.answered.total()
        return float(sum(self.spent_usd.values()) / answers) if answers else None


def _end_of(event: Event) -> str:
    if event.outcome == "answered":
        return ANSWER
    # The checker's event names the gates that refused the draft.
    return HandoffReason.TIER2_REFUSED.value if event.stage == "checker" else "".join(event.reasons[:1])


class Fate(StrEnum):
    """What becomes of a past ticket, in words for the operator."""

    DUE = "to do"
    FILTERED = "left out by filters"
    ANSWERED = "answered already"
    ON_LANE = "on the slow lane already, or dead letters from there"
    NO_END = "not ended: on their way, or dead letters"
    REPEATED = "published twice by their helpdesk"
    TOO_LARGE = "too large with a backfill's headers"
    UNREADABLE = "can't be read"


@dataclass(slots=True)
class Chooser:
    """Decides ticket by ticket, in the order of the topic."""

    of: Asked
    facts: Facts
    on_lane: set[TicketKey]
    taken: set[TicketKey]
    """In this pass, those of earlier runs included."""

    def fate(self, ticket: Ticket) -> Fate:
        """What becomes of this one. One that is due counts as taken."""
        key = key_of(ticket)
        end = self.facts.ends.get(key)
        if not passes(ticket, end, self.of.filters):
            return Fate.FILTERED
        if key in self.taken:
            return Fate.REPEATED
        if not self.of.again:
            if end and end.as_ == ANSWER:
                return Fate.ANSWERED
            if key in self.on_lane:
                return Fate.ON_LANE
            # Headgate loses no ticket, so this one is still to be answered; who knows better says ended=none.
            if end is None and ("ended", NONE) not in self.of.filters:
                return Fate.NO_END
        self.taken.add(key)
        return Fate.DUE


def passes(ticket: Ticket, end: End | None, filters: Sequence[tuple[str, str]]) -> bool:
    """Whether a ticket has for each name one of the values."""
    wanted: dict[str, set[str]] = {}
    for name, value in filters:
        wanted.setdefault(name, set()).add(value)
    return all(values & _values(ticket, end, name) for name, values in wanted.items())


def _values(ticket: Ticket, end: End | None, name: str) -> set[str]:
    if name == "ended":
        if end is None:
            return {NONE}
        return {ANSWER} if end.as_ == ANSWER else {HANDOFF, end.as_}
    if name == "category":
        return {end.category} if end else set()
    if name.startswith(METADATA):
        found = ticket.metadata.get(name.removeprefix(METADATA))
        return set() if found is None else {found}
    return {getattr(ticket, name)}


@dataclass(slots=True)
class Plan:
    """What there is to do, and what it may cost."""

    fates: Counter[Fate] = field(default_factory=Counter)
    usd: float = 0.0

    def add(self, fate: Fate, usd: float | None) -> None:
        """One more ticket; `usd` is what an answer to it costs, where that is known."""
        self.fates[fate] += 1
        if fate is Fate.DUE:
            self.usd += usd or 0.0

    @property
    def due(self) -> int:
        return self.fates[Fate.DUE]

    def lines(self, since: datetime, answers: int) -> list[tuple[str, str]]:
        """What is told before anything is published. `answers` is how many the cost is known from: those since then."""
        left = [(f"  {fate}", f"{count:,}") for fate in Fate if fate is not Fate.DUE and (count := self.fates[fate])]
        basis = f"what {answers:,} answers since {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC have cost"
        cost = f"${self.usd:,.4f}: by category, {basis}"
        if not answers:
            cost = "unknown: nothing was answered since then"
        return [
            ("tickets in the window", f"{self.fates.total():,}"),
            *left,
            (Fate.DUE.value, f"{self.due:,}"),
            ("estimated cost", cost if self.due else "$0"),
        ]


@dataclass(frozen=True, slots=True)
class Span:
    """What a pass reads of one partition: from `start`, up to `end`; before `position` all is done."""

    start: int
    position: int
    end: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One way through the window. Its ends stay as they were when it began."""

    number: int
    spans: Mapping[int, Span]
    """By partition."""

    def moved(self, positions: Mapping[int, int]) -> "Pass":
        """The pass with other positions, by partition."""
        return replace(self, spans={n: replace(span, position=positions[n]) for n, span in self.spans.items()})

    @property
    def published(self) -> bool:
        """Whether all that was due is on the slow lane."""
        return all(span.position >= span.end for span in self.spans.values())


def goes_on(found: Pass | None, outstanding: int, again: bool) -> int | None:
    """The number of the pass to begin, or None to go on with the one found. `outstanding`: how many of its tickets have
    not ended.

    Raises: BackfillError if there is nothing more to do.
    """
    if found is None:
        return 1
    if outstanding or not found.published:
        return None
    if again:
        # Whoever isn't sure that it has ended must not pay twice by asking.
        raise BackfillError("this backfill is finished: to answer the tickets yet again, give it another --to")
    return found.number + 1


def metadata(number: int, span: Span) -> str:
    """What is kept beside a partition's committed position."""
    return f"b1:{number}:{span.start}:{span.end}"


def pass_of(commits: Mapping[int, tuple[int, str]]) -> Pass | None:
    """The pass that positions and metadata by partition tell of; None of none.

    Raises: BackfillError if they were not written by a backfill.
    """
    number, spans = 0, {}
    for partition, (position, text) in commits.items():
        version, *numbers = text.split(":")
        if version != "b1" or len(numbers) != 3 or not all(n.isdecimal() for n in numbers):
            raise BackfillError(f"the progress of partition {partition} can't be read: {printable(text[:60])}")
        number, start, end = map(int, numbers)
        spans[partition] = Span(start, position, end)
    return Pass(number, spans) if spans else None
