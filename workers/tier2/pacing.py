"""How fast one provider's model may be asked: by the limits its headers state, and by a concurrency that finds others.

Two bounds hold at once. A bucket for each stated limit refills at the stated
rate, and its level is set by every response anew; a few seconds' worth is left
in it, so that late news and other processes on the account cost no 429.
The concurrency grows while it is used and is cut by 429s; where no header
states a limit it alone finds the rate. No clock, no await.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from workers.tier2.rate_limits import RateLimits, Window

Outcome = Literal["ok", "rate_limited", "failed"]

FIRST_CONCURRENCY = 8
"""The smallest paid limits (50 requests a minute) take so many at once; five doublings make 256 of it."""
CUT = 0.75
COOL_DOWN_S = 1.0
"""After a 429 without Retry-After (a guess)."""
RESERVE_S = 2.5
"""Seconds' worth that stay in a bucket: news of a halved limit is a call's length (3 s) late, and by then calls at the
old rate have used up half of that more than came in."""
RESERVE_SHARE = 0.4
"""Of a bucket too small for that reserve."""
LONGEST_MINUTE_S = 90.0
"""A limit per minute is whole again in less. OpenAI and others state limits per day in the same headers."""
LEARNING = 0.1
"""Weight of one call in the learned means (a guess: the last twenty calls or so)."""
SHORTEST_RUN = 20
"""Successes for slow growth: of so many calls one may end in a 429, however low the limit is (a guess)."""
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one call: an estimate, with max_tokens for the completion, or the usage that was reported."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Permit:
    """One call that began."""

    number: int
    tokens: Tokens
    begun_s: float
    costs: dict[str, float] = field(repr=False)
    """Estimated, by window."""
    begun: dict[str, float] = field(repr=False)
    """The costs of all calls begun by then, this one included."""


class Pacer:
    """One target's pace. Not for several threads."""

    def __init__(self, most: int, now_s: float) -> None:
        """At most `most` calls are under way at once."""
        self.in_flight = 0
        self._concurrency = _Concurrency(most)
        self._buckets: dict[str, _Bucket] = {}
        self._begun = {"requests": 0.0, "tokens": 0.0, "input_tokens": 0.0, "output_tokens": 0.0}
        self._cool_until_s = now_s
        self._numbers = 0
        self._real_prompt = self._real_completion = 1.0
        """Real tokens by estimated ones, a mean."""
        self._took_s = 0.0
        """A call, a mean."""
        self._unwritten = 0.0
        """Completion tokens that the calls under way will use."""

    @property
    def concurrency(self) -> int:
        """How many calls may be under way now."""
        return self._concurrency.limit

    def wait_s(self, tokens: Tokens, now_s: float) -> float:
        """0.0: a call may begin. Else ask again after so many seconds or when a call ends; inf: only when one ends."""
        costs = self._costs(tokens)
        waits_s = (bucket.wait_s(costs[name], now_s) for name, bucket in self._buckets.items())
        paced_s = max(self._cool_until_s - now_s, 0.0, *waits_s)
        return inf if paced_s == 0 and self.in_flight >= self.concurrency else paced_s

    def begin(self, tokens: Tokens, now_s: float) -> Permit:
        """A call begins; `wait_s` said that it may."""
        costs = self._costs(tokens)
        for name, cost in costs.items():
            self._begun[name] += cost
            if name in self._buckets:
                self._buckets[name].take(cost, now_s)
        self._numbers += 1
        self.in_flight += 1
        self._unwritten += costs["output_tokens"]
        return Permit(self._numbers, tokens, now_s, costs, dict(self._begun))

    def ended(
        self,
        permit: Permit,
        outcome: Outcome,
        limits: RateLimits,
        retry_after_s: float | None,
        usage_tokens: Tokens | None,
        now_s: float,
    ) -> None:
        """The call ended. `limits` are its response's; `usage_tokens` None: nobody knows."""
        self._unwritten -= permit.costs["output_tokens"]
        if usage_tokens is not None:
            self._correct(permit, usage_tokens)
        if self._follow(permit, limits, now_s):
            self._concurrency.grow_fast()
        if outcome == "ok":
            self._concurrency.succeeded(permit.number, self.in_flight)
            self._took_s += (LEARNING if self._took_s else 1.0) * (now_s - permit.begun_s - self._took_s)
            if usage_tokens is not None:
                self._learn(permit.tokens, usage_tokens)
        elif outcome == "rate_limited":
            # A stated limit that is used up explains it: the bucket keeps the rate from now on.
            explained = any(bucket.is_low(now_s) for bucket in self._buckets.values())
            self._concurrency.refused(permit.number, self._numbers, explained)
            cool_down_s = COOL_DOWN_S if retry_after_s is None else retry_after_s
            self._cool_until_s = max(self._cool_until_s, now_s + cool_down_s)
        self.in_flight -= 1

    def _costs(self, tokens: Tokens) -> dict[str, float]:
        prompt = tokens.prompt * self._real_prompt
        return {
            "requests": 1.0,
            # OpenAI counts all of max_tokens when it admits a call; Anthropic counts what is written.
            "tokens": prompt + tokens.completion,
            "input_tokens": prompt,
            "output_tokens": tokens.completion * self._real_completion,
        }

    def _correct(self, permit: Permit, usage: Tokens) -> None:
        """Real usage in the place of the estimate. The levels follow with the responses: not every provider gives back
        what a call didn't use."""
        real = {
            "tokens": usage.prompt + usage.completion,
            "input_tokens": usage.prompt,
            "output_tokens": usage.completion,
        }
        for name, tokens in real.items():
            self._begun[name] += tokens - permit.costs[name]

    def _learn(self, estimate: Tokens, usage: Tokens) -> None:
        if estimate.prompt:
            self._real_prompt += LEARNING * (usage.prompt / estimate.prompt - self._real_prompt)
        if estimate.completion:
            self._real_completion += LEARNING * (usage.completion / estimate.completion - self._real_completion)

    def _follow(self, permit: Permit, limits: RateLimits, now_s: float) -> bool:
        """Set the buckets by a response; whether one of its limits is higher than it was."""
        windows = {
            "requests": limits.requests,
            # Anthropic's tokens window repeats one of the other two.
            "tokens": None if limits.input_tokens or limits.output_tokens else limits.tokens,
            "input_tokens": limits.input_tokens,
            "output_tokens": limits.output_tokens,
        }
        higher = False
        for name, window in windows.items():
            if window is None:
                continue
            bucket = self._buckets.get(name)
            if bucket is not None and bucket.told_by > permit.number:
                # A later call has brought newer news.
                continue
            higher = higher or (bucket is not None and window.limit > bucket.limit)
            if name == "output_tokens":
                # Counted as they are written: all calls under way have some to come.
                pending, over_s = self._unwritten, self._took_s
            else:
                pending, over_s = self._begun[name] - permit.begun[name], now_s - permit.begun_s
            self._buckets[name] = _Bucket.told(window, permit.number, pending, over_s, now_s)
        return higher


@dataclass(slots=True)
class _Bucket:
    """What a provider's bucket holds at least, as far as one response and our own calls since tell."""

    limit: int
    capacity: float
    per_s: float
    level: float
    """May be below zero."""
    at_s: float
    told_by: int
    """Number of the call whose response said so."""

    @classmethod
    def told(cls, window: Window, number: int, pending: float, over_s: float, now_s: float) -> "_Bucket":
        """By the response of call `number`, which may not count `pending` yet: what calls use within `over_s`."""
        per_s = window.limit / (86_400 if (window.reset_s or 0.0) > LONGEST_MINUTE_S else 60)
        full = window.limit if window.reset_s is None else window.remaining + window.reset_s * per_s
        capacity = min(max(full, 1.0), window.limit)
        # Some providers count at admission, some when they answer, and they don't say which. The lower of both is safe,
        # and both are the same while the rate is steady.
        level = min(window.remaining, window.remaining - pending + over_s * per_s)
        return cls(window.limit, capacity, per_s, level, now_s, number)

    def level_at(self, now_s: float) -> float:
        return min(self.capacity, self.level + (now_s - self.at_s) * self.per_s)

    @property
    def reserve(self) -> float:
        return min(RESERVE_S * self.per_s, RESERVE_SHARE * self.capacity)

    def wait_s(self, cost: float, now_s: float) -> float:
        # A call that costs more than there ever is goes when the bucket is full: the provider decides.
        missing = min(cost + self.reserve, self.capacity) - self.level_at(now_s)
        return missing / self.per_s if missing > ROUNDING else 0.0

    def take(self, cost: float, now_s: float) -> None:
        self.level, self.at_s = self.level_at(now_s) - cost, now_s

    def is_low(self, now_s: float) -> bool:
        return self.level_at(now_s) < self.reserve


class _Concurrency:
    """Additive growth, multiplicative cut; until the first cut it doubles with every round of calls."""

    def __init__(self, most: int) -> None:
        self.limit = min(FIRST_CONCURRENCY, most)
        self._most = most
        self._fast = True
        self._run = 0
        self._last_before_cut = 0
        """Number of the last call that began before the last cut."""

    def grow_fast(self) -> None:
        """The limit that the last cut found is gone."""
        self._fast = True

    def succeeded(self, number: int, in_flight: int) -> None:
        """Call `number` did; `in_flight` includes it."""
        # Half used is enough for fast growth, so that it stays ahead of a stated limit that doubles.
        used = in_flight * 2 >= self.limit if self._fast else in_flight >= self.limit
        if number <= self._last_before_cut or not used:
            return
        self._run += 1
        if self._run >= (1 if self._fast else max(self.limit, SHORTEST_RUN)):
            self.limit, self._run = min(self.limit + 1, self._most), 0

    def refused(self, number: int, last_number: int, explained: bool) -> None:
        """Call `number` met a 429; `last_number` began last of all. `explained`: by a limit that headers state."""
        self._run = 0
        if number <= self._last_before_cut:
            # The same burst.
            return
        self._last_before_cut = last_number
        self._fast = explained
        self.limit = max(1, int(self.limit * CUT))
