"""The canonical event: one fact per ticket and stage, written in the stage's own transaction."""

from typing import Literal

from msgspec import Struct

from schemas.tickets import Moment, TicketId

StageName = Literal["router", "tier1", "tier2", "checker", "judge"]
Outcome = Literal[
    "routed",
    "drafted",
    "answered",
    "escalated",
    "handed_off",
    "judged",
    "not_judged",
    "dead_lettered",
    "duplicate",
]


class Event(Struct, frozen=True, kw_only=True):
    """What one stage did with one ticket. Holds no ticket text and no answer text."""

    event_id: str
    """Derived from the input record's topic, partition and offset: the same record gives the same id."""
    at: Moment
    stage: StageName
    outcome: Outcome
    ticket_id: TicketId
    tenant: str = ""
    category: str = ""
    tier: str = ""
    reasons: tuple[str, ...] = ()
    p_ok: float | None = None
    score: float | None = None
    scorer: str = ""
    """The scorer that gave it: scores of another can't be compared."""
    p_ok_tier2: float | None = None
    gain: float | None = None
    in_scope: float | None = None
    cut_chars: int = 0
    """Characters of the ticket's text that the router's model didn't read; 0 means that it read all."""
    shadow_version: str = ""
    """The candidate model that scored the same ticket beside the one in force; empty where there is none."""
    shadow_p_ok: float | None = None
    shadow_tier: str = ""
    """The tier that the candidate would have chosen."""
    propensity: float | None = None
    """Probability that the ticket was drawn for an audit."""
    audited: bool = False
    policy_version: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_cut_chars: int = 0
    """Characters of the ticket and of the passages that didn't fit into the tier's prompt."""
    calls: int = 0
    cost_usd: float = 0.0
    """This stage's own cost of this ticket."""
    cost_per_hour_usd: float | None = None
    """What tier-1 costs by its engine's price per hour; `cost_usd` is this one or the next."""
    cost_per_token_usd: float | None = None
    """What tier-1 costs by the tokens' price; None where they have none."""
    engine_s: float = 0.0
    """This ticket's share of the time that tier-1's engine was busy."""
    exposure_usd: float = 0.0
    """What calls whose outcome is unknown may have cost on top, at most."""
    instead_of: str = ""
    """The model that was to answer, where a spend limit left no more for it."""
    duration_s: float = 0.0
    """This stage's own work on this ticket."""
    age_s: float = 0.0
    """From the ticket's record on the tickets topic to this event."""
    replay_id: str = ""
    """Which backfill put the ticket on the slow lane; its age is then from there. Empty for the ticket as it came."""
