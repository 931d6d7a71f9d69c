"""A tier's candidate answer, on its way to the checker."""

from msgspec import Struct

from schemas.generations import LogProbs, Usage
from schemas.tickets import Routed, Tier


class Draft(Struct, frozen=True, kw_only=True):
    """An answer that nobody has seen yet."""

    routed: Routed
    tier: Tier
    text: str
    finish_reason: str
    """stop, length, content_filter or refusal, whichever wire format it came over."""
    model: str
    provider: str
    usage: Usage
    logprobs: LogProbs | None
    """None where the engine gives none."""
    cost_usd: float
    duration_s: float
    """From the first call to the answer, waits and retries included."""
    cost_per_hour_usd: float | None = None
    """Tier-1: the cost by the engine's price per hour; `cost_usd` is this one or the next, as the settings say."""
    cost_per_token_usd: float | None = None
    """Tier-1: the cost by the tokens' price; None where they have none."""
    engine_s: float = 0.0
    """Tier-1: its share of the time that the engine was busy."""
    cut_chars: int = 0
    """Characters of the ticket and of the passages that didn't fit into the model's window."""
    calls: int = 1
    """Calls made for this draft, failed ones included."""
    exposure_usd: float = 0.0
    """What calls whose outcome is unknown may have cost on top, at most: they were cut off, or their answers broken."""
    instead_of: str = ""
    """The model that was to answer, where a spend limit left no more for it; empty if this is the one."""
