"""What the log knows of each ticket of a window, put together from the stages' events and the audits' labels."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from schemas.events import Event
from schemas.labels import AUDIT_SOURCES, Label
from schemas.tickets import Moment, RouteReason, TicketKey, Tier

ENDS_WITHIN = timedelta(days=1)
"""A ticket of the window that takes longer counts as unfinished; a provider's batch takes up to a day."""


class LeftOut(StrEnum):
    """Why a ticket of the window is in no figure."""

    UNFINISHED = "tickets without an answer or a handoff within a day of the window"
    REPEATED = "tickets that were routed again: the first time counts"


class Drafted(NamedTuple):
    """Tier-1's draft as the checker found it."""

    score: float | None
    """None where a gate refused it."""
    model: str
    scorer: str
    """Empty where the event doesn't say."""
    policy_version: str
    """The policy that judged it."""
    at: datetime


class Spent(NamedTuple):
    """What a ticket cost, in dollars."""

    router_usd: float = 0.0
    tier1_usd: float = 0.0
    tier1_check_usd: float = 0.0
    tier2_usd: float = 0.0
    tier2_check_usd: float = 0.0
    judge_usd: float = 0.0


class Logged(Struct, frozen=True, kw_only=True):
    """A ticket, as the log has it."""

    key: TicketKey
    at: Moment
    """When it was routed."""
    category: str
    p_ok: float
    p_ok_tier2: float
    in_scope: float
    tier: Tier
    reason: RouteReason
    propensity: float
    """Probability that it was drawn for an audit."""
    audited: bool
    policy_version: str
    router_model: str
    draft: Drafted | None = None
    """None where tier-1 wasn't asked, or was away."""
    shipped: bool = False
    """Whether the customer got tier-1's draft."""
    ended: bool = False
    spent: Spent = Spent()
    acceptable: bool | None = None
    """Tier-1's draft, by the label of its audit; None where it has none."""


class Log:
    """The window's tickets, as their events come. Events of one ticket must come in their order; each counts once, and
    only those of the way on which the ticket was first routed: a backfill's are others."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self._start, self._end = start, end
        self._tickets: dict[TicketKey, Logged] = {}
        self._replay_ids: dict[TicketKey, str] = {}
        self._counted: set[str] = set()
        self._labels: dict[TicketKey, Label] = {}
        self._repeated = 0

    def add(self, event: Event) -> None:
        key = (event.tenant, event.ticket_id)
        if event.stage == "router":
            if (
                event.outcome == "routed"
                and self._start <= event.at < self._end
                and event.event_id not in self._counted
            ):
                self._counted.add(event.event_id)
                self._repeated += key in self._tickets
                self._tickets.setdefault(key, _routed(key, event))
                self._replay_ids.setdefault(key, event.replay_id)
        elif self._replay_ids.get(key) == event.replay_id and event.event_id not in self._counted:
            self._counted.add(event.event_id)
            self._tickets[key] = after(self._tickets[key], event)

    def add_label(self, label: Label) -> None:
        """Of a draft the latest label of an audit counts; others are of tickets that chose themselves."""
        key = (label.tenant, label.ticket_id)
        if label.tier == "tier1" and label.source in AUDIT_SOURCES:
            before = self._labels.get(key)
            if before is None or label.at >= before.at:
                self._labels[key] = label

    def tickets(self) -> list[Logged]:
        """Those that ended, in the order in which they were routed."""
        ended = sorted((t for t in self._tickets.values() if t.ended), key=lambda t: (t.at, t.key))
        # A backfill may have drawn a ticket that was not drawn before: its label is of another draft.
        judged = {t.key: self._labels[t.key].acceptable for t in ended if t.audited and t.key in self._labels}
        return [replace(t, acceptable=judged.get(t.key)) for t in ended]

    def left_out(self) -> dict[str, int]:
        """How many tickets are not among `tickets`, by the reason."""
        unfinished = sum(not ticket.ended for ticket in self._tickets.values())
        found = {LeftOut.UNFINISHED: unfinished, LeftOut.REPEATED: self._repeated}
        return {str(reason): count for reason, count in found.items() if count}


def _routed(key: TicketKey, event: Event) -> Logged:
    return Logged(
        key=key,
        at=event.at,
        category=event.category,
        p_ok=event.p_ok or 0.0,
        # Events of the first days have neither: as the policy takes a model that says nothing of them.
        p_ok_tier2=1.0 if event.p_ok_tier2 is None else event.p_ok_tier2,
        in_scope=1.0 if event.in_scope is None else event.in_scope,
        tier="tier1" if event.tier == "tier1" else "tier2",
        reason=RouteReason(event.reasons[0]),
        propensity=event.propensity or 0.0,
        audited=event.audited,
        policy_version=event.policy_version,
        router_model=event.model,
        spent=Spent(router_usd=event.cost_usd),
    )


def after(ticket: Logged, event: Event) -> Logged:
    """What is known of a ticket with a stage's event."""
    spent = ticket.spent
    match event.stage:
        case "tier1":
            return replace(ticket, spent=spent._replace(tier1_usd=spent.tier1_usd + event.cost_usd))
        case "judge":
            return replace(ticket, spent=spent._replace(judge_usd=spent.judge_usd + event.cost_usd))
        case "checker" if event.tier == "tier1":
            return replace(
                ticket,
                draft=Drafted(event.score, event.model, event.scorer, event.policy_version, event.at),
                shipped=event.outcome == "answered",
                ended=ticket.ended or event.outcome == "answered",
                spent=spent._replace(tier1_check_usd=spent.tier1_check_usd + event.cost_usd),
            )
        case "checker":
            spent = spent._replace(tier2_check_usd=spent.tier2_check_usd + event.cost_usd)
        case _:
            spent = spent._replace(tier2_usd=spent.tier2_usd + event.cost_usd)
    return replace(ticket, ended=ticket.ended or event.outcome in ("answered", "handed_off"), spent=spent)
