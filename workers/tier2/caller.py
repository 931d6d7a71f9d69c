"""One target at work: its pooled connections, its pace, its breaker. What follows from a failure is decided elsewhere.

A call is admitted first: it waits for its turn until the target's rate and
concurrency leave room. Whatever became of it is told to the pacer and to the
breaker, once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from math import inf
from types import TracebackType
from typing import Self

import httpx

from workers.errors import PermanentError, RetryableError
from workers.tier2 import connection, rate_limits, wire
from workers.tier2.breaker import Breaker
from workers.tier2.hedging import Hedge
from workers.tier2.pacing import Pacer, Permit, Tokens
from workers.tier2.rate_limits import RateLimits
from workers.tier2.targets import Target

READY_TIMEOUT_S = 3.0


class BusyError(RetryableError):
    """The target had no turn for the call in time; it was not made."""


class Caller:
    """An async context manager: closes the connections."""

    def __init__(
        self,
        target: Target,
        most_in_flight: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.target = target
        self.pacer = Pacer(most_in_flight, clock())
        self.breaker = Breaker()
        self.hedge = Hedge()
        self.waiting = 0
        """Calls that wait for their turn."""
        self.waiting_live = 0
        """Those of them that are not `behind`."""
        self._clock, self._sleep = clock, sleep
        self._turn, self._behind = asyncio.Lock(), asyncio.Lock()
        self._changed = asyncio.Event()
        self._http = connection.client(target.base_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @property
    def is_broken(self) -> bool:
        """Whether it has failed too often to be asked now."""
        return not self.breaker.may_call(self._clock())

    def busy_s(self, tokens: Tokens) -> float:
        """How long a call would wait for its turn at least; inf where nobody can tell."""
        return self.pacer.wait_s(tokens, self._clock())

    async def admit(self, tokens: Tokens, patience_s: float, behind: bool = False) -> Permit:
        """Wait for a turn: first come, first served, but of those that stay `behind` only one is ever before another.
        The permit must be given to `call` or `give_back`.

        Raises: BusyError after `patience_s`.
        """
        self.waiting += 1
        self.waiting_live += not behind
        try:
            # Only the first of those behind stands in line for the turn itself.
            async with asyncio.timeout(patience_s), self._behind if behind else nullcontext(), self._turn:
                while (wait_s := self.busy_s(tokens)) > 0:
                    await self._pause(wait_s)
                now_s = self._clock()
                if not self.breaker.may_call(now_s):
                    raise BusyError(f"{self.target.name} has failed too often of late")
                self.breaker.began(now_s)
                return self.pacer.begin(tokens, now_s)
        except TimeoutError as exc:
            raise BusyError(f"{self.target.name} had no turn for it in {patience_s:.1f} s") from exc
        finally:
            self.waiting -= 1
            self.waiting_live -= not behind

    async def _pause(self, wait_s: float) -> None:
        """Until a call ends, or the time is over."""
        self._changed.clear()
        changed = asyncio.ensure_future(self._changed.wait())
        over = [asyncio.ensure_future(self._sleep(wait_s))] if wait_s < inf else []
        try:
            await asyncio.wait([changed, *over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in (changed, *over):
                wait.cancel()

    def give_back(self, permit: Permit) -> None:
        """The call was not made after all."""
        now_s = self._clock()
        self.breaker.abandoned(now_s)
        self.pacer.ended(permit, "failed", RateLimits(), None, Tokens(0, 0), now_s)
        self._changed.set()

    async def call(self, permit: Permit, request: wire.Request, timeout_s: float) -> wire.Completion:
        """Make the call.

        Raises: connection.within's and wire's errors.
        """
        started_s = self._clock()
        limits = RateLimits()
        try:
            async with connection.within(timeout_s):
                response = await self._http.post(request.path, headers=request.headers, content=request.body)
            limits = rate_limits.read(response.headers, time.time())
            completion = self._read(response, request)
        except BaseException as exc:
            self._failed(permit, exc, limits)
            raise
        now_s = self._clock()
        self.pacer.ended(permit, "ok", limits, None, self._counted(completion), now_s)
        self.breaker.succeeded(now_s)
        self.hedge.took(now_s - started_s)
        self._changed.set()
        return completion

    def _counted(self, completion: wire.Completion) -> Tokens:
        """What counts towards the rate limits: at Anthropic not what was read from the cache."""
        usage = completion.usage
        uncounted_tokens = usage.cached_tokens if self.target.provider == "anthropic" else 0
        return Tokens(usage.prompt_tokens - uncounted_tokens, usage.completion_tokens)

    def _read(self, response: httpx.Response, request: wire.Request) -> wire.Completion:
        if response.status_code != 200:
            raise wire.failure(response.status_code, response.headers, response.content, time.time(), request.private)
        return wire.completion(self.target.provider, response.content)

    def _failed(self, permit: Permit, error: BaseException, limits: RateLimits) -> None:
        now_s = self._clock()
        match error:
            case wire.RateLimitedError():
                self.pacer.ended(permit, "rate_limited", limits, error.retry_after_s, Tokens(0, 0), now_s)
                self.breaker.abandoned(now_s)
            case wire.TargetError() | RetryableError():
                self.pacer.ended(permit, "failed", limits, None, None, now_s)
                self.breaker.failed(now_s, hard=isinstance(error, wire.TargetError))
            case PermanentError():
                # It works, and has refused this one request.
                self.pacer.ended(permit, "failed", limits, None, Tokens(0, 0), now_s)
                self.breaker.succeeded(now_s)
            case _:
                # Cancelled, or a bug of ours: nothing is known about the target.
                self.pacer.ended(permit, "failed", limits, None, None, now_s)
                self.breaker.abandoned(now_s)
        self._changed.set()

    async def ready(self) -> bool:
        """Whether the provider can be reached; costs nothing and sends no key."""
        try:
            await self._http.get("/", timeout=READY_TIMEOUT_S)
        except httpx.RequestError:
            return False
        return True
