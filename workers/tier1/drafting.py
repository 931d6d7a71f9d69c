"""Tier-1 at work: a routed ticket in, a draft out."""

import time
from collections.abc import Sequence

from schemas.drafts import Draft
from schemas.tickets import Routed
from workers.knowledge import Passage
from workers.tier1.engine import Engine
from workers.tier1.metering import BusyMeter
from workers.tier1.prompts import ChatMessage, chat


class Tier1:
    """Asks the engine for one answer a ticket; any number may be in flight."""

    def __init__(
        self, engine: Engine, company: str, knowledge: Sequence[Passage], max_tokens: int, usd_per_hour: float
    ) -> None:
        self.engine = engine
        self.company = company
        self.passages = {passage.id: passage.text for passage in knowledge}
        self.max_tokens = max_tokens
        self.usd_per_hour = usd_per_hour
        self._meter = BusyMeter()

    async def answer(self, routed: Routed) -> Draft:
        """Draft an answer.

        Raises: RetryableError, PermanentError, as the engine does.
        """
        started = time.monotonic()
        mark = self._meter.start(started)
        share_s = 0.0
        try:
            made = await self.engine.generate(self.prompt(routed), self.max_tokens)
        finally:
            share_s = self._meter.stop(mark, time.monotonic())
        return Draft(
            routed=routed,
            tier="tier1",
            text=made.text,
            finish_reason=made.finish_reason,
            model=made.model,
            provider="tier1",
            usage=made.usage,
            logprobs=made.logprobs,
            cost_usd=share_s * self.usd_per_hour / 3600,
            duration_s=time.monotonic() - started,
        )

    def prompt(self, routed: Routed) -> list[ChatMessage]:
        """The ticket's prompt, with the passages that the router picked. One that is no longer known is left out."""
        picked = [self.passages[p] for p in routed.decision.passages if p in self.passages]
        return chat(routed.ticket, self.company, picked)
