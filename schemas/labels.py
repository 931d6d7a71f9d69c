"""What is learned about answers after the fact: labels from audits, feedback from helpdesks."""

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from schemas.tickets import Moment, TicketId, Tier

AuditSource = Literal["rubric", "judge", "person"]
"""Who judges what was drawn for an audit."""

AUDIT_SOURCES: tuple[AuditSource, ...] = get_args(AuditSource)
"""Their labels are a random sample. Those of feedback and escalations are of tickets that chose themselves."""


class Label(Struct, frozen=True, kw_only=True):
    """Whether a tier's draft was acceptable, who says so, and how likely it was to be labelled at all.

    Tenant and ticket_id together name the ticket; a ticket has at most one label in force a tier: the latest.
    """

    ticket_id: TicketId
    category: str
    acceptable: bool
    source: Literal[AuditSource, "escalation", "feedback"]
    propensity: Annotated[float, Meta(gt=0.0, le=1.0)]
    at: Moment
    p_ok: float | None = None
    score: float | None = None
    """The checker's; None where a gate refused the draft, or tier-2 wrote it."""
    scorer: str = ""
    """The scorer that gave it: scores of another can't be compared."""
    policy_version: str = ""
    tenant: str = "default"
    tier: Tier = "tier1"
    """The tier whose draft was judged."""
    shipped: bool | None = None
    """Whether the customer got that draft; None where nobody knows."""
    judge: str = ""
    """Who judged: errors are measured by this name."""
    model: str = ""
    """The model that wrote the draft."""
    model_version: str = ""
    """The router model that gave p_ok."""
    why: str = ""
    """Why a helpdesk found it not acceptable, in words."""


class Feedback(Struct, frozen=True, kw_only=True):
    """What the helpdesk saw happen after an answer. Tenant and ticket_id together name the ticket."""

    ticket_id: TicketId
    at: Moment
    reopened: bool = False
    edited_text: str | None = None
    """What was sent instead of the answer."""
    rating: Annotated[int, Meta(ge=1, le=5)] | None = None
    """The customer's; 5 is best."""
    tenant: str = "default"
