"""`headgate audit`: what a person judges, and how often the judge errs.

A person sees a case as the judge does: texts under letters, nothing of tiers, scores or what was sent. By default the
audits that nobody has judged come first to last; with `check`, those that a judge has judged, in an order that
has nothing to do with what it said, so that its errors can be counted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from rich.console import Console
from rich.table import Table

from schemas.audits import Audit
from schemas.codec import encode
from schemas.labels import AUDIT_SOURCES, Label
from schemas.tickets import TicketKey, Tier
from schemas.topics import AUDITS, BACKFILL, LABELS
from streams.judge import case_of, labels
from streams.publish import producer
from streams.read import records
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings
from workers.judge import person
from workers.judge.agreement import Agreement, Checked, Share, agreement
from workers.judge.judgement import Letter, Verdict, blind

ALL_AUDITS = (AUDITS, replace(AUDITS, name=AUDITS.name + BACKFILL))

DELTA = 0.05
"""Each bound on the judge's errors holds with probability 1 - DELTA."""

Ask = Callable[[Letter], str | None]
"""What the person types about an answer; None ends the session."""


@dataclass(slots=True)
class Book:
    """Audits and their labels, as they come from the topics."""

    audits: dict[TicketKey, Audit] = field(default_factory=dict)
    by_person: dict[tuple[TicketKey, Tier], Label] = field(default_factory=dict)
    by_judge: dict[tuple[TicketKey, Tier], Label] = field(default_factory=dict)
    """A frontier model's or a rubric's; the latest, here as above."""
    unreadable: int = 0

    def add(self, record: Audit | Label) -> None:
        if isinstance(record, Audit):
            self.audits[record.ticket.tenant, record.ticket.ticket_id] = record
        elif record.source in AUDIT_SOURCES:
            labelled = self.by_person if record.source == "person" else self.by_judge
            labelled[(record.tenant, record.ticket_id), record.tier] = record

    def open(self, check: bool) -> list[Audit]:
        """What a person may judge: audits that nobody judged, oldest first; or with `check` those that only a judge
        did, in an order drawn from their ids."""
        mine = {key: audit for key, audit in self.audits.items() if (key, "tier1") not in self.by_person}
        judged = {key for key in mine if (key, "tier1") in self.by_judge}
        if check:
            return [mine[key] for key in sorted(judged, key=_drawn)]
        return sorted((a for key, a in mine.items() if key not in judged), key=lambda a: a.at)

    def agreement(self) -> dict[str, Agreement]:
        """Each judge's errors on tier-1's drafts, as far as people judged the same. By the judge's name."""
        both = [(self.by_judge[k], self.by_person[k]) for k in self.by_judge.keys() & self.by_person.keys()]
        names = sorted({judge.judge for judge, _ in both})
        return {
            name: agreement(
                (Checked(j.acceptable, p.acceptable) for j, p in both if j.judge == name and j.tier == "tier1"), DELTA
            )
            for name in names
        }


def _drawn(key: TicketKey) -> bytes:
    return blake2b("\0".join(key).encode(), digest_size=8).digest()


async def read_book(settings: KafkaSettings) -> Book:
    """Everything on the topics now.

    Raises: TopicsError if the broker can't be reached or a topic is not there.
    """
    book, unreadable = Book(), list[str]()
    async for audit, _ in records(settings, Audit, *ALL_AUDITS, unreadable=unreadable):
        book.add(audit)
    async for label, _ in records(settings, Label, LABELS, unreadable=unreadable):
        book.add(label)
    book.unreadable = len(unreadable)
    return book


async def judge_next(settings: KafkaSettings, check: bool, ask: Ask, console: Console) -> int:
    """Show one open audit after the other and publish what the person says, until there is none or `ask` says None;
    returns how many were judged."""
    judged = 0
    waiting = (await read_book(settings)).open(check)
    async with producer(settings) as client:
        for number, audit in enumerate(waiting, 1):
            case = blind(case_of(audit))
            console.rule(f"{number} of {len(waiting)}")
            console.print(person.page(case), markup=False, highlight=False)
            verdicts = _asked(tuple(case.texts), ask, console)
            if verdicts is None:
                break
            for label in labels(audit, case.judgement(verdicts, "person"), "person", utc_now()):
                await client.send_and_wait(
                    settings.topic_prefix + LABELS.name, encode(label), key=label.ticket_id.encode()
                )
            judged += 1
    return judged


def _asked(letters: Sequence[Letter], ask: Ask, console: Console) -> dict[Letter, Verdict] | None:
    verdicts: dict[Letter, Verdict] = {}
    while len(verdicts) < len(letters):
        letter = letters[len(verdicts)]
        if (typed := ask(letter)) is None:
            return None
        try:
            verdicts[letter] = person.verdict(typed)
        except ValueError as exc:
            console.print(str(exc), markup=False, highlight=False)
    return verdicts


async def print_status(settings: KafkaSettings, console: Console) -> None:
    """How many audits there are, who judged them, and how often the judges err."""
    book = await read_book(settings)
    tier1 = [sum(tier == "tier1" for _, tier in by) for by in (book.by_judge, book.by_person)]
    console.print(
        f"{len(book.audits)} audits: {tier1[0]} judged by a model or rubric, {tier1[1]} by people, "
        f"{len(book.open(check=False))} by nobody; {book.unreadable} records that can't be read",
        highlight=False,
    )
    if found := book.agreement():
        console.print(_table(found.items()))
    else:
        console.print("no case was judged by a judge and a person: headgate audit next --check", highlight=False)


def _table(found: Iterable[tuple[str, Agreement]]) -> Table:
    table = Table(
        "judge", "bad answers accepted", f"at most ({1 - DELTA:.0%})", "good answers refused", "at most", "kappa"
    )
    for name, errs in found:
        kappa = "-" if errs.kappa is None else f"{errs.kappa:.2f}"
        table.add_row(name, *_shown(errs.miss), *_shown(errs.false_alarm), kappa)
    return table


def _shown(share: Share) -> tuple[str, str]:
    return f"{share.count} of {share.of}", f"{share.high:.1%}"
