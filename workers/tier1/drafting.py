"""Tier-1 at work: a routed ticket in, a draft out."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec import Struct

from schemas.drafts import Draft
from schemas.tickets import Routed
from workers.errors import PermanentError
from workers.model_calls import model_call
from workers.tier1.engine import ContextExceededError, Engine, Generation, Request
from workers.tier1.metering import BusyMeter, Prices
from workers.tier1.models import Models
from workers.tier1.prompts import CHARS_PER_TOKEN, Fitted, fit

SHORTER_PROMPTS = 3
"""How often a prompt that the engine finds too long is asked again in half the room: an eighth of it is enough even for
a text of two tokens a character."""


class Tier1Config(Struct, frozen=True, kw_only=True):
    """What a ticket is asked with, and at which price."""

    company: str
    passages: Mapping[str, str]
    """Texts of the company's knowledge, by their ids."""
    context_tokens: int
    """The model's window: prompt and answer."""
    max_tokens: int
    """The longest answer."""
    prices: Prices

    def __post_init__(self) -> None:
        """Raises: ValueError if the answer leaves no room for a prompt."""
        if self.max_tokens >= self.context_tokens:
            raise ValueError(f"tier1.max_tokens {self.max_tokens} must be less than tier1.context_tokens")


class _Made(NamedTuple):
    answer: Generation
    cut_chars: int
    calls: int


class Tier1:
    """Asks the engine for one answer a ticket; any number may be in flight."""

    def __init__(self, config: Tier1Config, engine: Engine, models: Callable[[], Models]) -> None:
        """`models` gives those in force, which have been loaded into the engine."""
        self.config = config
        self.engine = engine
        self._models = models
        self._meter = BusyMeter()

    async def answer(self, routed: Routed, priority: int = 0) -> Draft:
        """Draft an answer.

        Raises: RetryableError, PermanentError, WorkerDiedError, as the engine does; PermanentError, too, for a ticket
        that the model's window has no room for.
        """
        started = time.monotonic()
        mark = self._meter.start(started)
        share_s = 0.0
        try:
            made = await self._made(routed, priority)
        finally:
            share_s = self._meter.stop(mark, time.monotonic())
        costs = self.config.prices.costs(share_s, made.answer.usage)
        return Draft(
            routed=routed,
            tier="tier1",
            text=made.answer.text,
            finish_reason=made.answer.finish_reason,
            model=made.answer.model,
            provider="tier1",
            usage=made.answer.usage,
            logprobs=made.answer.logprobs,
            cost_usd=costs.cost_usd,
            cost_per_hour_usd=costs.per_hour_usd,
            cost_per_token_usd=costs.per_token_usd,
            engine_s=share_s,
            cut_chars=made.cut_chars,
            duration_s=time.monotonic() - started,
            calls=made.calls,
        )

    async def _made(self, routed: Routed, priority: int) -> _Made:
        """Ask, and again with a shorter prompt while it is too long."""
        model = self._models().pick(routed.ticket.ticket_id)
        room_chars = (self.config.context_tokens - self.config.max_tokens) * CHARS_PER_TOKEN
        refused: Fitted | None = None
        for calls in range(1, 2 + SHORTER_PROMPTS):
            prompt = self.prompt(routed, room_chars)
            if prompt == refused:
                # Only what stays whole is left.
                break
            request = Request(
                messages=prompt.messages, model=model, max_tokens=self.config.max_tokens, priority=priority
            )
            try:
                return _Made(await self._generated(request), prompt.cut_chars, calls)
            except ContextExceededError:
                refused = prompt
                # Of what it took, if that was less: a short text may have many tokens, too.
                room_chars = min(room_chars, prompt.chars) // 2
        raise PermanentError(f"tier-1: a prompt of {prompt.chars} characters, as short as can be, exceeds the window")

    async def _generated(self, request: Request) -> Generation:
        with model_call("tier1", request.model.name, request.max_tokens) as seen:
            made = await self.engine.generate(request)
            seen.answered(made.model, made.finish_reason, made.usage)
        return made

    def prompt(self, routed: Routed, room_chars: int) -> Fitted:
        """The ticket's prompt, with the passages that the router picked. One that is no longer known is left out."""
        texts = self.config.passages
        picked = [texts[passage] for passage in routed.decision.passages if passage in texts]
        return fit(routed.ticket, self.config.company, picked, room_chars)
