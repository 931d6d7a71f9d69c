"""What to do about a failure: bounded, never too early, and only where it may go better."""

import random

from hypothesis import given
from hypothesis import strategies as st

from workers.errors import PermanentError, RetryableError
from workers.retry import GiveUpNow, Retry, RetryLimits, after_failure

LIMITS = st.builds(
    RetryLimits,
    attempts=st.integers(1, 12),
    age_s=st.floats(0, 1000),
    first_delay_s=st.floats(0, 10),
    longest_delay_s=st.floats(0, 60),
)
ATTEMPT = st.integers(1, 2_000)
AGE_S = st.floats(0, 2_000)
SEED = st.integers(0, 2**32)


@given(LIMITS, ATTEMPT, AGE_S, SEED, st.none() | st.floats(0, 300))
def test_a_retry_stays_within_every_limit(
    limits: RetryLimits, attempt: int, age_s: float, seed: int, after_s: float | None
) -> None:
    """Neither attempts nor age are passed, the wait is what was asked for at least, and the reason is told."""
    step = after_failure(RetryableError("busy", after_s), attempt, age_s, limits, random.Random(seed))
    match step:
        case Retry(delay_s):
            assert attempt < limits.attempts
            assert age_s + delay_s <= limits.age_s
            assert delay_s >= (after_s or 0.0)
            assert delay_s <= max(limits.longest_delay_s, after_s or 0.0)
        case GiveUpNow(why):
            assert (why == "attempts") == (attempt >= limits.attempts)


@given(SEED)
def test_delays_grow_and_have_jitter_above_a_floor(seed: int) -> None:
    """Each is between half of its step and all of it, and the steps double up to the longest."""
    limits = RetryLimits(attempts=100, age_s=1e9, first_delay_s=1.0, longest_delay_s=8.0)
    rng = random.Random(seed)
    for attempt, longest in enumerate((1.0, 2.0, 4.0, 8.0, 8.0), 1):
        step = after_failure(RetryableError("busy"), attempt, 0.0, limits, rng)
        assert isinstance(step, Retry)
        assert longest / 2 <= step.delay_s <= longest


@given(LIMITS, st.sampled_from([PermanentError("no"), ValueError("bug"), KeyError(), TimeoutError()]), SEED)
def test_everything_else_is_final(limits: RetryLimits, error: Exception, seed: int) -> None:
    """The permanent never goes better, and doing the unknown again may do harm again."""
    assert after_failure(error, 1, 0.0, limits, random.Random(seed)) == GiveUpNow("permanent")
