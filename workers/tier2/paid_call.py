"""One paid call, or two where hedging is on: wait for a turn, set the money aside, call, settle.

A call whose charge isn't known (a timeout, a broken answer, a cancellation)
counts at its worst case.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime

from workers.errors import PermanentError, RetryableError
from workers.model_calls import model_call
from workers.tier2 import wire
from workers.tier2.caller import Caller
from workers.tier2.connection import NotSentError
from workers.tier2.pacing import Tokens
from workers.tier2.prices import Prices
from workers.tier2.spend import Spend
from workers.tier2.story import Story
from workers.tier2.targets import Target

BYTES_PER_TOKEN = 2
"""For the worst case only: prose takes 3 to 5 bytes a token in any language (a guess from tokenizers in use)."""
USUAL_BYTES_PER_TOKEN = 4
"""For the pace, which the provider's own count puts right."""

FREE = (NotSentError, wire.TurnedAwayError, wire.RejectedError)
"""Failures that certainly cost nothing."""


class OtherModelError(PermanentError):
    """Another model answered than the one that was asked: its answer is not used."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Who answered what."""

    target: Target
    completion: wire.Completion


@dataclass(frozen=True, slots=True)
class PaidCalls:
    """What all calls have in common."""

    system: str
    max_tokens: int
    timeout_s: float
    prices: Prices
    spend: Spend
    clock: Callable[[], float]

    async def hedged(self, caller: Caller, second: Caller, patience_s: float, story: Story) -> Answered:
        """One call; or two, if the first takes longer than nearly all others did. Raises: as `call`."""
        wait_s = caller.hedge.after_s()
        if wait_s is None:
            return await self.call(caller, patience_s, story)
        calls = [asyncio.create_task(self.call(caller, patience_s, story))]
        try:
            done, _ = await asyncio.wait(calls, timeout=wait_s)
            if not done and caller.hedge.hedged():
                calls.append(asyncio.create_task(self.call(second, patience_s, story)))
            return await _first(calls)
        finally:
            for call in calls:
                call.cancel()
            # The slower one is settled, at its worst case, before anything else happens to the ticket.
            await asyncio.gather(*calls, return_exceptions=True)

    async def call(self, caller: Caller, patience_s: float, story: Story) -> Answered:
        """One call, for whose turn the ticket waits at most `patience_s`.

        Raises: BusyError; SpendLimitError, NoRoomError; OtherModelError; RetryableError, PermanentError from the call.
        """
        price = self.prices.of(caller.target.model, today())
        request = self._request(caller.target, story)
        permit = await caller.admit(self.tokens(story), patience_s, story.behind)
        try:
            worst_micro_usd = price.worst_case_micro_usd(len(request.body) // BYTES_PER_TOKEN, self.max_tokens)
            reservation = await self.spend.reserve(story.tenant, worst_micro_usd, story.ends_s - self.clock())
        except BaseException:
            caller.give_back(permit)
            raise
        # The worst case stands until something better is known: an exception on the way must not make a call free.
        charged_micro_usd, known = worst_micro_usd, False
        story.calls += 1
        caller.hedge.called()
        try:
            with model_call(caller.target.provider, caller.target.model, self.max_tokens) as seen:
                completion = await caller.call(permit, request, min(self.timeout_s, story.ends_s - self.clock()))
                seen.answered(completion.model, completion.finish_reason, completion.usage)
            charged_micro_usd, known = price.cost_micro_usd(completion.usage), True
            if not wire.same_model(caller.target.model, completion.model):
                caller.breaker.failed(self.clock(), hard=True)
                raise OtherModelError(f"{caller.target.name} was asked, and {completion.model[:80]!r} answered")
            return Answered(caller.target, completion)
        except FREE:
            charged_micro_usd, known = 0, True
            raise
        finally:
            story.paid(charged_micro_usd, known)
            self.spend.settle(reservation, charged_micro_usd)

    def tokens(self, story: Story) -> Tokens:
        """What a call for the ticket will take of the rate limits, about."""
        prompt_chars = len(self.system) + len(story.outgoing.message)
        return Tokens(prompt_chars // USUAL_BYTES_PER_TOKEN, self.max_tokens)

    def _request(self, target: Target, story: Story) -> wire.Request:
        return wire.request(
            target.provider,
            api_key=target.api_key,
            model=target.model,
            system=self.system,
            user=story.outgoing.message,
            max_tokens=self.max_tokens,
        )


async def _first(calls: Sequence["asyncio.Task[Answered]"]) -> Answered:
    """The first answer. If there is none, the first call's failure: what follows concerns that call's target."""
    for ended in asyncio.as_completed(calls):
        with suppress(RetryableError, PermanentError):
            return await ended
    return calls[0].result()


def today() -> date:
    """The day whose prices hold."""
    return datetime.now(UTC).date()
