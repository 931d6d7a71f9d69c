"""The tier-1 engine's protocol: what every engine does, whatever runs the model."""

from typing import Protocol

from msgspec import Struct

from schemas.drafts import LogProbs, Usage
from workers.tier1.prompts import ChatMessage


class Generation(Struct, frozen=True, kw_only=True):
    """What an engine made of one prompt."""

    text: str
    finish_reason: str
    model: str
    usage: Usage
    logprobs: LogProbs | None


class Engine(Protocol):
    """Generates answers, many at a time; batching is the engine's own business."""

    async def generate(self, prompt: list[ChatMessage], max_tokens: int) -> Generation:
        """One answer to one prompt, greedily decoded.

        Raises: RetryableError if the engine is busy, gone or slow; PermanentError if it rejects the prompt.
        """
        ...

    async def ready(self) -> bool:
        """Whether a prompt would be taken now."""
        ...

    def saturated(self) -> bool:
        """Whether it has said that it is full, or is gone, and its time to recover is not over: send nothing new."""
        ...
