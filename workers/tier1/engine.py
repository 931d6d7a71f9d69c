"""The tier-1 engine's protocol: what every engine does, whatever runs the model."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from schemas.generations import LogProbs, Usage
from workers.errors import PermanentError
from workers.tier1.models import ServedModel
from workers.tier1.prompts import ChatMessage


class Request(Struct, frozen=True, kw_only=True):
    """One prompt for one answer, greedily decoded."""

    messages: Sequence[ChatMessage]
    model: ServedModel
    max_tokens: int
    priority: int = 0
    """Among the requests that wait in the engine the smaller goes first, where the engine knows priorities."""
    schema: Mapping[str, Any] | None = None
    """A JSON Schema that the answer must follow; None is free text."""


class Generation(Struct, frozen=True, kw_only=True):
    """What an engine made of one prompt."""

    text: str
    finish_reason: str
    model: str
    """The served model's name."""
    usage: Usage
    logprobs: LogProbs | None


class ContextExceededError(PermanentError):
    """The prompt and the longest answer don't fit into the model's window; a shorter prompt may."""


class Engine(Protocol):
    """Generates answers, many at a time; batching is the engine's own business. A cancelled call is aborted in the
    engine, too: nobody pays for an answer that nobody waits for."""

    async def generate(self, request: Request) -> Generation:
        """One answer to one prompt.

        Raises: ContextExceededError; PermanentError if the engine rejects the prompt; RetryableError if it is busy or
        slow, or a server that may come back; WorkerDiedError if it lives in this process and is dead.
        """
        ...

    async def load(self, models: Sequence[ServedModel]) -> None:
        """Make these models ready to be asked; those that are ready stay so.

        Raises: ValueError naming the model that can't be served.
        """
        ...

    async def ready(self) -> bool:
        """Whether a prompt would be taken now."""
        ...

    def saturated(self) -> bool:
        """Whether it is full, or is gone and its time to recover is not over: send nothing new."""
        ...
