"""Tier-2 at work: a routed ticket in, a draft out, from the first provider and model that can.

It owns the retries: nothing above it asks again for the same ticket. No provider
takes the same request twice for one price.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import Literal, Self

import structlog

from schemas.drafts import Draft
from schemas.tickets import Routed
from workers.errors import HeldError, PermanentError, RetryableError
from workers.retry import GiveUpNow, RetryLimits, after_failure
from workers.tier2 import prompts, wire
from workers.tier2.caller import BusyError, Caller
from workers.tier2.outgoing import outgoing
from workers.tier2.paid_call import Answered, OtherModelError, PaidCalls, today
from workers.tier2.prices import Prices
from workers.tier2.spend import NoRoomError, Spend, SpendLimitError
from workers.tier2.story import Story
from workers.tier2.targets import Target, cheaper, order

log = structlog.get_logger()

WhenSpent = Literal["hold", "cheaper_model", "handoff"]

PATIENCE_S = 5.0
"""A target that has no turn for a ticket within this time is passed over if another one has (a guess)."""
SLOW_AGAIN_S = (20.0, 40.0)
"""When a ticket of the slow lane that found no turn tries again (a guess)."""
Why = Literal["unavailable", "rejected", "spend_limit"]


class HandoffError(PermanentError):
    """A person must answer this ticket, since no target did within the attempts, the deadline and the money."""

    def __init__(self, why: Why, reason: str, calls: int, cost_usd: float, exposure_usd: float) -> None:
        super().__init__(reason)
        self.why = why
        self.calls = calls
        self.cost_usd = cost_usd
        """What its calls certainly cost."""
        self.exposure_usd = exposure_usd
        """What those of them may have cost whose outcome is unknown, at most."""


class _UnavailableError(PermanentError):
    """The attempts or the deadline are used up."""


@dataclass(frozen=True, slots=True)
class Tier2Config:
    """Who is asked, and within which bounds."""

    targets: tuple[Target, ...]
    company: str
    knowledge: str = field(repr=False)
    prices: Prices = field(repr=False)
    when_spent: tuple[WhenSpent, ...] = ("handoff",)
    """What becomes of a ticket for which a spend limit leaves no more: the first that is possible."""
    hold_s: float = 3600.0
    """A ticket is held only if the limit's period ends within this time."""
    max_tokens: int = 500
    most_in_flight: int = 64
    timeout_s: float = 60.0
    """For one call."""
    deadline_s: float = 120.0
    """For one ticket: all calls and the waits between them."""
    attempts: int = 6
    hedge: bool = False
    redact: bool = True
    phone_region: str = "US"

    def __post_init__(self) -> None:
        """Raises: ValueError if a target has no price or comes twice, if none is primary, and if a cheaper one is asked
        for and isn't there or isn't cheaper."""
        names = [target.name for target in self.targets]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"tier-2 has several targets called {', '.join(twice)}: a model of a provider may come once"
            )
        worst = {t.name: self.prices.of(t.model, today()).worst_case_micro_usd(1_000, 1_000) for t in self.targets}
        primaries = [t for t in self.targets if t.role == "primary"]
        if not primaries:
            raise ValueError("tier-2 has no target whose role is primary")
        if "cheaper_model" in self.when_spent and not cheaper(self.targets):
            raise ValueError("tier2.when_spent names cheaper_model, and no target has the role cheaper")
        for target in cheaper(self.targets):
            if worst[target.name] >= min(worst[p.name] for p in primaries):
                raise ValueError(f"tier-2 target {target.name} has the role cheaper and costs no less than a primary")


class Tier2:
    """An async context manager: opens the connections and closes them. The spend ledger is its owner's."""

    def __init__(
        self,
        config: Tier2Config,
        spend: Spend,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        system: str | None = None,
    ) -> None:
        """`system` is the system prompt of whoever asks for something other than a draft, as the judge does."""
        self._config = config
        self._spend = spend
        self._limits = RetryLimits(attempts=config.attempts, age_s=config.deadline_s)
        self._sleep, self._clock, self._rng = sleep, clock, rng or random.Random()
        self.callers = {t.name: Caller(t, config.most_in_flight, clock, sleep) for t in config.targets}
        system = system or prompts.system(config.company, config.knowledge)
        self._calls = PaidCalls(system, config.max_tokens, config.timeout_s, config.prices, spend, clock)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for caller in self.callers.values():
            await self._stack.enter_async_context(caller)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def answer(self, routed: Routed, behind: bool = False) -> Draft:
        """Ask for one ticket's answer; the draft's text may be empty and its finish may be a refusal. One that stays
        `behind` lets all others have their turn first.

        Raises: HandoffError; HeldError while a spend limit is reached and tickets are to be held, and where one that
        stays `behind` found no turn.
        """
        began_s = self._clock()
        # A long ticket may take its time: a second for the worst 100 kB that we could think of.
        sent = await asyncio.to_thread(outgoing, routed.ticket, self._config.redact, self._config.phone_region)
        story = Story(sent, routed.ticket.tenant, began_s + self._config.deadline_s, behind)
        try:
            answered = await self.ask(story)
        except _UnavailableError as exc:
            if behind and not story.calls:
                # Others had all the turns, or nobody could be asked: whoever may wait is not handed off for that.
                raise HeldError(exc.reason, self._rng.uniform(*SLOW_AGAIN_S)) from exc
            raise _handoff("unavailable", exc, story) from exc
        except (SpendLimitError, NoRoomError) as exc:
            raise _handoff("spend_limit", exc, story) from exc
        except PermanentError as exc:
            raise _handoff("rejected", exc, story) from exc
        return draft(routed, answered, story, self._clock() - began_s)

    async def ready(self) -> bool:
        """Whether any provider can be reached; costs nothing and sends no key."""
        return any(await asyncio.gather(*(caller.ready() for caller in self.callers.values())))

    def saturated(self) -> bool:
        """Whether to begin no further ticket, since it waits better in Kafka: each target has calls for live tickets
        that wait for their turn or fails, or a spend limit is reached and tickets are to be held."""
        held_s = self._spend.closed_for_s() if self._config.when_spent[:1] == ("hold",) else 0.0
        return 0 < held_s <= self._config.hold_s or all(c.waiting_live or c.is_broken for c in self._usual)

    def has_waiting(self) -> bool:
        """Whether each target has calls that wait for their turn, or fails: not the time for tickets that may wait."""
        return all(c.waiting or c.is_broken for c in self._usual)

    @property
    def _usual(self) -> list[Caller]:
        return [self.callers[t.name] for t in self._config.targets if t.role != "cheaper"]

    async def ask(self, story: Story) -> Answered:
        """Call until there is an answer. Raises: PermanentError; NoRoomError; HeldError."""
        targets = order(self._config.targets, self._rng)
        while True:
            caller, patience_s = await self._next(targets, story)
            try:
                if not self._config.hedge:
                    return await self._calls.call(caller, patience_s, story)
                return await self._calls.hedged(caller, self._second(caller, targets, story), patience_s, story)
            except SpendLimitError as exc:
                self._decide_without_money(exc, story)
                story.instead_of, targets = targets[0].model, cheaper(self._config.targets)
            except (wire.TargetError, OtherModelError) as exc:
                name = caller.target.name
                story.refused(name, exc)
                log.error("tier2_target_failed", target=name, reason=exc.reason, next="the next target, if any")
                if all(t.name in story.given_up for t in targets):
                    raise
            except NoRoomError:
                # It has waited for as long as the ticket may.
                raise
            except BusyError as exc:
                story.passed_over(caller.target.name, exc.reason)
            except RetryableError as exc:
                story.failed(caller.target.name, exc)
                await self._back_off(caller, exc, story)

    async def _next(self, targets: Sequence[Target], story: Story) -> tuple[Caller, float]:
        """The target to be asked now, and for how many seconds to wait for a turn: the first one that works, has a turn
        soon and hasn't failed this ticket often.

        Raises: _UnavailableError if there is none within the deadline.
        """
        tokens = self._calls.tokens(story)

        def reluctance(caller: Caller) -> tuple[bool, bool]:
            return story.failed_often(caller.target.name), _finite(caller.busy_s(tokens)) > PATIENCE_S

        while True:
            left_s = story.ends_s - self._clock()
            callers = [self.callers[t.name] for t in targets if t.name not in story.given_up]
            usable = [c for c in callers if not c.is_broken]
            if usable:
                # The first of equals, which is the order of the targets.
                first, *others = sorted(usable, key=reluctance)
                if left_s <= 0 or _finite(first.busy_s(tokens)) > left_s:
                    raise _unavailable(story)
                another = any(not any(reluctance(c)) for c in others)
                return first, min(PATIENCE_S, left_s) if another else left_s
            wait_s = min((c.breaker.opens_in_s(self._clock()) for c in callers), default=inf)
            if wait_s > left_s:
                raise _unavailable(story)
            await self._sleep(wait_s)

    def _second(self, caller: Caller, targets: Sequence[Target], story: Story) -> Caller:
        """Another target if there is one that works, else the same one again."""
        others = (self.callers[t.name] for t in targets if t.name not in story.given_up)
        return next((c for c in others if c is not caller and not c.is_broken), caller)

    async def _back_off(self, caller: Caller, error: RetryableError, story: Story) -> None:
        """Wait before the next call. Raises: _UnavailableError if there is to be none."""
        age_s = self._clock() - (story.ends_s - self._config.deadline_s)
        step = after_failure(error, story.calls, age_s, self._limits, self._rng)
        log.warning(
            "tier2_call_failed", target=caller.target.name, reason=error.reason, call=story.calls, next=repr(step)
        )
        if isinstance(step, GiveUpNow):
            raise _unavailable(story) from error
        if not isinstance(error, wire.RateLimitedError):
            # A rate limit's pause is the pacer's, for all tickets.
            await self._sleep(step.delay_s)

    def _decide_without_money(self, error: SpendLimitError, story: Story) -> None:
        """A spend limit leaves no more for this ticket. Returns if a cheaper model is to be asked.

        Raises: HeldError; the error itself if a person is to answer.
        """
        for step in self._config.when_spent:
            if step == "hold" and error.resets_in_s <= self._config.hold_s:
                # Not all of them in the period's first moment.
                raise HeldError(error.reason, error.resets_in_s + self._rng.random()) from error
            if step == "cheaper_model" and not story.instead_of:
                return
            if step == "handoff":
                break
        raise error


def draft(routed: Routed, answered: Answered, story: Story, duration_s: float) -> Draft:
    """An answer on its way to the checker, with the customer's data in it again."""
    completion = answered.completion
    return Draft(
        routed=routed,
        tier="tier2",
        text=story.outgoing.restored(completion.text),
        finish_reason=completion.finish_reason,
        model=completion.model,
        provider=answered.target.provider,
        usage=completion.usage,
        logprobs=None,
        cost_usd=story.spent_micro_usd / 1e6,
        duration_s=duration_s,
        calls=story.calls,
        exposure_usd=story.exposure_micro_usd / 1e6,
        instead_of=story.instead_of,
    )


def _handoff(why: Why, error: PermanentError | NoRoomError, story: Story) -> HandoffError:
    return HandoffError(why, error.reason, story.calls, story.spent_micro_usd / 1e6, story.exposure_micro_usd / 1e6)


def _unavailable(story: Story) -> _UnavailableError:
    return _UnavailableError(f"tier-2 unavailable, {story.calls} calls, the last: {story.last}")


def _finite(wait_s: float) -> float:
    """A wait that ends with some call, nobody can tell when, counts as none."""
    return 0.0 if wait_s == inf else wait_s
