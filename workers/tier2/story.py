"""What happened to one ticket on tier-2 so far, and what follows from it: values, no clock and no I/O."""

from dataclasses import dataclass, field

from workers.errors import PermanentError, RetryableError
from workers.tier2 import wire
from workers.tier2.outgoing import Outgoing

TRIES_OF_A_TARGET = 2
"""A target that failed a ticket so often stands behind the others for it."""
BROKEN_ANSWERS = 2
"""Each may have been paid for: one more try is all that a broken answer is worth."""


@dataclass(slots=True)
class Story:
    """One ticket's."""

    outgoing: Outgoing
    tenant: str
    ends_s: float
    """Its deadline, by the client's clock."""
    behind: bool = False
    """Whether calls for live tickets go first."""
    calls: int = 0
    spent_micro_usd: int = 0
    """What its calls certainly cost."""
    exposure_micro_usd: int = 0
    """What those of them may have cost whose outcome is unknown, at most."""
    given_up: set[str] = field(default_factory=set)
    """Targets that won't answer this ticket."""
    instead_of: str = ""
    """The model that was to answer, where a spend limit left no more for it."""
    last: str = "no target is left"
    """The reason of the last failure."""
    _failures: dict[str, int] = field(default_factory=dict)
    """Failed calls, by target."""
    _broken: int = 0

    def paid(self, micro_usd: int, known: bool) -> None:
        """A call is over: what it cost, or may have cost."""
        if known:
            self.spent_micro_usd += micro_usd
        else:
            self.exposure_micro_usd += micro_usd

    def passed_over(self, target: str, reason: str) -> None:
        """A target had no turn for it in time; no call was made."""
        self._failures[target] = TRIES_OF_A_TARGET
        self.last = self.last if self.calls else reason

    def failed(self, target: str, error: RetryableError) -> None:
        """A call failed that may go better."""
        self.last = error.reason
        self._failures[target] = self._failures.get(target, 0) + 1
        if isinstance(error, wire.BrokenAnswerError):
            self._broken += 1
            if self._broken >= BROKEN_ANSWERS:
                self.given_up.add(target)

    def refused(self, target: str, error: PermanentError) -> None:
        """A target serves nobody from here."""
        self.last = error.reason
        self.given_up.add(target)

    def failed_often(self, target: str) -> bool:
        """Whether another target is to be preferred."""
        return self._failures.get(target, 0) >= TRIES_OF_A_TARGET
