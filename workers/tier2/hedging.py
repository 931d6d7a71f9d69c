"""When a slow call deserves a second one beside it: past the 95th percentile, within 5 % of all calls. No clock.

Source: Dean and Barroso, "The Tail at Scale" (2013): a second request past the 95th percentile is some 5 % more load.
"""

import math
from collections import deque

REMEMBERED = 200
"""Latencies: enough for ten beyond the percentile, few enough to follow a provider's day (a guess)."""
ENOUGH = 20
"""With fewer, the percentile would be the slowest call seen."""
CALLS_PER_HEDGE = 20
MOST_SAVED = 10
"""Hedges that a calm time may save up: a provider that slows down as a whole must not get a second storm of calls."""


class Hedge:
    """One target's latencies, and the budget for its hedges. Not for several threads."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=REMEMBERED)
        self._earned = 0
        """In calls: CALLS_PER_HEDGE of them pay for one hedge."""

    def after_s(self) -> float | None:
        """How long to wait before a second call; None: there is to be none."""
        if len(self._took_s) < ENOUGH or self._earned < CALLS_PER_HEDGE:
            return None
        return sorted(self._took_s)[math.ceil(0.95 * len(self._took_s)) - 1]

    def called(self) -> None:
        """A call is made."""
        self._earned = min(self._earned + 1, MOST_SAVED * CALLS_PER_HEDGE)

    def hedged(self) -> bool:
        """Spend a hedge; False if none is left by now (many calls wait at once): then there must be no second call."""
        if self._earned < CALLS_PER_HEDGE:
            return False
        self._earned -= CALLS_PER_HEDGE
        return True

    def took(self, seconds: float) -> None:
        """A call succeeded."""
        self._took_s.append(seconds)
