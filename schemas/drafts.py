"""A tier's candidate answer, on its way to the checker."""

from msgspec import Struct

from schemas.tickets import Routed, Tier


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens as the engine or the provider reported them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """The part of prompt_tokens that was read from a prompt cache."""
    cache_write_tokens: int = 0
    """The part of prompt_tokens that was written to a prompt cache."""


class LogProbs(Struct, frozen=True, kw_only=True):
    """The answer's token log-probabilities, summarised: natural logarithms, all <= 0."""

    mean: float
    minimum: float
    q10: float
    q50: float
    tokens: int


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
    calls: int = 1
    """Calls made for this draft, failed ones included."""
