"""Tier-1 at work: a routed ticket in, a draft out."""

import time

from schemas.drafts import Draft
from schemas.tickets import Routed
from workers.tier1.engine import Engine
from workers.tier1.metering import BusyMeter
from workers.tier1.prompts import chat


class Tier1:
    """Asks the engine for one answer a ticket; any number may be in flight."""

    def __init__(self, engine: Engine, company: str, max_tokens: int, usd_per_hour: float) -> None:
        self.engine = engine
        self.company = company
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
            made = await self.engine.generate(chat(routed.ticket, self.company), self.max_tokens)
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
