"""A ticket as a helpdesk publishes it, and as the router sends it on."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, NewType

from msgspec import Meta, Struct

TicketId = NewType("TicketId", str)
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
    """Why the router chose a tier."""

    CONFIDENT = "confident"
    UNCERTAIN = "uncertain"
    FORCED = "forced"
    TOO_LONG = "too_long"
    LANGUAGE = "language"
    EXPLORATION = "exploration"
    UNCERTIFIED = "uncertified"


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
    """Probability that this ticket took this tier under the policy in force, 0 to 1."""
    policy_version: str
    cost_usd: float
    passages: tuple[str, ...] = ()
    """Ids of the company's knowledge passages that the ticket seems to be about, likeliest first."""


class Attempt(Struct, frozen=True, kw_only=True):
    """A draft that was not shipped: what it was and why it was refused."""

    tier: Tier
    text: str
    reason: str
    score: float | None
    cost_usd: float
    duration_s: float


class Routed(Struct, frozen=True, kw_only=True):
    """A ticket on its way to a tier, with all that was decided so far."""

    ticket: Ticket
    decision: Decision
    received_at: Moment
    """When the ticket's record was written to the tickets topic (its Kafka timestamp)."""
    attempts: tuple[Attempt, ...] = ()
    """Refused drafts, oldest first: not empty means that this is an escalation."""
    checker_cost_usd: float = 0.0
