"""What a run came to: how good, how cheap, how fast, and where it went wrong. Pure: records in, figures out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.table import Table

from schemas.answers import Answer, Handoff
from schemas.events import Event
from schemas.tickets import TicketId, Tier
from streams.reporting.cases import (
    Case,
    Comparison,
    CostParts,
    Quality,
    cost_parts_per_1000,
    mean_per_1000,
    percent,
    quality,
    ratio,
    usd,
)
from streams.reporting.tally import Ending, Latency, dead_lettered, escalation_reasons, latency, refused_drafts
from workers.learning.company import Example
from workers.learning.rubric import grade

NOT_MEASURED = "not measured in this run"


@dataclass(frozen=True, slots=True)
class Made:
    """What one tier alone made of a ticket; the text is empty where it had no answer."""

    text: str
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """The run's tickets through either tier alone. A ticket that is missing was not measured."""

    tier1: Mapping[TicketId, Made]
    tier2: Mapping[TicketId, Made]


@dataclass(frozen=True, slots=True)
class RunMeta:
    """What the records don't say of a run."""

    company: str
    command: str
    at: datetime
    wall_s: float
    real: tuple[str, ...]
    """Parts of the run that are the real thing, a sentence each."""
    recorded: tuple[str, ...]
    """Parts that are replayed from a recording, a sentence each."""


@dataclass(frozen=True, slots=True)
class Report:
    """Every published ticket, and the figures."""

    cases: tuple[Case, ...]
    dead_letters: int
    """Records on the dead-letters topic; a record that was no ticket of this run counts too."""
    meta: RunMeta

    @property
    def tickets(self) -> int:
        return len(self.cases)

    @property
    def answers(self) -> list[Answer]:
        return [c.ending for c in self.cases if isinstance(c.ending, Answer)]

    @property
    def endings(self) -> list[Ending]:
        return [c.ending for c in self.cases if c.ending]

    @property
    def handoffs(self) -> int:
        return len(self.endings) - len(self.answers)

    @property
    def lost(self) -> int:
        """Published, but neither answered, nor handed off, nor given up."""
        return sum(c.lost for c in self.cases)

    @property
    def escalated(self) -> int:
        return sum(c.escalated for c in self.cases)

    @property
    def reasons(self) -> Counter[str]:
        return escalation_reasons(self.endings)

    def shipped(self, tier: Tier) -> list[Case]:
        """Tickets answered from this tier."""
        return [c for c in self.cases if c.tier == tier]

    @property
    def quality(self) -> Quality:
        return quality(self.cases)

    @property
    def quality_by_category(self) -> dict[str, Quality]:
        """By the example's own category, not by the router's guess."""
        names = sorted({c.example.category for c in self.cases})
        return {name: quality([c for c in self.cases if c.example.category == name]) for name in names}

    @property
    def bad_shipped(self) -> list[Case]:
        """Bad answers that went out from tier-1: what the checker is there to prevent."""
        return [c for c in self.shipped("tier1") if not c.acceptable]

    @property
    def good_refused(self) -> list[Case]:
        """Tickets whose tier-1 draft was refused although it was good: paid for twice."""
        return [c for c in self.cases if c.refused and c.refused.acceptable]

    @property
    def costs(self) -> CostParts | None:
        """Per 1,000 tickets that were answered or handed off: of others no record says what they cost."""
        return cost_parts_per_1000(self.endings)

    @property
    def cost_all_tier2_usd(self) -> float | None:
        """Per 1,000 tickets."""
        return mean_per_1000([c.tier2_alone for c in self.cases])

    @property
    def routes(self) -> dict[str, list[Case]]:
        """Answered tickets by the tier that answered; `escalated` is the part of tier2 that tier-1 drafted first."""
        tier2 = self.shipped("tier2")
        return {"tier1": self.shipped("tier1"), "tier2": tier2, "escalated": [c for c in tier2 if c.escalated]}

    @property
    def latencies(self) -> dict[str, Latency | None]:
        """By route."""
        return {
            route: latency(c.ending for c in cases if isinstance(c.ending, Answer))
            for route, cases in self.routes.items()
        }


def build(
    answers: Mapping[TicketId, Answer],
    handoffs: Mapping[TicketId, Handoff],
    events: Iterable[Event],
    dead_letters: int,
    published: Mapping[TicketId, Example],
    baseline: Baseline,
    meta: RunMeta,
) -> Report:
    """Grade every published ticket by its rubric. Records of other tickets are left out."""
    given_up = dead_lettered(events)

    def case(ticket_id: TicketId, example: Example) -> Case:
        ending: Ending | None = answers.get(ticket_id) or handoffs.get(ticket_id)
        drafts = [draft.text for draft in refused_drafts(ending) if draft.text] if ending else []
        return Case(
            example=example,
            ending=ending,
            dead_lettered=ticket_id in given_up,
            grade=grade(ending.text, example.rubric) if isinstance(ending, Answer) else None,
            refused=grade(drafts[-1], example.rubric) if drafts else None,
            tier1_alone=_comparison(baseline.tier1.get(ticket_id), example),
            tier2_alone=_comparison(baseline.tier2.get(ticket_id), example),
        )

    return Report(tuple(case(i, e) for i, e in published.items()), dead_letters, meta)


def _comparison(made: Made | None, example: Example) -> Comparison | None:
    if made is None:
        return None
    # A rubric that only forbids would pass silence.
    return Comparison(bool(made.text) and grade(made.text, example.rubric).acceptable, made.cost_usd)


def as_json(report: Report) -> dict[str, int | float | None]:
    """The figures by name, flat; None where not measured."""
    q, costs = report.quality, report.costs
    all_tier2, tier1_alone = ratio(q.tier2_alone, q.tickets), ratio(q.tier1_alone, q.tickets)
    total = costs.total_usd if costs else None
    return {
        "tickets": report.tickets,
        "answered": len(report.answers),
        "handoffs": report.handoffs,
        "dead_letters": report.dead_letters,
        "lost": report.lost,
        "escalated": report.escalated,
        "tier1_share": ratio(len(report.shipped("tier1")), report.tickets),
        "quality": q.share,
        "quality_all_tier2": all_tier2,
        "quality_tier1_alone": tier1_alone,
        "quality_ratio": ratio(q.share, all_tier2),
        "cost_per_1000_usd": total,
        "cost_per_1000_all_tier2_usd": report.cost_all_tier2_usd,
        "cost_ratio": ratio(total, report.cost_all_tier2_usd),
        **_seconds(report),
        **{f"quality_shipped_{tier}": quality(report.shipped(tier)).share for tier in ("tier1", "tier2")},
        "bad_shipped_tier1": len(report.bad_shipped),
        "shipped_tier1": len(report.shipped("tier1")),
        "good_refused_tier1": len(report.good_refused),
        **_parts(costs),
        "wall_s": round(report.meta.wall_s, 1),
    }


def _seconds(report: Report) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for route, measured in report.latencies.items():
        figures[f"{route}_p50_s"] = measured.p50_s if measured else None
        figures[f"{route}_p95_s"] = measured.p95_s if measured else None
    return figures


def _parts(costs: CostParts | None) -> dict[str, float | None]:
    names = ("router", "tier1_shipped", "tier1_wasted", "checker", "tier2")
    return {f"{n}_per_1000_usd": getattr(costs, f"{n}_usd") if costs else None for n in names}


def print_report(report: Report, console: Console) -> None:
    """The figures as tables of at most 80 columns."""
    for table in (_comparison_table(report), _tier_table(report), _cost_table(report), _category_table(report)):
        console.print(table)
    console.print(_checker_line(report), highlight=False)
    if report.reasons:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons.most_common())
        console.print(f"Why tickets were escalated: {reasons}", highlight=False, markup=False)
    for title, items in (("Real", report.meta.real), ("Recorded", report.meta.recorded)):
        for item in items:
            console.print(f"{title}: {item}", highlight=False, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, padding=(0, 2, 0, 0)
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", min_width=22 if not number else None)
    return table


def _comparison_table(report: Report) -> Table:
    q, costs = report.quality, report.costs
    table = _table(f"\n{report.tickets} tickets", "", "Headgate", "all-tier-2", "tier-1 alone")
    table.add_row(
        "acceptable answers", *(percent(ratio(n, q.tickets)) for n in (q.acceptable, q.tier2_alone, q.tier1_alone))
    )
    tier1_usd = mean_per_1000([c.tier1_alone for c in report.cases])
    amounts = (costs.total_usd if costs else None, report.cost_all_tier2_usd, tier1_usd)
    table.add_row("cost per 1,000 tickets", *(usd(amount) for amount in amounts))
    if q.tier2_alone is None or q.tier1_alone is None:
        table.caption, table.caption_justify = f"- {NOT_MEASURED}", "left"
    return table


def _tier_table(report: Report) -> Table:
    table = _table("\nWhere the tickets went", "", "tickets", "share", "acceptable", "p50", "p95")
    rows = (("answered by tier-1", "tier1"), ("answered by tier-2", "tier2"), ("  after a tier-1 draft", "escalated"))
    for title, route in rows:
        cases = report.routes[route]
        measured = report.latencies[route]
        seconds = (f"{measured.p50_s:.1f} s", f"{measured.p95_s:.1f} s") if measured else ("-", "-")
        good = percent(quality(cases).share)
        table.add_row(title, str(len(cases)), percent(ratio(len(cases), report.tickets)), good, *seconds)
    for title, count in (("handed to a person", report.handoffs), ("lost", report.lost)):
        table.add_row(title, str(count), percent(ratio(count, report.tickets)))
    table.add_row("dead letters", str(report.dead_letters))
    return table


def _cost_table(report: Report) -> Table:
    table = _table("\nWhat it cost, per 1,000 tickets", "", "", "share")
    costs = report.costs
    for title, amount in costs.named if costs else ():
        table.add_row(title, usd(amount), percent(ratio(amount, costs.total_usd if costs else None)))
    return table


def _category_table(report: Report) -> Table:
    table = _table("\nAcceptable answers by category", "", "tickets", "Headgate", "all-tier-2", "tier-1 alone")
    for name, q in report.quality_by_category.items():
        shares = (percent(ratio(n, q.tickets)) for n in (q.acceptable, q.tier2_alone, q.tier1_alone))
        table.add_row(name, str(q.tickets), *shares)
    return table


def _checker_line(report: Report) -> str:
    bad, shipped = len(report.bad_shipped), len(report.shipped("tier1"))
    refused = sum(c.refused is not None for c in report.cases)
    wrongly = f"{len(report.good_refused)} of {refused} refused drafts were good"
    named = ", ".join(c.example.ticket_id for c in report.bad_shipped)
    return f"\nBad answers shipped from tier-1: {bad} of {shipped}; {wrongly}." + (f"\n  bad: {named}" if bad else "")
