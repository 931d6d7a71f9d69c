"""Tier-2's client: a routed ticket in, a draft out, over one pool of connections.

It owns the retries: nothing above it asks again for the same ticket. Every call
is reserved in the spend ledger before it is made and settled after; a call
whose charge isn't known (a timeout, a broken answer, a cancellation) counts at
its worst case. No provider takes the same request twice for one price.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import structlog

from schemas.drafts import Draft
from schemas.tickets import Routed
from workers.errors import PermanentError, RetryableError
from workers.retry import GiveUpNow, RetryLimits, after_failure
from workers.tier2 import prompts, wire
from workers.tier2.prices import cost_micro_usd, price_of, worst_case_micro_usd
from workers.tier2.spend import Ledger, Reservation, SpendLimitError

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
"""A guess: a healthy provider accepts a connection within a tenth of it."""

READY_TIMEOUT_S = 3.0

BYTES_PER_TOKEN = 2
"""For the worst case only: prose takes 3 to 5 bytes a token in any language (a guess from tokenizers in use)."""


class UnavailableError(PermanentError):
    """No answer within the attempts and the deadline: a person can't wait longer, so it is final for the ticket."""


class _NotSentError(RetryableError):
    """The request never left: it can't have cost anything."""


@dataclass(frozen=True, slots=True)
class Tier2Config:
    """Who to ask and within which bounds."""

    provider: wire.Provider
    base_url: str
    """With or without the closing /v1."""
    model: str
    """Must be in prices.toml."""
    company: str
    knowledge: str = field(repr=False)
    api_key: str = field(repr=False)
    max_tokens: int = 500
    timeout_s: float = 60.0
    """For one call."""
    deadline_s: float = 120.0
    """For one ticket: all calls and the waits between them."""
    attempts: int = 6
    spend_limit_usd: float | None = None
    spend_file: Path | None = None
    """None forgets with the process what was spent."""

    def __post_init__(self) -> None:
        """Raises: ValueError naming the wrong value; the key is never shown."""
        price_of(self.model)
        if not _is_address(self.base_url):
            raise ValueError(f"tier-2 base_url {self.base_url!r} is not an http(s) address")
        if not re.fullmatch(r"[!-~]+", self.api_key):
            raise ValueError("tier-2 api_key is empty or holds characters that no HTTP header may")


class Tier2:
    """An async context manager: opens the ledger and the connections, closes both."""

    def __init__(
        self,
        config: Tier2Config,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._system = prompts.system(config.company, config.knowledge)
        self._limits = RetryLimits(attempts=config.attempts, age_s=config.deadline_s)
        self._sleep, self._clock, self._rng = sleep, clock, rng or random.Random()
        self._settled = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises: what Ledger raises for a spend file it can't use."""
        limit_usd = self._config.spend_limit_usd
        limit_micro_usd = None if limit_usd is None else round(limit_usd * 1e6)
        async with AsyncExitStack() as stack:
            self._ledger = stack.enter_context(Ledger(self._config.spend_file, limit_micro_usd))
            self._http = await stack.enter_async_context(_http(self._config.base_url))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def answer(self, routed: Routed) -> Draft:
        """Ask for one ticket's answer; the draft's text may be empty and its finish may be a refusal.

        Raises: UnavailableError when attempts or deadline are used up; SpendLimitError; PermanentError, which both
        are, when the provider rejects the request. Never RetryableError.
        """
        request = self._request(routed)
        started = self._clock()
        calls = 0
        while True:
            calls += 1
            try:
                completion = await self._call(request, started)
                return self._draft(routed, completion, self._clock() - started, calls)
            except RetryableError as exc:
                step = after_failure(exc, calls, self._clock() - started, self._limits, self._rng)
                log.warning(
                    "tier2_call_failed",
                    ticket_id=routed.ticket.ticket_id,
                    reason=exc.reason,
                    call=calls,
                    next=repr(step),
                )
                if isinstance(step, GiveUpNow):
                    raise UnavailableError(f"tier-2 unavailable, {calls} calls, the last: {exc.reason}") from exc
            await self._sleep(step.delay_s)

    async def ready(self) -> bool:
        """Whether the provider can be reached; costs nothing and sends no key."""
        try:
            await self._http.get("/", timeout=READY_TIMEOUT_S)
        except httpx.RequestError:
            return False
        return True

    def _left_s(self, started: float) -> float:
        return self._config.deadline_s - (self._clock() - started)

    async def _reserved(self, request: wire.Request, patience_s: float) -> Reservation:
        """Money for one call. A worst case is many times the usual cost, so calls under way are waited for."""
        prompt_tokens = len(request.body) // BYTES_PER_TOKEN
        worst_micro_usd = worst_case_micro_usd(self._config.model, prompt_tokens, self._config.max_tokens)
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    try:
                        return self._ledger.reserve(worst_micro_usd)
                    except SpendLimitError as exc:
                        if exc.final:
                            raise
                    await self._settled.wait()
        except TimeoutError as exc:
            raise RetryableError("no room under the spend limit beside the calls under way") from exc

    async def _call(self, request: wire.Request, started: float) -> wire.Completion:
        reservation = await self._reserved(request, self._left_s(started))
        # The worst case stands until something better is known: an exception on the way must not make a call free.
        charged_micro_usd = reservation.micro_usd
        try:
            response = await self._post(request, min(self._config.timeout_s, self._left_s(started)))
            if wire.charged_nothing(response.status_code):
                charged_micro_usd = 0
            if response.status_code != 200:
                raise wire.failure(
                    response.status_code, response.headers, response.content, time.time(), request.private
                )
            completion = wire.completion(self._config.provider, response.content)
            charged_micro_usd = cost_micro_usd(self._config.model, completion.usage)
            return completion
        except _NotSentError:
            charged_micro_usd = 0
            raise
        finally:
            self._ledger.settle(reservation, charged_micro_usd)
            # Wakes everyone who waits for room now, and no one who comes later.
            self._settled.set()
            self._settled.clear()

    async def _post(self, request: wire.Request, timeout_s: float) -> httpx.Response:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._http.post(request.path, headers=request.headers, content=request.body)
        except TimeoutError as exc:
            raise RetryableError(f"no answer within {timeout_s:.1f} s") from exc
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise _NotSentError(f"no connection: {type(exc).__name__}") from exc
        except httpx.RequestError as exc:
            raise RetryableError(f"the connection broke: {type(exc).__name__}") from exc

    def _request(self, routed: Routed) -> wire.Request:
        return wire.request(
            self._config.provider,
            api_key=self._config.api_key,
            model=self._config.model,
            system=self._system,
            user=prompts.user(routed.ticket),
            max_tokens=self._config.max_tokens,
        )

    def _draft(self, routed: Routed, completion: wire.Completion, duration_s: float, calls: int) -> Draft:
        return Draft(
            routed=routed,
            tier="tier2",
            text=completion.text,
            finish_reason=completion.finish_reason,
            model=completion.model,
            provider=self._config.provider,
            usage=completion.usage,
            logprobs=None,
            # By the configured name: a provider answers with a dated one that no price table lists.
            cost_usd=cost_micro_usd(self._config.model, completion.usage) / 1e6,
            duration_s=duration_s,
            calls=calls,
        )


def _is_address(base_url: str) -> bool:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _http(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url.rstrip("/").removesuffix("/v1"),
        # asyncio.timeout bounds the whole call; httpx's own limits are per read, which a dripping server never meets.
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        # The stage bounds the calls in flight; a second bound here would only queue them unseen.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        # A company's proxy settings are for the provider, not for a server on this machine.
        mounts={"all://127.0.0.1": None, "all://localhost": None},
    )
