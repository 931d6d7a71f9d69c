"""Rate limits as the recorded frontier enforces them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.generations import Usage
from workers.tier2.enforced_limits import (
    UNLIMITED_TOKENS,
    Bucket,
    EnforcedLimits,
    LimitsPerMinute,
    WindowState,
    asked_of,
    used_by,
)

USAGE = Usage(prompt_tokens=1_000, completion_tokens=50, cached_tokens=900)


def test_a_bucket_refills_evenly() -> None:
    """Sixty a minute in bursts of 5 s: five at once, then one a second."""
    bucket = Bucket(60, burst_s=5.0, now_s=0.0)
    for _ in range(5):
        assert bucket.wait_s(1, 0.0) == 0.0
        bucket.take(1, 0.0)
    assert bucket.wait_s(1, 0.0) == 1.0
    assert bucket.wait_s(1, 0.25) == 0.75
    assert bucket.wait_s(1, 1.0) == 0.0
    assert bucket.state(1.0) == WindowState(limit=60, remaining=1, full_in_s=4.0)
    assert bucket.state(1_000.0) == WindowState(limit=60, remaining=5, full_in_s=0.0)


def test_a_small_limit_lets_one_call_in_at_least() -> None:
    """One a minute is one at once and the next in a minute, though five seconds are worth less than a call."""
    bucket = Bucket(1, burst_s=5.0, now_s=0.0)
    bucket.take(1, 0.0)
    assert bucket.wait_s(1, 0.0) == 60.0


def test_more_than_a_burst_needs_a_full_bucket() -> None:
    """It is let in then, and what it took too much is waited for afterwards."""
    bucket = Bucket(60, burst_s=5.0, now_s=0.0)
    assert bucket.wait_s(8, 0.0) == 0.0
    bucket.take(8, 0.0)
    assert bucket.state(0.0) == WindowState(limit=60, remaining=0, full_in_s=8.0)
    assert bucket.wait_s(1, 0.0) == 4.0
    assert bucket.wait_s(8, 0.0) == 8.0


def test_a_changed_limit_keeps_what_was_left() -> None:
    """As far as it fits; from then on it refills at the new rate."""
    bucket = Bucket(60, burst_s=5.0, now_s=0.0)
    bucket.change(120, 0.0)
    assert bucket.state(0.0).remaining == 5
    assert bucket.state(1.0).remaining == 7
    bucket.change(24, 1.0)
    assert bucket.state(1.0) == WindowState(limit=24, remaining=2, full_in_s=0.0)


@given(
    st.integers(1, 6_000),
    st.floats(0.1, 60.0),
    st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 200)), max_size=60),
)
def test_no_more_is_taken_than_a_burst_and_the_rate(
    per_minute: int, burst_s: float, calls: list[tuple[float, int]]
) -> None:
    """In any time it is at most one burst, the time's share of the limit, and the excess of one last call."""
    bucket = Bucket(per_minute, burst_s, now_s=0.0)
    now_s, taken, largest = 0.0, 0, 0
    for pause_s, amount in calls:
        now_s += pause_s
        wait_s = bucket.wait_s(amount, now_s)
        assert wait_s >= 0.0
        if wait_s == 0.0:
            bucket.take(amount, now_s)
            taken, largest = taken + amount, max(largest, amount)
        else:
            # What it says is enough.
            assert bucket.wait_s(amount, now_s + wait_s) == 0.0
            now_s += wait_s
    burst = max(1.0, per_minute * burst_s / 60)
    assert taken <= burst + now_s * per_minute / 60 + largest + 1e-3


def test_openai_counts_the_longest_answer_until_the_real_one_is_known() -> None:
    """Prompt and max_tokens on the way in, prompt and answer in the end."""
    limits = EnforcedLimits("openai", LimitsPerMinute(600, 24_000), burst_s=5.0, now_s=0.0)
    asked = asked_of("openai", USAGE, max_tokens=500)
    assert limits.admit(asked, 0.0) is None
    assert limits.states(0.0)["tokens"].remaining == 2_000 - 1_500
    limits.correct(asked, used_by("openai", USAGE), 0.0)
    states = limits.states(0.0)
    assert states["tokens"].remaining == 2_000 - 1_050
    assert states["requests"].remaining == 50 - 1
    assert list(states) == ["requests", "tokens"]


def test_anthropic_counts_uncached_input_and_the_output_as_it_is_written() -> None:
    """max_tokens plays no part; what is read from the cache doesn't either."""
    limits = EnforcedLimits("anthropic", LimitsPerMinute(600, 24_000), burst_s=5.0, now_s=0.0)
    asked = asked_of("anthropic", USAGE, max_tokens=500)
    assert limits.admit(asked, 0.0) is None
    limits.correct(asked, used_by("anthropic", USAGE), 0.0)
    states = limits.states(0.0)
    assert states["input-tokens"].remaining == 2_000 - 100
    assert states["output-tokens"].remaining == 400 - 50
    assert states["output-tokens"].limit == 4_800


def test_a_call_is_let_in_by_all_windows_or_takes_from_none() -> None:
    """The window that it has to wait for longest is named."""
    limits = EnforcedLimits("openai", LimitsPerMinute(60, 12_000), burst_s=5.0, now_s=0.0)
    assert limits.admit({"requests": 1, "tokens": 1_000}, 0.0) is None
    exceeded = limits.admit({"requests": 1, "tokens": 600}, 0.0)
    assert exceeded
    assert (exceeded.window, exceeded.per_minute, exceeded.wait_s) == ("tokens", 12_000, 3.0)
    states = limits.states(0.0)
    assert (states["requests"].remaining, states["tokens"].remaining) == (4, 0)


def test_output_past_the_limit_holds_up_the_next_call() -> None:
    """Anthropic can't know an answer's length beforehand: what was written too much is waited for."""
    limits = EnforcedLimits("anthropic", LimitsPerMinute(600, 24_000, 600), burst_s=1.0, now_s=0.0)
    asked = asked_of("anthropic", USAGE, max_tokens=500)
    assert limits.admit(asked, 0.0) is None
    limits.correct(asked, used_by("anthropic", USAGE), 0.0)
    exceeded = limits.admit(asked, 0.0)
    assert exceeded
    assert (exceeded.window, exceeded.wait_s) == ("output-tokens", 4.1)


def test_a_limit_that_was_not_asked_for_is_out_of_reach() -> None:
    """The headers need a number."""
    assert LimitsPerMinute().of("openai") == {"requests": 100_000, "tokens": UNLIMITED_TOKENS}


@pytest.mark.parametrize("body", [b'{"requests_per_minute": 0}', b'{"request_per_minute": 5}', b"[]"])
def test_limits_that_make_no_sense_are_not_read(body: bytes) -> None:
    """Zero, a misspelt name, another shape."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=LimitsPerMinute)
