"""Whether a target that failed is worth asking: closed, open for a time, half-open for one probe. No clock, no await.

It counts failures in a row, not a share over a window: with many calls at once a
target that fails half of them meets the row within seconds, and one that fails
less is worth its retries.
"""

from typing import Literal

FAILURES = 5
"""In a row (a guess: fewer open it for one bad connection that several calls shared)."""
FIRST_COOL_DOWN_S = 5.0
LONGEST_COOL_DOWN_S = 60.0
"""A provider back from an outage is noticed within a minute (both are guesses)."""
PROBE_S = 0.5
"""When to look again while a probe is under way: nobody knows when it ends."""

State = Literal["closed", "open", "half_open"]


class Breaker:
    """One target's; every call that began ends in exactly one of succeeded, failed, abandoned. Not for several threads.

    Ends while it is open change nothing, unless they are hard: those calls began before. Half-open, such a straggler
    passes for the probe; at worst the target is asked a little sooner or later.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._opens_s: float | None = None
        """None: closed; else when the first probe may go."""
        self._cool_down_s = FIRST_COOL_DOWN_S
        self._probing = False

    def state(self, now_s: float) -> State:
        """For people and metrics."""
        if self._opens_s is None:
            return "closed"
        return "open" if now_s < self._opens_s else "half_open"

    def may_call(self, now_s: float) -> bool:
        """Whether a call may begin: any while closed, one at a time while half-open."""
        return self._opens_s is None or (now_s >= self._opens_s and not self._probing)

    def opens_in_s(self, now_s: float) -> float:
        """When to ask `may_call` again; 0.0: it says yes now."""
        if self._opens_s is None:
            return 0.0
        return max(self._opens_s - now_s, PROBE_S if self._probing else 0.0)

    def began(self, now_s: float) -> None:
        """A call begins."""
        self._probing = self.state(now_s) == "half_open"

    def succeeded(self, now_s: float) -> None:
        """It was answered, be it with a refusal of this one request."""
        if self.state(now_s) != "open":
            self._failures, self._opens_s, self._probing = 0, None, False
            self._cool_down_s = FIRST_COOL_DOWN_S

    def failed(self, now_s: float, hard: bool) -> None:
        """It was not. `hard`: no call can do better (the key, the model), so it opens at once and for long."""
        self._failures += 1
        state = self.state(now_s)
        if hard:
            self._open(now_s, LONGEST_COOL_DOWN_S)
        elif state == "half_open":
            self._open(now_s, min(self._cool_down_s * 2, LONGEST_COOL_DOWN_S))
        elif state == "closed" and self._failures >= FAILURES:
            self._open(now_s, self._cool_down_s)

    def abandoned(self, now_s: float) -> None:
        """It says nothing about the target: cancelled, never made, or turned away for its rate."""
        if self.state(now_s) != "open":
            self._probing = False

    def _open(self, now_s: float, cool_down_s: float) -> None:
        self._opens_s, self._cool_down_s, self._probing = now_s + cool_down_s, cool_down_s, False
