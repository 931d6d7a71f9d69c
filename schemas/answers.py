"""What leaves Headgate: an answer for the customer, or a handoff to a person."""

from enum import StrEnum

from msgspec import Struct

from schemas.tickets import Attempt, Decision, Moment, Ticket, TicketId, Tier


class GateReason(StrEnum):
    """Why a draft was refused."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    REFUSAL = "refusal"
    PLACEHOLDER = "placeholder"
    WRONG_LANGUAGE = "wrong_language"
    PERSONAL_DATA = "personal_data"
    UNFOUNDED_PROMISE = "unfounded_promise"
    INJECTION_ECHO = "injection_echo"
    LOW_SCORE = "low_score"
    SHADOW = "shadow"
    """Nothing is wrong with it: tier-2 was to answer anyway, or nothing of the category is certified."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What the checker found about one draft."""

    accepted: bool
    reasons: tuple[GateReason, ...]
    """Empty when accepted."""
    score: float | None
    """Estimated probability that the draft is acceptable; None where only the gates apply (tier-2)."""
    threshold: float | None
    policy_version: str
    cost_usd: float
    scorer: str = ""
    """The scorer that gave the score."""


class Costs(Struct, frozen=True, kw_only=True):
    """What one ticket cost, by part, in dollars."""

    router_usd: float
    tier1_usd: float
    """Refused tier-1 drafts included."""
    checker_usd: float
    tier2_usd: float

    @property
    def total_usd(self) -> float:
        return self.router_usd + self.tier1_usd + self.checker_usd + self.tier2_usd


class Answer(Struct, frozen=True, kw_only=True):
    """An accepted answer: what the helpdesk sends to its customer."""

    ticket_id: TicketId
    tenant: str
    customer_id: str
    text: str
    tier: Tier
    model: str
    category: str
    language: str
    decision: Decision
    verdict: Verdict
    attempts: tuple[Attempt, ...]
    """Drafts that were not shipped before this one."""
    costs: Costs
    received_at: Moment
    answered_at: Moment
    metadata: dict[str, str] = {}
    instead_of: str = ""
    """The model that was to answer, where a spend limit left no more for it; empty if `model` is the one."""


class HandoffReason(StrEnum):
    """Why a person must answer."""

    TIER2_REFUSED = "tier2_refused_by_checker"
    TIER2_UNAVAILABLE = "tier2_unavailable"
    TIER2_REJECTED = "tier2_rejected_request"
    SPEND_LIMIT = "spend_limit"


class Handoff(Struct, frozen=True, kw_only=True):
    """A ticket that a person must answer, with what was tried and why it was not enough."""

    ticket: Ticket
    reason: HandoffReason
    detail: str
    decision: Decision
    attempts: tuple[Attempt, ...]
    costs: Costs
    received_at: Moment
    handed_off_at: Moment
