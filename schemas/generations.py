"""What a model's engine or provider reports of an answer that it generated."""

from msgspec import Struct


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
