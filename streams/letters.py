"""Dead letters as values: what the records of their topic say, which of them are meant, and what a requeue sends.

Nothing here meets Kafka; streams/dead_letters.py and streams/requeue.py do. A record of the topic is a dead
letter, or a marker that says that one has been requeued.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from aiokafka.structs import ConsumerRecord

from streams.runtime.headers import REPLAY, REQUEUE_OF
from streams.runtime.stage import Headers, Origin

RESERVED = "headgate-"
"""Headers of this prefix are ours."""
REASON, AT = RESERVED + "reason", RESERVED + "at"
"""REASON is the first of those that the runtime adds, behind the record's own."""
REQUEUED = RESERVED + "requeued"
"""In a marker: which dead letter has been requeued."""
ID = re.compile(r"(\d{1,10})/(\d{1,19})", re.ASCII)
ORIGIN = re.compile(r"([^/]+)/(\d{1,10})/(\d{1,19})", re.ASCII)
AGE = re.compile(r"(\d+)([smhd])", re.ASCII)
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PREVIEW_BYTES = 4096


class DeadLettersError(Exception):
    """What was asked can't be done: why, and what has happened so far."""


@dataclass(frozen=True, slots=True, order=True)
class LetterId:
    """Where a dead letter stands on the dead-letters topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its body: there may be many of them, of megabytes each."""

    id: LetterId
    key: bytes | None
    size_bytes: int
    own_headers: Headers
    """As the record came."""
    added_headers: Mapping[str, bytes]
    """The runtime's: why and where it was given up."""
    at: datetime

    def added(self, name: str) -> str:
        """One of the runtime's headers as text; empty if it is not there."""
        return self.added_headers.get(RESERVED + name, b"").decode("utf-8", "backslashreplace")

    @property
    def attempts(self) -> int | None:
        text = self.added("attempts")
        return int(text) if text.isdecimal() else None

    @property
    def origin(self) -> Origin | None:
        match = ORIGIN.fullmatch(self.added("origin"))
        return Origin(match[1], int(match[2]), int(match[3])) if match else None

    @property
    def source(self) -> str:
        """Topic and partition that it came from, and that it goes back to."""
        return printable(f"{self.origin.topic}/{self.origin.partition}") if self.origin else "nowhere"


@dataclass(frozen=True, slots=True)
class Marker:
    """Says that a dead letter has been requeued."""

    of: LetterId
    at: datetime


@dataclass(frozen=True, slots=True)
class Contents:
    """What the topic holds: dead letters, and when which of them were requeued."""

    letters: Mapping[LetterId, Letter]
    requeued: Mapping[LetterId, datetime]

    def letter(self, id_: LetterId) -> Letter:
        """One of them. Raises: DeadLettersError if it isn't there."""
        if found := self.letters.get(id_):
            return found
        raise DeadLettersError(f"there is no dead letter {id_}: `headgate dead-letters list --all` shows what there is")

    def chosen(self, filters: "Filters", requeued: bool = False) -> list[Letter]:
        """Those that the filters take and that are not requeued (or all that they take), oldest first."""
        taken = [x for x in self.letters.values() if filters.take(x) and (requeued or x.id not in self.requeued)]
        return sorted(taken, key=lambda x: (x.at, x.id))


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant; by default all."""

    stage: str | None = None
    reason: str = ""
    """Part of the reason, in any case."""
    since: datetime | None = None

    def take(self, letter: Letter) -> bool:
        return (
            self.stage in (None, letter.added("stage"))
            and self.reason.lower() in letter.added("reason").lower()
            and (self.since is None or letter.at >= self.since)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a requeue does with the dead letters that were chosen."""

    letters: tuple[Letter, ...]
    requeued: tuple[LetterId, ...]
    """They already were: nothing is to be done."""
    refused: dict[LetterId, str]
    """They can't be, and why."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent, and on behalf of which dead letter."""

    of: LetterId
    topic: str | None
    """Its full name; None means the dead letters' own."""
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def parse_id(text: str) -> LetterId:
    """PARTITION/OFFSET, as `list` shows it. Raises: DeadLettersError."""
    if not (match := ID.fullmatch(text)):
        raise DeadLettersError(f"{printable(text)} is no dead letter's id: PARTITION/OFFSET, as `list` shows it")
    return LetterId(int(match[1]), int(match[2]))


def parse_since(text: str, now: datetime, option: str = "--since") -> datetime:
    """An age (90s, 30m, 2h, 7d) before now, or an ISO time. Raises: DeadLettersError naming the option."""
    try:
        if match := AGE.fullmatch(text):
            return now - timedelta(seconds=int(match[1]) * UNITS_S[match[2]])
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
    if at := iso_time(text):
        return at
    raise DeadLettersError(f"{option} {printable(text)}: neither an age like 30m, 2h or 7d, nor an ISO time")


def iso_time(text: str) -> datetime | None:
    """A point in time, in UTC if it names no zone: so are the times in headers. None if it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def parsed(record: ConsumerRecord) -> Letter | Marker:
    """A record of the topic. Only headers from the runtime's first one on count as the runtime's: a record may bring
    its own of the same names, and must not choose by them where it is sent."""
    headers = tuple(record.headers)
    start = max((n for n, (name, _) in enumerate(headers) if name == REASON), default=len(headers))
    added = {name: value or b"" for name, value in headers[start:]}
    written_at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    if record.value is None and not added:
        named = ID.fullmatch((dict(headers).get(REQUEUED) or b"").decode("utf-8", "replace"))
        if named:
            return Marker(LetterId(int(named[1]), int(named[2])), written_at)
    at = iso_time(added.get(AT, b"").decode("utf-8", "replace")) or written_at
    id_ = LetterId(record.partition, record.offset)
    return Letter(id_, record.key, len(record.value or b""), headers[:start], added, at)


def contents_of(parsed_records: Iterable[Letter | Marker]) -> Contents:
    """Letters and markers, sorted out."""
    letters: dict[LetterId, Letter] = {}
    requeued: dict[LetterId, datetime] = {}
    for each in parsed_records:
        if isinstance(each, Letter):
            letters[each.id] = each
        else:
            requeued[each.of] = each.at
    return Contents(letters, requeued)


def plan(contents: Contents, chosen: Iterable[LetterId], partitions: Mapping[str, int]) -> Plan:
    """What to do about the chosen ones, given the partitions of the topics that there are.

    Raises: DeadLettersError if one of them isn't there.
    """
    letters: list[Letter] = []
    requeued: list[LetterId] = []
    refused: dict[LetterId, str] = {}
    for id_ in sorted(set(chosen)):
        letter = contents.letter(id_)
        if id_ in contents.requeued:
            requeued.append(id_)
        elif why := obstacle(letter, partitions):
            refused[id_] = why
        else:
            letters.append(letter)
    return Plan(tuple(letters), tuple(requeued), refused)


def obstacle(letter: Letter, partitions: Mapping[str, int]) -> str:
    """Why a dead letter can't be requeued; empty if it can."""
    if cut_from := letter.added("cut-from-bytes"):
        return f"cut: of {printable(cut_from)} bytes only the first {letter.size_bytes} are here"
    if not (origin := letter.origin):
        return "it doesn't say where it came from"
    if origin.partition >= partitions.get(origin.topic, 0):
        return f"it came from {letter.source}, which isn't there"
    return ""


def messages(letter: Letter, body: bytes | None, now: datetime) -> tuple[Message, Message]:
    """The record as it first came, and the marker. Of its headers only reserved ones stay behind, among them the count
    of earlier attempts: it starts anew. A backfill's stay on it: they say where its answer goes."""
    if not (origin := letter.origin):
        raise ValueError(f"dead letter {letter.id} has no origin")
    own = tuple((name, value) for name, value in letter.own_headers if not name.startswith(RESERVED) or name in REPLAY)
    names_it = str(letter.id).encode()
    headers = (*own, (REQUEUE_OF, names_it))
    record = Message(letter.id, origin.topic, origin.partition, letter.key, body, headers)
    mark = ((REQUEUED, names_it), (AT, now.isoformat().encode()))
    # Kafka's client sends nothing that has neither key nor value.
    return record, Message(letter.id, None, letter.id.partition, letter.key or b"", None, mark)


def summary(letter: Letter, contents: Contents) -> dict[str, str | int | None]:
    """What `list` says of a dead letter; no part of its body. Escaped for a terminal."""
    requeued_at = contents.requeued.get(letter.id)
    return {
        "id": str(letter.id),
        "stage": printable(letter.added("stage")),
        "reason": printable(letter.added("reason")),
        "exception": printable(letter.added("exception")),
        "attempts": letter.attempts,
        "at": letter.at.isoformat(),
        "origin": str(letter.origin) if letter.origin else None,
        "key": None if letter.key is None else printable(letter.key.decode("utf-8", "backslashreplace")),
        "bytes": letter.size_bytes,
        "requeued_at": requeued_at.isoformat() if requeued_at else None,
    }


def printable(text: str, kept: str = "") -> str:
    """Text that can't steer a terminal: what is neither printable nor `kept` is escaped."""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def preview(body: bytes | None) -> str:
    """A body for a terminal: JSON laid out and otherwise unchanged, anything else escaped and cut."""
    if body is None:
        return "(no value: a tombstone)"
    try:
        return printable(msgspec.json.format(body, indent=2).decode("utf-8"), kept="\n")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        shown = printable(body[:PREVIEW_BYTES].decode("utf-8", "backslashreplace"), kept="\n")
        more_bytes = len(body) - PREVIEW_BYTES
        return shown if more_bytes <= 0 else f"{shown}\n(and {more_bytes} bytes more: --raw writes them all)"
