"""The pace of one target: against a simulated provider with enforced limits, and rule by rule."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.tier2.pacing import COOL_DOWN_S, CUT, FIRST_CONCURRENCY, Outcome, Pacer, Permit, Tokens
from workers.tier2.rate_limits import RateLimits, Window

ASKED = Tokens(1_000, 500)
USED = Tokens(900, 120)
NOTHING = RateLimits()
MOST = 512

# -- a provider -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bucket:
    """Refills evenly; what a call is corrected by at its end may bring it below zero."""

    per_minute: int
    burst_s: float
    level: float
    at_s: float = 0.0

    def refill(self, now_s: float) -> None:
        self.level = min(self.capacity, self.level + (now_s - self.at_s) * self.per_minute / 60)
        self.at_s = now_s

    @property
    def capacity(self) -> float:
        return self.per_minute * self.burst_s / 60

    def window(self, now_s: float) -> Window:
        self.refill(now_s)
        full_s = (self.capacity - self.level) * 60 / self.per_minute
        return Window(self.per_minute, max(0, int(self.level)), full_s)


Kind = Literal["requests", "openai", "anthropic"]
Headers = Literal["none", "at_admission", "at_end"]


@dataclass(slots=True)
class Provider:
    """Enforces requests per minute, and tokens per minute as the kind does."""

    kind: Kind
    headers: Headers
    buckets: dict[str, Bucket]

    def takes(self) -> dict[str, float]:
        """What a call must find and takes at admission."""
        takes: dict[Kind, dict[str, float]] = {
            "requests": {"requests": 1},
            "openai": {"requests": 1, "tokens": ASKED.prompt + ASKED.completion},
            "anthropic": {"requests": 1, "input_tokens": USED.prompt, "output_tokens": 1},
        }
        return takes[self.kind]

    def corrections(self) -> dict[str, float]:
        """What it takes at its end; below zero is given back."""
        spare = USED.prompt + USED.completion - ASKED.prompt - ASKED.completion
        corrections: dict[Kind, dict[str, float]] = {
            "requests": {},
            "openai": {"tokens": spare},
            "anthropic": {"output_tokens": USED.completion - 1},
        }
        return corrections[self.kind]

    def admits(self, now_s: float) -> bool:
        takes = self.takes()
        for bucket in self.buckets.values():
            bucket.refill(now_s)
        if any(bucket.level < takes[name] for name, bucket in self.buckets.items()):
            return False
        for name, bucket in self.buckets.items():
            bucket.level -= takes[name]
        return True

    def end(self, now_s: float) -> None:
        for name, tokens in self.corrections().items():
            self.buckets[name].refill(now_s)
            self.buckets[name].level -= tokens

    def limits(self, now_s: float) -> RateLimits:
        return RateLimits(**{name: bucket.window(now_s) for name, bucket in self.buckets.items()})

    def calls_per_s(self) -> float:
        """Allowed by the tightest limit."""
        real = {"requests": 1, "tokens": sum((USED.prompt, USED.completion))}
        real |= {"input_tokens": USED.prompt, "output_tokens": USED.completion}
        return min(bucket.per_minute / 60 / real[name] for name, bucket in self.buckets.items())


def provider(kind: Kind, headers: Headers, calls_per_minute: int, burst_s: float) -> Provider:
    """Its buckets are full; where it counts tokens, these bind and requests don't."""
    limits = {
        "requests": {"requests": calls_per_minute},
        "openai": {"requests": calls_per_minute * 2, "tokens": calls_per_minute * (USED.prompt + USED.completion)},
        "anthropic": {
            "requests": calls_per_minute * 2,
            "input_tokens": calls_per_minute * USED.prompt * 2,
            "output_tokens": calls_per_minute * USED.completion,
        },
    }[kind]
    return Provider(kind, headers, {n: Bucket(limit, burst_s, limit * burst_s / 60) for n, limit in limits.items()})


# -- the simulation ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Trace:
    """What happened, by whole seconds and pacer."""

    admitted: Counter[tuple[int, int]] = field(default_factory=Counter)
    refused: Counter[tuple[int, int]] = field(default_factory=Counter)

    def count(self, calls: "Counter[tuple[int, int]]", from_s: int, to_s: int, pacer: int | None = None) -> int:
        return sum(n for (s, p), n in calls.items() if from_s <= s < to_s and pacer in (None, p))

    def used(self, from_s: int, to_s: int, calls_per_s: float) -> float:
        return self.count(self.admitted, from_s, to_s) / ((to_s - from_s) * calls_per_s)

    def share_429(self, from_s: int, to_s: int) -> float:
        refused = self.count(self.refused, from_s, to_s)
        return refused / (refused + self.count(self.admitted, from_s, to_s) or 1)


@dataclass(slots=True)
class Simulation:
    """Discrete events: callers with infinite demand, each call 0.5 to 3 s long, a 429 after 50 ms."""

    provider: Provider
    pacers: list[Pacer]
    rng: random.Random
    latency_s: tuple[float, float] = (0.5, 3.0)
    changes: dict[float, float] = field(default_factory=dict)
    """Factors on all limits, by time."""
    trace: Trace = field(default_factory=Trace)
    _events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _count: int = 0
    _wakes_s: dict[int, float] = field(default_factory=dict)

    def run(self, until_s: float) -> Trace:
        for at_s, factor in self.changes.items():
            self._at(at_s, lambda now_s, factor=factor: self._change(factor, now_s))  # type: ignore[misc]
        for number in range(len(self.pacers)):
            self._at(0.0, lambda now_s, number=number: self._begin(number, now_s))  # type: ignore[misc]
        while self._events and self._events[0][0] < until_s:
            now_s, _, happen = heapq.heappop(self._events)
            happen(now_s)
        return self.trace

    def _at(self, at_s: float, happen: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, happen))

    def _change(self, factor: float, now_s: float) -> None:
        for bucket in self.provider.buckets.values():
            bucket.refill(now_s)
            bucket.per_minute = round(bucket.per_minute * factor)
            bucket.level = min(bucket.level, bucket.capacity)

    def _begin(self, number: int, now_s: float) -> None:
        """All that may begin; then again when the pacer says, or when a call ends."""
        pacer = self.pacers[number]
        while (wait_s := pacer.wait_s(ASKED, now_s)) == 0:
            permit = pacer.begin(ASKED, now_s)
            self._arrive(number, permit, now_s)
        if now_s + wait_s < self._wakes_s.get(number, inf):
            self._wakes_s[number] = now_s + max(wait_s, 1e-3)
            self._at(self._wakes_s[number], lambda then_s: self._wake(number, then_s))

    def _wake(self, number: int, now_s: float) -> None:
        if self._wakes_s.get(number) == now_s:
            # An earlier one may have taken its place.
            del self._wakes_s[number]
            self._begin(number, now_s)

    def _arrive(self, number: int, permit: Permit, now_s: float) -> None:
        admitted = self.provider.admits(now_s)
        (self.trace.admitted if admitted else self.trace.refused)[int(now_s), number] += 1
        stated = self.provider.limits(now_s)
        took_s = self.rng.uniform(*self.latency_s) if admitted else 0.05

        def end(then_s: float) -> None:
            if admitted:
                self.provider.end(then_s)
            told = {"none": NOTHING, "at_admission": stated, "at_end": self.provider.limits(then_s)}
            outcome: Outcome = "ok" if admitted else "rate_limited"
            usage = USED if admitted else Tokens(0, 0)
            self.pacers[number].ended(permit, outcome, told[self.provider.headers], None, usage, then_s)
            self._begin(number, then_s)

        self._at(now_s + took_s, end)


def simulated(
    of: Provider, until_s: float, pacers: int = 1, changes: dict[float, float] | None = None
) -> tuple[Trace, float]:
    """The trace, and how many calls a second the provider allowed at first."""
    calls_per_s = of.calls_per_s()
    simulation = Simulation(of, [Pacer(MOST, 0.0) for _ in range(pacers)], random.Random(1), changes=changes or {})
    return simulation.run(until_s), calls_per_s


# -- against the provider ---------------------------------------------------------------------------------------

STATED = [(kind, headers) for kind in ("requests", "openai", "anthropic") for headers in ("at_end", "at_admission")]


@pytest.mark.parametrize(("calls_per_minute", "burst_s"), [(60, 15.0), (600, 5.0), (3_000, 5.0)])
@pytest.mark.parametrize(("kind", "headers"), STATED)
def test_a_stated_rate_is_used_up_without_429s(
    kind: Kind, headers: Headers, calls_per_minute: int, burst_s: float
) -> None:
    """Whatever is counted and whenever: 95 % of the rate and more, and less than 1 % of the calls are turned away.

    A bucket that holds three calls only (60 a minute, 5 s) runs over between late responses: 90 % there.
    """
    trace, calls_per_s = simulated(provider(kind, headers, calls_per_minute, burst_s), 180)
    assert trace.used(60, 180, calls_per_s) >= 0.95
    assert trace.share_429(60, 180) < 0.01


@pytest.mark.parametrize("burst_s", [5.0, 60.0])
@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize(("kind", "headers"), STATED)
def test_a_changed_limit_is_followed_within_5_s(kind: Kind, headers: Headers, factor: float, burst_s: float) -> None:
    """From the sixth second the new rate is used, and the change costs hardly a 429."""
    trace, calls_per_s = simulated(provider(kind, headers, 1_200, burst_s), 115, changes={90.0: factor})
    assert trace.used(95, 115, calls_per_s * factor) == pytest.approx(1.0, abs=0.1)
    assert trace.share_429(90, 95) < 0.1
    assert trace.share_429(95, 115) < 0.01


@pytest.mark.parametrize(
    ("calls_per_minute", "used", "share_429"), [(60, 0.75, 0.06), (600, 0.95, 0.02), (6_000, 0.95, 0.01)]
)
def test_the_concurrency_alone_finds_an_unstated_rate(calls_per_minute: int, used: float, share_429: float) -> None:
    """From 2 calls in flight to 175; a low rate costs more 429s, because one call more is much more there."""
    trace, calls_per_s = simulated(provider("requests", "none", calls_per_minute, burst_s=5.0), 240)
    assert trace.used(120, 240, calls_per_s) >= used
    assert trace.share_429(120, 240) < share_429


@pytest.mark.parametrize("headers", ["at_end", "at_admission", "none"])
def test_two_processes_share_one_account(headers: Headers) -> None:
    """Neither starves, and they use the rate up together."""
    trace, calls_per_s = simulated(provider("requests", headers, 600, burst_s=5.0), 240, pacers=2)
    both = [trace.count(trace.admitted, 60, 240, pacer) for pacer in (0, 1)]
    assert min(both) / sum(both) > 0.25
    assert trace.used(60, 240, calls_per_s) >= 0.95
    assert trace.share_429(60, 240) < 0.05


# -- rule by rule -----------------------------------------------------------------------------------------------


def end(pacer: Pacer, permit: Permit, outcome: Outcome, now_s: float = 0.0, retry_after_s: float | None = None) -> None:
    """Without headers."""
    pacer.ended(permit, outcome, NOTHING, retry_after_s, None, now_s)


def full(pacer: Pacer, now_s: float = 0.0) -> list[Permit]:
    """As many calls as may begin."""
    begun: list[Permit] = []
    while pacer.wait_s(ASKED, now_s) == 0:
        begun.append(pacer.begin(ASKED, now_s))
    return begun


def test_when_all_places_are_taken_only_an_end_helps() -> None:
    """No time can be told; the first end makes room."""
    pacer = Pacer(3, 0.0)
    begun = full(pacer)
    assert (len(begun), pacer.in_flight) == (3, 3)
    assert pacer.wait_s(ASKED, 1_000.0) == inf
    end(pacer, begun[0], "failed")
    assert pacer.wait_s(ASKED, 0.0) == 0


def test_a_burst_of_429s_is_one_cut() -> None:
    """Calls that began before the cut don't cut again; one that began after it does."""
    pacer = Pacer(MOST, 0.0)
    for permit in full(pacer):
        end(pacer, permit, "rate_limited")
    once = int(FIRST_CONCURRENCY * CUT)
    assert pacer.concurrency == once
    end(pacer, pacer.begin(ASKED, 5.0), "rate_limited", 5.0)
    assert pacer.concurrency == int(once * CUT)


@pytest.mark.parametrize(("retry_after_s", "wait_s"), [(None, COOL_DOWN_S), (30.0, 30.0), (0.0, 0.0)])
def test_after_a_429_nothing_begins_for_a_time(retry_after_s: float | None, wait_s: float) -> None:
    """As long as the provider asks, else a second; a shorter wish later doesn't shorten it."""
    pacer = Pacer(MOST, 0.0)
    first, second = pacer.begin(ASKED, 0.0), pacer.begin(ASKED, 0.0)
    end(pacer, first, "rate_limited", 10.0, retry_after_s)
    end(pacer, second, "rate_limited", 10.0, 0.0)
    assert pacer.wait_s(ASKED, 10.0) == wait_s


def test_429s_never_cut_below_one_call() -> None:
    """A target is always asked again some day."""
    pacer = Pacer(MOST, 0.0)
    for now_s in range(0, 200, 10):
        end(pacer, pacer.begin(ASKED, now_s), "rate_limited", now_s)
    assert pacer.concurrency == 1
    assert pacer.wait_s(ASKED, 1_000.0) == 0


def test_an_idle_target_earns_no_concurrency() -> None:
    """Successes one at a time say nothing about many at once."""
    pacer = Pacer(MOST, 0.0)
    for _ in range(100):
        end(pacer, pacer.begin(ASKED, 0.0), "ok")
    assert pacer.concurrency == FIRST_CONCURRENCY


def test_concurrency_doubles_by_round_up_to_the_most() -> None:
    """Before the first 429, with as many callers as there are places."""
    pacer, seen = Pacer(20, 0.0), []
    for _ in range(3):
        seen.append(pacer.concurrency)
        for permit in full(pacer):
            end(pacer, permit, "ok")
    assert seen[0] == FIRST_CONCURRENCY
    assert seen[0] < seen[1] <= 2 * FIRST_CONCURRENCY
    assert pacer.concurrency <= 20


def test_an_older_calls_response_is_old_news() -> None:
    """It comes in last and says that there is plenty: the level stays where the newer one put it."""
    pacer = Pacer(MOST, 0.0)
    old, new = pacer.begin(ASKED, 0.0), pacer.begin(ASKED, 0.1)
    pacer.ended(new, "ok", RateLimits(requests=Window(60, 0, 60.0)), None, None, 0.2)
    wait_s = pacer.wait_s(ASKED, 0.2)
    pacer.ended(old, "ok", RateLimits(requests=Window(60, 59, 1.0)), None, None, 0.2)
    assert pacer.wait_s(ASKED, 0.2) == wait_s > 1.0


def test_calls_begun_since_are_taken_from_what_a_response_says() -> None:
    """The provider may have written it before it saw them."""
    pacer = Pacer(MOST, 0.0)
    first, *_ = [pacer.begin(ASKED, 0.0) for _ in range(6)]
    pacer.ended(first, "ok", RateLimits(requests=Window(60, 5, 55.0)), None, None, 0.0)
    assert pacer.wait_s(ASKED, 0.0) > 1.0


def test_a_limit_per_day_is_not_taken_for_one_per_minute() -> None:
    """Four hours to be whole again: the next call comes with its 1/200th of a day."""
    pacer = Pacer(MOST, 0.0)
    pacer.ended(pacer.begin(ASKED, 0.0), "ok", RateLimits(requests=Window(200, 0, 86_400.0)), None, None, 0.0)
    assert pacer.wait_s(ASKED, 0.0) == pytest.approx(432.0, rel=0.01)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.none() | st.floats(0, 90), st.integers(0, 10**6))
def test_waiting_as_told_is_enough(limit: int, remaining: int, reset_s: float | None, prompt: int) -> None:
    """Whatever was stated and however large the call: after the wait it may begin."""
    pacer, tokens = Pacer(MOST, 0.0), Tokens(prompt, 10)
    window = Window(limit, min(remaining, limit), reset_s)
    pacer.ended(pacer.begin(tokens, 0.0), "ok", RateLimits(requests=window, tokens=window), None, None, 1.0)
    wait_s = pacer.wait_s(tokens, 1.0)
    assert wait_s < inf
    assert pacer.wait_s(tokens, 1.0 + wait_s * (1 + 1e-9)) == 0
