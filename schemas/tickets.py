"""A ticket as a helpdesk publishes it, and as the router sends it on."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, NewType

from msgspec import Meta, Struct

from schemas.generations import LogProbs

TicketId = NewType("TicketId", str)
TicketKey = tuple[str, str]
"""Tenant and ticket_id: what names a ticket."""
Tier = Literal["tier1", "tier2"]
Moment = Annotated[datetime, Meta(tz=True)]
"""A point in time. Without a time zone it would be none, so that a record that leaves it out can't be read."""


class Message(Struct, frozen=True, kw_only=True):
    """An earlier message of the ticket's conversation."""

    author: Literal["customer", "agent"]
    body: str


class Ticket(Struct, frozen=True, kw_only=True):
    """A customer's question. Only ticket_id and body are required of a helpdesk."""

    ticket_id: Annotated[TicketId, Meta(min_length=1, max_length=256)]
    body: Annotated[str, Meta(min_length=1)]
    subject: str = ""
    tenant: str = "default"
    customer_id: str = ""
    created_at: Moment | None = None
    channel: str = ""
    language: str = ""
    """BCP 47 tag of the customer's language; empty where the helpdesk doesn't know."""
    thread: tuple[Message, ...] = ()
    context: tuple[str, ...] = ()
    """Passages or account facts that the helpdesk wants the answer to use."""
    deadline: Moment | None = None
    metadata: dict[str, str] = {}
    """The helpdesk's own keys, handed back with the answer. `tier` = tier1 or tier2 forces a tier."""


class RouteReason(StrEnum):
    """Why the router chose a tier, in the order in which the policy asks."""

    FORCED = "forced"
    """The helpdesk named the tier in the ticket's metadata."""
    VIP = "vip"
    """The policy gives this customer tier-2 always."""
    LANGUAGE = "language"
    """Tier-1 was not trained for the ticket's language: tier-2."""
    TOO_LONG = "too_long"
    """More text than the policy lets tier-1 answer: tier-2."""
    NO_TEXT = "no_text"
    """The customer wrote no word that the model can read: tier-2."""
    OUT_OF_SCOPE = "out_of_scope"
    """Unlike the tickets that the model learned from, so its p_ok means little: tier-2."""
    UNCERTIFIED = "uncertified"
    """The policy doesn't let tier-1 answer this category yet: tier-2."""
    CONFIDENT = "confident"
    """p_ok reaches the category's threshold: tier-1."""
    LITTLE_GAIN = "little_gain"
    """p_ok is below the threshold, but tier-2 would hardly do better: tier-1, and the checker looks as always."""
    BUDGET = "budget"
    """The score says tier-2, whose share of the tickets is used up: tier-1."""
    UNLABELLED = "unlabelled"
    """The model was trained on no outcomes, so its p_ok means nothing: tier-2."""
    UNCERTAIN = "uncertain"
    """p_ok is below the category's threshold: tier-2."""


class Decision(Struct, frozen=True, kw_only=True):
    """What the router decided, on what grounds and under which policy."""

    tier: Tier
    reason: RouteReason
    p_ok: float
    """Estimated probability that tier-1's answer would be acceptable, 0 to 1."""
    category: str
    p_category: float
    threshold: float
    propensity: float
    """Probability that the ticket was drawn for an audit, 0 to 1; 0 where a rule keeps it from tier-1."""
    policy_version: str
    cost_usd: float
    passages: tuple[str, ...] = ()
    """Ids of the company's knowledge passages that the ticket seems to be about, likeliest first."""
    p_ok_tier2: float | None = None
    """Estimated probability that tier-2's answer would be acceptable, 0 to 1."""
    gain: float | None = None
    """Estimated probability that tier-2's answer would be acceptable and tier-1's not, 0 to 1."""
    in_scope: float | None = None
    """Share of past tickets at least as unlike the others as this one is, 0 to 1: 1 is ordinary, near 0 strange."""
    model_version: str = ""
    """The router model that gave the scores: the start of its file's sha256."""
    audited: bool = False
    """Drawn: when the ticket ends, tier-1's draft goes to the judge, whatever became of it."""

    @property
    def in_shadow(self) -> bool:
        """Whether tier-1 drafts an answer that nobody is sent, so that its label comes in: tier-2 answers."""
        return self.audited and self.tier == "tier2"


class Attempt(Struct, frozen=True, kw_only=True):
    """A draft that was not shipped: what it was and why it was refused."""

    tier: Tier
    text: str
    reason: str
    score: float | None
    cost_usd: float
    duration_s: float
    scorer: str = ""
    """The checker's scorer that gave the score."""
    model: str = ""
    finish_reason: str = ""
    logprobs: LogProbs | None = None


class Routed(Struct, frozen=True, kw_only=True):
    """A ticket on its way to a tier, with all that was decided so far."""

    ticket: Ticket
    decision: Decision
    received_at: Moment
    """When the ticket's record was written to the tickets topic (its Kafka timestamp)."""
    attempts: tuple[Attempt, ...] = ()
    """Drafts that were not shipped, oldest first."""
    checker_cost_usd: float = 0.0
