"""Labelled outcomes: past tickets, and which tier's answer to them was acceptable. What the router learns from.

Read from JSON lines here and from Kafka by streams/labels.py; weighed by how likely each was to be observed, and
split into training and validation rows.
"""

import gzip
import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from schemas.codec import PoisonError, decode
from schemas.tickets import Ticket, TicketId
from workers.router.classifier import category_of, ticket_text

Floats = NDArray[np.float64]

Propensity = Annotated[float, Meta(gt=0.0, le=1.0)]


class LabelledOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A past ticket and what is known of it. None is "not known", for a tier that was not tried or not judged.

    Raises: ValueError if the category holds a dot, or the passage is of another category.
    """

    text: Annotated[str, Meta(min_length=1)]
    """As `ticket_text` makes it: what the encoder reads."""
    tier1_ok: bool | None = None
    tier2_ok: bool | None = None
    category: str = ""
    """Empty if it is not known."""
    passage: str = ""
    """`category.intent`: the one passage of the company's knowledge that answers it; empty if there is no such one."""
    propensity: Propensity = 1.0
    """Probability that this outcome was observed at all."""
    group: str = ""
    """What must not be torn apart by a split, such as a customer's id; empty is a group of its own."""

    def __post_init__(self) -> None:
        # A class of the graph is `category.intent` or a bare category: a dot in one would be read as the other.
        if "." in self.category:
            raise ValueError("category holds a dot")
        if self.passage and category_of(self.passage) != self.category:
            raise ValueError("passage is not of its category: it is `category.intent`")


class OutcomesError(ValueError):
    """Labelled outcomes can't be had: where, and what is wrong. Never a ticket's text."""


class _Line(Struct, frozen=True, kw_only=True):
    """One line of a file. The text comes whole, or as a ticket's parts."""

    text: str = ""
    subject: str = ""
    body: str = ""
    context: tuple[str, ...] = ()
    tier1_ok: bool | None = None
    tier2_ok: bool | None = None
    category: str = ""
    passage: str = ""
    propensity: Propensity = 1.0
    group: str = ""


def read_outcomes(path: Path) -> list[LabelledOutcome]:
    """The outcomes in a file of JSON lines, gzip-compressed if its name ends in .gz; blank lines and unknown fields
    are passed over.

    A line has `text`, or `subject`, `body` and `context` as a ticket has; the rest as `LabelledOutcome`.

    Raises: OutcomesError naming file, line and field of what can't be read, or if there is no line.
    """
    found = [outcome_of(line, f"{path}:{number}") for number, line in _lines(path)]
    if not found:
        raise OutcomesError(f"{path}: no lines")
    return found


def outcome_of(line: bytes, where: str) -> LabelledOutcome:
    """One line as an outcome. Raises: OutcomesError, which starts with `where`."""
    try:
        parsed = decode(_Line, line)
    except PoisonError as exc:
        raise OutcomesError(f"{where}: {exc.reason.removeprefix('not a _Line: ')}") from None
    if parsed.text and (parsed.subject or parsed.body or parsed.context):
        raise OutcomesError(f"{where}: both `text` and a ticket's `subject`, `body` or `context`: one of them")
    ticket = Ticket(ticket_id=TicketId(""), subject=parsed.subject, body=parsed.body, context=parsed.context)
    text = parsed.text or ticket_text(ticket)
    if not text.strip():
        raise OutcomesError(f"{where}: no text: neither `text` nor `subject` or `body` is there")
    try:
        return LabelledOutcome(
            text=text,
            tier1_ok=parsed.tier1_ok,
            tier2_ok=parsed.tier2_ok,
            category=parsed.category or (category_of(parsed.passage) if parsed.passage else ""),
            passage=parsed.passage,
            propensity=parsed.propensity,
            group=parsed.group,
        )
    except ValueError as exc:
        raise OutcomesError(f"{where}: {exc}") from None


def write_outcomes(rows: Sequence[LabelledOutcome], path: Path) -> None:
    """Write gzip-compressed JSON lines that `read_outcomes` reads; the same rows give the same bytes."""
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(lines, mtime=0))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, EOFError, zlib.error) as exc:
        raise OutcomesError(f"{path}: can't be read: {getattr(exc, 'strerror', None) or exc}") from exc


def weights(rows: Sequence[LabelledOutcome]) -> Floats:
    """What each row counts for, (n,), mean 1: the inverse of its propensity, cut where it is extreme.

    Uncut, one ticket that was observed by a rare chance would outweigh all the others. The cut, sqrt(n) times the
    mean, goes away as rows come in, so the bias that it brings does too.

    Source: Ionides, "Truncated importance sampling", 2008.
    """
    inverse = np.array([1 / row.propensity for row in rows])
    cut = np.minimum(inverse, np.sqrt(len(rows)) * inverse.mean())
    return np.asarray(cut / cut.mean())


def effective_size(weight: Floats) -> float:
    """How many rows of equal weight would tell as much as these, (n,) (Kish)."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def split(
    rows: Sequence[LabelledOutcome], share: float, seed: int
) -> tuple[list[LabelledOutcome], list[LabelledOutcome]]:
    """Training and validation rows, each in their order; about `share` of each label, 0 to 1, is for validation.

    Rows of one group, or of one text but for case and spaces, stay together. Which side they fall on depends on the
    texts and the seed, not on the order of the rows.

    Raises: ValueError if a side would be empty.
    """
    strata: dict[bool | None, list[list[int]]] = defaultdict(list)
    for together in _together(rows):
        labels = Counter(rows[i].tier1_ok for i in together)
        strata[max((True, False, None), key=lambda label: labels[label])].append(together)
    held_out: set[int] = set()
    for stratum in strata.values():
        stratum.sort(key=lambda together: _draw(seed, min(rows[i].text for i in together)))
        wanted, before = share * sum(map(len, stratum)), 0
        for together in stratum:
            # By its middle, so that a large group that would overshoot by more than it helps is left to training.
            if before + len(together) / 2 <= wanted:
                held_out.update(together)
                before += len(together)
    sides = (
        [row for i, row in enumerate(rows) if i not in held_out],
        [row for i, row in enumerate(rows) if i in held_out],
    )
    if not all(sides):
        raise ValueError(f"{len(rows)} rows can't be split with {share:g} of them for validation: one side is empty")
    return sides


def _together(rows: Sequence[LabelledOutcome]) -> list[list[int]]:
    """Indices of rows that share a text or a group, directly or through other rows."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        for key in (("text", " ".join(row.text.casefold().split())), ("group", row.group)):
            if key[1]:
                parent[root(i)] = root(first.setdefault(key, i))
    found: dict[int, list[int]] = defaultdict(list)
    for i in range(len(rows)):
        found[root(i)].append(i)
    return list(found.values())


def _draw(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()


def counts(rows: Sequence[LabelledOutcome]) -> dict[str, int]:
    """How many rows there are, and what is known of how many."""
    return {
        "tickets": len(rows),
        "tier1_ok": sum(row.tier1_ok is True for row in rows),
        "tier1_not_ok": sum(row.tier1_ok is False for row in rows),
        "tier2_ok": sum(row.tier2_ok is True for row in rows),
        "tier2_not_ok": sum(row.tier2_ok is False for row in rows),
        "with_category": sum(row.category != "" for row in rows),
        "with_passage": sum(row.passage != "" for row in rows),
    }
