"""What to do about a failure: a pure decision, by class, attempts and age."""

import random
from dataclasses import dataclass

from workers.errors import RetryableError


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Bounds on doing something again in place."""

    attempts: int = 6
    """Tries in all, the first included."""
    age_s: float = 120.0
    """Past this long after the first try it is given up."""
    first_delay_s: float = 0.5
    longest_delay_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Do it again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUpNow:
    """No further try."""

    why: str


def after_failure(
    error: Exception, attempt: int, age_s: float, limits: RetryLimits, rng: random.Random
) -> Retry | GiveUpNow:
    """Decide after try number `attempt` (from 1) failed, `age_s` seconds after the first began.

    Only RetryableError is tried again: exponential delays with jitter, or what
    the other side asked for. Everything else, the unknown included, is final.
    """
    if not isinstance(error, RetryableError):
        return GiveUpNow("permanent")
    if attempt >= limits.attempts:
        return GiveUpNow("attempts")
    longest = min(limits.longest_delay_s, limits.first_delay_s * 2 ** (attempt - 1))
    # Half of the delay is fixed: full jitter from zero would hammer an engine that just said it is busy.
    delay_s = longest * (0.5 + 0.5 * rng.random())
    if error.retry_after_s is not None:
        delay_s = max(delay_s, error.retry_after_s)
    if age_s + delay_s > limits.age_s:
        return GiveUpNow("age")
    return Retry(delay_s)
