"""One published ticket with all that a report wants to know of it, and the figures of many: plain counting."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.answers import Answer
from schemas.tickets import Tier
from streams.reporting.tally import Ending, is_escalated
from workers.learning.company import Example
from workers.learning.rubric import Grade

PER = 1_000
"""Tickets that costs are given for."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same ticket through one tier alone."""

    acceptable: bool
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Case:
    """One published ticket and what became of it."""

    example: Example
    ending: Ending | None
    """None if it was given up or lost."""
    dead_lettered: bool
    grade: Grade | None
    """The answer's; None where there is no answer."""
    refused: Grade | None
    """The refused tier-1 draft's; None where there was none."""
    tier1_alone: Comparison | None
    tier2_alone: Comparison | None

    @property
    def acceptable(self) -> bool:
        """Whether the customer got an acceptable answer; a handoff is none."""
        return self.grade is not None and self.grade.acceptable

    @property
    def tier(self) -> Tier | None:
        """Where the answer came from."""
        return self.ending.tier if isinstance(self.ending, Answer) else None

    @property
    def escalated(self) -> bool:
        return self.ending is not None and is_escalated(self.ending)

    @property
    def lost(self) -> bool:
        """Neither answered, nor handed off, nor among the dead letters: must never happen."""
        return self.ending is None and not self.dead_lettered


@dataclass(frozen=True, slots=True)
class Quality:
    """Acceptable answers of some tickets, and of the same tickets through either tier alone.

    None where a comparison was not measured on every one of them: on part of
    them it would mislead, since the tickets that reach a tier are not drawn at random.
    """

    tickets: int
    acceptable: int
    tier2_alone: int | None
    tier1_alone: int | None

    @property
    def share(self) -> float | None:
        return ratio(self.acceptable, self.tickets)


@dataclass(frozen=True, slots=True)
class CostParts:
    """What tickets cost, by what it was spent on, in dollars."""

    router_usd: float
    tier1_shipped_usd: float
    tier1_wasted_usd: float
    """Drafts that were refused."""
    checker_usd: float
    tier2_usd: float

    @property
    def total_usd(self) -> float:
        return self.router_usd + self.tier1_shipped_usd + self.tier1_wasted_usd + self.checker_usd + self.tier2_usd

    @property
    def named(self) -> list[tuple[str, float]]:
        """Every part by its name for people, in the order a ticket travels."""
        return [
            ("router", self.router_usd),
            ("tier-1, shipped", self.tier1_shipped_usd),
            ("tier-1, refused", self.tier1_wasted_usd),
            ("checker", self.checker_usd),
            ("tier-2", self.tier2_usd),
        ]


def quality(cases: Sequence[Case]) -> Quality:
    """How many tickets were answered well."""
    return Quality(
        tickets=len(cases),
        acceptable=sum(c.acceptable for c in cases),
        tier2_alone=_all_acceptable([c.tier2_alone for c in cases]),
        tier1_alone=_all_acceptable([c.tier1_alone for c in cases]),
    )


def _all_acceptable(compared: Sequence[Comparison | None]) -> int | None:
    known = [c.acceptable for c in compared if c is not None]
    return sum(known) if len(known) == len(compared) else None


def cost_parts_per_1000(endings: Sequence[Ending]) -> CostParts | None:
    """Mean cost per 1,000 tickets, part by part; None of no tickets."""
    if not endings:
        return None
    wasted = [_wasted_usd(e) for e in endings]
    costs = [e.costs for e in endings]

    def mean(amounts: Iterable[float]) -> float:
        return math.fsum(amounts) / len(endings) * PER

    return CostParts(
        router_usd=mean(c.router_usd for c in costs),
        tier1_shipped_usd=mean(c.tier1_usd - w for c, w in zip(costs, wasted, strict=True)),
        tier1_wasted_usd=mean(wasted),
        checker_usd=mean(c.checker_usd for c in costs),
        tier2_usd=mean(c.tier2_usd for c in costs),
    )


def _wasted_usd(ending: Ending) -> float:
    return math.fsum(a.cost_usd for a in ending.attempts if a.tier == "tier1")


def mean_per_1000(compared: Sequence[Comparison | None]) -> float | None:
    """Mean cost per 1,000 tickets through one tier alone; None unless measured on all of them."""
    known = [c.cost_usd for c in compared if c is not None]
    return math.fsum(known) / len(known) * PER if known and len(known) == len(compared) else None


def cost_of(case: Case) -> float | None:
    """One ticket's cost in dollars; None where no record tells."""
    return case.ending.costs.total_usd if case.ending else None


def ratio(part: float | None, whole: float | None) -> float | None:
    """None where one of them is not measured, or the whole is nothing."""
    return part / whole if part is not None and whole else None


def interval(successes: int, trials: int) -> tuple[float, float] | None:
    """95% confidence interval of a share. Source: Wilson, 1927."""
    if not trials:
        return None
    z = 1.96
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return (centre - spread) / scale, (centre + spread) / scale


def percent(share: float | None) -> str:
    """A share for people. Only nothing reads 0%, and only a whole 100%."""
    if share is None:
        return "-"
    return f"{share:.1%}" if 0 < share < 0.005 or 0.995 <= share < 1 else f"{share:.0%}"


def usd(amount: float | None) -> str:
    """Dollars for people: cents, or three significant digits of less than a dollar."""
    if amount is None:
        return "-"
    digits = 2 if amount >= 1 or amount <= 0 else 2 - math.floor(math.log10(amount))
    return f"${amount:,.{digits}f}"
