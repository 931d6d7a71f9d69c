"""The rate limits that the recorded frontier enforces, as a provider does: values only, no clock, no I/O.

Both vendors refill evenly, and both say that a limit per minute may be enforced over shorter periods, 60 a minute as
one a second. OpenAI's headers count down from a whole minute's worth, Anthropic names no size. So how much of a
minute may come at once is a setting here, and a few seconds' worth by default: the harder case for a client.
Sources: the rate-limit guides of both vendors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.generations import Usage
from workers.tier2.wire import Provider

Window = Literal["requests", "tokens", "input-tokens", "output-tokens"]
"""As the headers name them: OpenAI counts requests and tokens, Anthropic requests, input-tokens and output-tokens."""

UNLIMITED_REQUESTS = 100_000
UNLIMITED_TOKENS = 1_000_000_000
"""What the headers say where no limit was asked for: more than this server can answer."""

USUAL_BURST_S = 5.0

_PerMinute = Annotated[int, Meta(ge=1)] | None


class LimitsPerMinute(Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of each provider, for all of its models together; None is none."""

    requests_per_minute: _PerMinute = None
    tokens_per_minute: _PerMinute = None
    """OpenAI: prompt and answer; Anthropic: the prompt's tokens that were not read from the cache."""
    output_tokens_per_minute: _PerMinute = None
    """Anthropic alone; a fifth of tokens_per_minute where it isn't given, which is the proportion of its tiers."""

    def of(self, provider: Provider) -> dict[Window, int]:
        """The limit of each of the provider's windows."""
        requests = self.requests_per_minute or UNLIMITED_REQUESTS
        tokens = self.tokens_per_minute or UNLIMITED_TOKENS
        if provider == "openai":
            return {"requests": requests, "tokens": tokens}
        output = self.output_tokens_per_minute or max(1, tokens // 5)
        return {"requests": requests, "input-tokens": tokens, "output-tokens": output}


@dataclass(frozen=True, slots=True)
class WindowState:
    """What the headers tell of a window."""

    limit: int
    remaining: int
    full_in_s: float
    """Seconds until everything is there again, if nothing is asked meanwhile."""


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Why a call is turned away, and in how many seconds it would be let in."""

    window: Window
    per_minute: int
    wait_s: float


class Bucket:
    """Refills evenly; starts full. Its level may fall below zero, by what was used without having been asked for."""

    def __init__(self, per_minute: int, burst_s: float, now_s: float) -> None:
        self.per_minute = per_minute
        self._burst_s = burst_s
        self._level = self._capacity
        self._at_s = now_s

    @property
    def _capacity(self) -> float:
        return max(1.0, self.per_minute * self._burst_s / 60)

    def _refill(self, now_s: float) -> None:
        self._level = min(self._capacity, self._level + (now_s - self._at_s) * self.per_minute / 60)
        self._at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until that much is there; more than there ever is needs all of it."""
        self._refill(now_s)
        missing = min(amount, self._capacity) - self._level
        # A caller that waits as long as it was told finds it there, whatever the rounding.
        return missing * 60 / self.per_minute if missing > 1e-6 else 0.0

    def take(self, amount: float, now_s: float) -> None:
        """Take it, there or not; a negative amount is given back."""
        self._refill(now_s)
        self._level = min(self._capacity, self._level - amount)

    def change(self, per_minute: int, now_s: float) -> None:
        """Another limit from now on; what was left stays, as far as it fits."""
        self._refill(now_s)
        self.per_minute = per_minute
        self._level = min(self._capacity, self._level)

    def state(self, now_s: float) -> WindowState:
        self._refill(now_s)
        full_in_s = (self._capacity - self._level) * 60 / self.per_minute
        return WindowState(self.per_minute, max(0, int(self._level + 1e-6)), full_in_s)


class EnforcedLimits:
    """One provider's windows: a call is let in if there is room in each of them."""

    def __init__(self, provider: Provider, limits: LimitsPerMinute, burst_s: float, now_s: float) -> None:
        self._provider = provider
        self._buckets = {w: Bucket(n, burst_s, now_s) for w, n in limits.of(provider).items()}

    def admit(self, asked: Mapping[Window, int], now_s: float) -> Exceeded | None:
        """Take what a call asks for, all or nothing."""
        waits_s = {w: self._buckets[w].wait_s(amount, now_s) for w, amount in asked.items()}
        longest = max(waits_s, key=waits_s.__getitem__)
        if waits_s[longest] > 0:
            return Exceeded(longest, self._buckets[longest].per_minute, waits_s[longest])
        self.correct({}, asked, now_s)
        return None

    def correct(self, asked: Mapping[Window, int], used: Mapping[Window, int], now_s: float) -> None:
        """Put what a call really used in the place of what it asked for."""
        for window, bucket in self._buckets.items():
            bucket.take(used.get(window, 0) - asked.get(window, 0), now_s)

    def change(self, limits: LimitsPerMinute, now_s: float) -> None:
        for window, per_minute in limits.of(self._provider).items():
            self._buckets[window].change(per_minute, now_s)

    def states(self, now_s: float) -> dict[Window, WindowState]:
        return {window: bucket.state(now_s) for window, bucket in self._buckets.items()}


def asked_of(provider: Provider, prompt: Usage, max_tokens: int) -> dict[Window, int]:
    """What a call takes from the windows when it is let in; of `prompt` only the prompt's tokens count.

    OpenAI counts the longest answer that was asked for. Anthropic counts answers as they are written, so one token
    must be left, and no token that comes from the prompt cache.
    """
    if provider == "openai":
        return {"requests": 1, "tokens": prompt.prompt_tokens + max_tokens}
    return {"requests": 1, "input-tokens": prompt.prompt_tokens - prompt.cached_tokens, "output-tokens": 1}


def used_by(provider: Provider, usage: Usage) -> dict[Window, int]:
    """What a call has taken from the windows once it is over."""
    if provider == "openai":
        return {"requests": 1, "tokens": usage.prompt_tokens + usage.completion_tokens}
    uncached_tokens = usage.prompt_tokens - usage.cached_tokens
    return {"requests": 1, "input-tokens": uncached_tokens, "output-tokens": usage.completion_tokens}
