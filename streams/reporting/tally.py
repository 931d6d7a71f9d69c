"""Running totals of a run, from the records that leave Headgate.

Kafka may hand us a record twice (a reader that starts again), so records are
kept by ticket_id and events by event_id: the same record twice counts once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from schemas.answers import Answer, Costs, GateReason, Handoff
from schemas.events import Event
from schemas.tickets import Attempt, TicketId, Tier

Ending = Answer | Handoff
"""How a ticket leaves Headgate."""


@dataclass(frozen=True, slots=True)
class Latency:
    """From the ticket's record on the tickets topic to its answer, over some answers."""

    answers: int
    p50_s: float
    p95_s: float


@dataclass
class Tally:
    """What has been seen so far. The publisher adds to `published`, who reads the dead letters to `dead_letters`."""

    tickets: frozenset[TicketId] | None = None
    """The run's tickets: a record of any other (an earlier run's, a stranger's) is left out. None counts all."""
    published: int = 0
    dead_letters: int = 0
    """Records on the dead-letters topic; they need not be tickets of this run, see `dead_lettered`."""
    answers: dict[TicketId, Answer] = field(default_factory=dict)
    handoffs: dict[TicketId, Handoff] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)

    def add(self, record: Ending | Event) -> None:
        """Count a record, if it is of this run and has not been counted before."""
        if self.tickets is not None and _ticket_of(record) not in self.tickets:
            return
        match record:
            case Answer():
                self.answers.setdefault(record.ticket_id, record)
            case Handoff():
                self.handoffs.setdefault(record.ticket.ticket_id, record)
            case Event():
                self.events.setdefault(record.event_id, record)

    @property
    def endings(self) -> list[Ending]:
        return [*self.answers.values(), *self.handoffs.values()]

    @property
    def dead_lettered(self) -> frozenset[TicketId]:
        """Tickets given up for good, by the events that say so."""
        given_up = dead_lettered(self.events.values())
        return given_up - self.answers.keys() - self.handoffs.keys()

    @property
    def finished(self) -> int:
        """Tickets that are answered, handed off or given up: all published ones, once a run is done."""
        return len(self.answers) + len(self.handoffs) + len(self.dead_lettered)

    @property
    def in_progress(self) -> int:
        return max(0, self.published - self.finished)

    @property
    def escalated(self) -> int:
        return sum(is_escalated(e) for e in self.endings)

    @property
    def reasons(self) -> Counter[str]:
        """Why tier-1 drafts were refused."""
        return escalation_reasons(self.endings)

    @property
    def costs(self) -> Costs:
        return total_costs(self.endings)

    @property
    def all_tier2_estimate_usd(self) -> float | None:
        """An estimate: what the finished tickets would cost on tier-2 alone, at the mean price of its calls so far.

        None before the first of them. The tickets that reach tier-2 are the harder ones, so this is rather too high.
        """
        paid = [e.costs.tier2_usd for e in self.endings if e.costs.tier2_usd > 0]
        return sum(paid) / len(paid) * len(self.endings) if paid else None

    def answered_by(self, tier: Tier) -> list[Answer]:
        return [a for a in self.answers.values() if a.tier == tier]

    def outcomes(self) -> Counter[tuple[str, str]]:
        """How many events of each stage and outcome."""
        return Counter((e.stage, e.outcome) for e in self.events.values())


def _ticket_of(record: Ending | Event) -> TicketId:
    return record.ticket.ticket_id if isinstance(record, Handoff) else record.ticket_id


def dead_lettered(events: Iterable[Event]) -> frozenset[TicketId]:
    """The tickets that a stage gave up."""
    return frozenset(e.ticket_id for e in events if e.outcome == "dead_lettered")


def refused_drafts(ending: Ending) -> list[Attempt]:
    """Tier-1's, which kept the ticket from being answered; none that was made in the shadow, and never to be sent."""
    return [a for a in ending.attempts if a.tier == "tier1" and a.reason != GateReason.SHADOW]


def is_escalated(ending: Ending) -> bool:
    """Whether tier-1 was tried and its draft not shipped."""
    return bool(refused_drafts(ending))


def escalation_reasons(endings: Iterable[Ending]) -> Counter[str]:
    """Each reason for which a tier-1 draft was refused; a draft may have several."""
    return Counter(reason for e in endings for a in refused_drafts(e) for reason in a.reason.split(",") if reason)


def total_costs(endings: Iterable[Ending]) -> Costs:
    """The sum of what tickets cost, part by part."""
    costs = [e.costs for e in endings]
    return Costs(
        router_usd=math.fsum(c.router_usd for c in costs),
        tier1_usd=math.fsum(c.tier1_usd for c in costs),
        checker_usd=math.fsum(c.checker_usd for c in costs),
        tier2_usd=math.fsum(c.tier2_usd for c in costs),
    )


def latency(answers: Iterable[Answer]) -> Latency | None:
    """Median and 95th percentile; None of no answers."""
    seconds = sorted(latency_s(a) for a in answers)
    return Latency(len(seconds), quantile(seconds, 0.5), quantile(seconds, 0.95)) if seconds else None


def latency_s(answer: Answer) -> float:
    """From the ticket's record on the tickets topic to the answer."""
    return (answer.answered_at - answer.received_at).total_seconds()


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of ascending values: one that really occurred. Raises: IndexError if there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
