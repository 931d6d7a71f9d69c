"""A company's knowledge and its example tickets, each with a rubric and a reference answer.

Read from a folder of TOML files (examples/fernway): `knowledge.toml`,
`routine/*.toml` (one intent, many wordings) and `complex/*.toml` (one by one).
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from schemas.tickets import Ticket, TicketId
from workers.knowledge import Passage, load_knowledge
from workers.learning.rubric import Claim, Fact, Rubric, grade, numbers_in

Split = Literal["train", "validation", "test"]
Kind = Literal["routine", "complex"]

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Example:
    """An example ticket with all that is known of it."""

    ticket_id: str
    split: Split
    kind: Kind
    category: str
    intent: str
    number: int
    """Of the wordings of its intent and split, from 1; 0 for a complex ticket."""
    channel: str
    language: str
    subject: str
    body: str
    context: tuple[str, ...]
    reference: str
    rubric: Rubric
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Company:
    """Everything in a company's folder."""

    passages: tuple[Passage, ...]
    examples: tuple[Example, ...]

    def split(self, split: Split) -> list[Example]:
        return [e for e in self.examples if e.split == split]


def load_company(folder: Path) -> Company:
    """Read a company's folder.

    Raises: ValueError naming the file and the entry that can't be read.
    """
    passages = load_knowledge(folder / "knowledge.toml")
    examples: list[Example] = []
    for path in sorted(folder.glob("routine/*.toml")):
        examples += _parsed(path, _routine, passages)
    for path in sorted(folder.glob("complex/*.toml")):
        examples += _parsed(path, _complex, passages)
    return Company(passages, tuple(examples))


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        try:
            return tomllib.load(file)
        except tomllib.TOMLDecodeError as exc:
            raise ValueError(f"{path}: {exc}") from exc


def _parsed(path: Path, parse: Any, passages: tuple[Passage, ...]) -> list[Example]:
    try:
        return list(parse(_read(path), passages))
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{path}: missing or misshapen entry: {exc}") from exc


def _routine(document: Mapping[str, Any], passages: tuple[Passage, ...]) -> Iterator[Example]:
    category = document["category"]
    for intent in document["intent"]:
        for split in SPLITS:
            for number, row in enumerate(intent[split], 1):
                # A slot is an account fact (a date, an amount) that differs from
                # ticket to ticket and stands in the reference and the rubric.
                yield _example(
                    {**intent, **row, "split": split, "number": number, "kind": "routine", "category": category},
                    f"fw-{category}-{intent['id']}-{split}-{number:02}",
                    passages,
                    slots=row.get("facts", {}),
                )


def _complex(document: Mapping[str, Any], passages: tuple[Passage, ...]) -> Iterator[Example]:
    for row in document["ticket"]:
        yield _example({**row, "number": 0, "kind": "complex"}, f"fw-complex-{row['id']}", passages, slots={})


def _example(
    row: Mapping[str, Any], ticket_id: str, passages: tuple[Passage, ...], slots: Mapping[str, str]
) -> Example:
    def filled(text: str, escape: bool = False) -> str:
        for name, value in slots.items():
            text = text.replace("{" + name + "}", value.replace("$", r"\$").replace(".", r"\.") if escape else value)
        return text

    reference = filled(row["reference"])
    context = tuple(filled(c) for c in row.get("context", ()))
    known = [p.text for p in passages if p.category == row["category"] or p.id in row.get("passages", ())]
    allowed = [reference, row.get("subject", ""), row["body"], *context, *known, *row.get("numbers", ())]
    return Example(
        ticket_id=ticket_id,
        split=row["split"],
        kind=row["kind"],
        category=row["category"],
        intent=row["id"] if row["kind"] == "routine" else "complex",
        number=row["number"],
        channel=row.get("channel", "email"),
        language=row.get("language", "en"),
        subject=row.get("subject", ""),
        body=row["body"],
        context=context,
        reference=reference,
        rubric=Rubric(
            states=tuple(Fact(f["fact"], tuple(filled(a, escape=True) for a in f["any"])) for f in row["states"]),
            forbids=tuple(Claim(c["claim"], tuple(c["any"])) for c in row.get("forbids", ())),
            numbers=numbers_in(" ".join(allowed)),
        ),
        wrong=tuple(filled(w) for w in row.get("wrong", ())),
    )


def as_ticket(example: Example) -> Ticket:
    """An example as a helpdesk would publish it: nothing of its answer key goes along."""
    return Ticket(
        ticket_id=TicketId(example.ticket_id),
        tenant="fernway",
        channel=example.channel,
        language=example.language,
        subject=example.subject,
        body=example.body,
        context=example.context,
    )


def faults(company: Company) -> list[str]:
    """What is wrong with the data itself: references that fail, wrong answers that pass, twins across splits."""
    found: list[str] = []
    seen: dict[str, Example] = {}
    for example in company.examples:
        if not (verdict := grade(example.reference, example.rubric)).acceptable:
            found.append(f"{example.ticket_id}: the reference answer fails its rubric: {verdict}")
        if not example.wrong:
            found.append(f"{example.ticket_id}: no wrong answers to test the rubric with")
        found += [
            f"{example.ticket_id}: a wrong answer passes: {wrong!r}"
            for wrong in example.wrong
            if grade(wrong, example.rubric).acceptable
        ]
        if "{" in example.reference + " ".join(example.context):
            found.append(f"{example.ticket_id}: a slot is not filled")
        twin = seen.setdefault(_folded(example), example)
        if twin is not example:
            found.append(f"{example.ticket_id}: same wording as {twin.ticket_id}")
    return found


def _folded(example: Example) -> str:
    letters = "".join(c if c.isalpha() else " " for c in f"{example.subject} {example.body}".lower())
    return " ".join(letters.split())


if __name__ == "__main__":
    import sys
    from collections import Counter

    company = load_company(Path(sys.argv[1]))
    for fault in faults(company):
        print(fault)
    print(Counter((e.kind, e.split) for e in company.examples))
