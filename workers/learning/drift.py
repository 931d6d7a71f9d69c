"""Has a certificate gone stale? A sequential test on audited answers, and an earlier warning that needs no audits.

Both bet against "nothing has changed", with money that grows only if something has. What is bet on a start at each
ticket is a share of one fortune, so the test is as good at a shift late in the stream as its share there allows, and
the chance that it ever alarms without cause, over the whole stream however long, is at most delta (Ville, 1939).

The test speaks of the tickets audited. Each audited answer is bad with some probability given all that went before,
whatever the chance was that it would be audited: unequal propensities need no weights here, as long as chance draws
the audits among the answers shipped under the certificate. One test a certificate: categories that share one share
its test. A judge who errs is tested against the alpha that his own error leaves (`bounds.judged`).
"""

from math import log2, sqrt
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from workers.learning.bounds import lower_bound, upper_bound

ODDS = (1.5, 2.0, 3.0, 6.0)
"""The bets: that the odds of a bad answer are so many times those of alpha. A guess; for an alpha of 0.05 those are
rates of 0.07, 0.10, 0.14 and 0.24. Between them, and above, one of them is near enough to the best bet. The least is
for the share of refusals, which can change by so little and still say much."""

LATE_STARTS = 5_000
"""By so many tickets a third of the slow half of the fortune has been bet. A guess at a certificate's audits."""

MORE_AUDITS = 5.0
"""An early warning multiplies the share of tickets audited by this: a guess. At a share of 0.05, one ticket in four."""


class DriftTest(Struct, frozen=True, kw_only=True):
    """Tests "given the past, each ticket is bad with probability alpha at most", one ticket at a time.

    Restarted only with a new certificate: restarted more often, each stream has its own delta.
    """

    alpha: float
    delta: float
    """Chance of an alarm, ever, while the hypothesis holds: for this one test. A test for each category, or each new
    certificate, has its own."""
    tickets: int = 0
    bets: tuple[float, ...] = (0.0,) * len(ODDS)
    """What the money put on each of the bets so far has become."""
    alarmed_at: int | None = None
    """Ticket of the alarm, from 1. An alarm stays: to watch on, start a test on the next certificate."""

    @classmethod
    def start(cls, alpha: float, delta: float = 0.05) -> Self:
        """A test that has seen nothing.

        Raises: ValueError if alpha or delta isn't between 0 and 1.
        """
        if not (0 < alpha < 1 and 0 < delta < 1):
            raise ValueError(f"alpha {alpha:g} and delta {delta:g} must lie between 0 and 1: no test was started")
        return cls(alpha=alpha, delta=delta)

    @property
    def wealth(self) -> float:
        """The fortune, which began as 1: below 1 / delta for ever, with probability 1 - delta, if nothing is wrong."""
        return sum(self.bets) / len(self.bets) + unspent(self.tickets)

    @property
    def is_alarm(self) -> bool:
        return self.alarmed_at is not None


def observe(test: DriftTest, bad: bool) -> DriftTest:
    """The test after one more ticket; after an alarm it stays as it is.

    The bet on odds k multiplies money by 1 + l (bad - alpha) with l = (k - 1) / (1 + (k - 1) alpha): on average by 1
    at a rate of alpha, by less below it. That, and that each share is fixed before the ticket is seen, makes the
    fortune a nonnegative supermartingale, so Ville's inequality bounds its maximum.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2020; for the shares
    over start times, Shin, Ramdas, Rinaldo, "E-detectors", 2022.
    """
    if test.is_alarm:
        return test
    tickets = test.tickets + 1
    stake = unspent(test.tickets) - unspent(tickets)
    bets = tuple((b + stake) * growth(k, test.alpha, bad) for b, k in zip(test.bets, ODDS, strict=True))
    seen = replace(test, tickets=tickets, bets=bets)
    return replace(seen, alarmed_at=tickets) if seen.wealth >= 1 / test.delta else seen


def growth(odds: float, alpha: float, bad: bool) -> float:
    """What a ticket makes of each dollar bet on these odds: how much likelier it is under them than under alpha."""
    return (odds if bad else 1.0) / (1 + (odds - 1) * alpha)


def unspent(tickets: int) -> float:
    """The share of the fortune not yet bet after so many tickets.

    Half goes on early starts, about 1 / (t log^2 t) on ticket t, the slowest simple series with a finite sum; half is
    spread over the first thousands of tickets, where a shift would otherwise find almost nothing to win with.
    """
    return 0.5 / log2(tickets + 2) + 0.5 / sqrt(1 + tickets / LATE_STARTS)


class EarlyWarning(Struct, frozen=True, kw_only=True):
    """Tests whether the checker refuses drafts as often as when the certificate was made: no audits needed.

    It says that the tickets or the drafts have changed, not that answers are bad: a wave of one kind of question sets
    it off too. So it raises the share of audits and withdraws nothing; and it can't see a change that leaves text and
    drafts as they were, such as a new price that tier-1 doesn't know.
    """

    more: DriftTest
    """That drafts are refused more often."""
    fewer: DriftTest
    """That drafts pass more often: "bad" is a draft that passed."""

    @classmethod
    def start(cls, refused: int, drafts: int, delta: float = 0.05) -> Self:
        """From the refusals among the drafts that the certificate was made from, all of the category's.

        Half of delta is spent on not knowing the true share from so few, half on the two tests: a false warning, ever,
        has probability delta at most.

        Raises: ValueError if there are no drafts.
        """
        if drafts < 1:
            raise ValueError("no drafts, so nothing to compare the share of refusals with: no warning was started")
        # A bound of exactly 0 or 1 leaves nothing to bet against.
        most = min(upper_bound(refused, drafts, delta / 4), 1 - 1e-9)
        least = max(lower_bound(refused, drafts, delta / 4), 1e-9)
        return cls(more=DriftTest.start(most, delta / 4), fewer=DriftTest.start(1 - least, delta / 4))

    @property
    def is_warning(self) -> bool:
        return self.more.is_alarm or self.fewer.is_alarm


def observe_check(warning: EarlyWarning, refused: bool) -> EarlyWarning:
    """The warning after the checker's verdict on one more draft: every draft counts, not the audited ones."""
    return EarlyWarning(more=observe(warning.more, refused), fewer=observe(warning.fewer, not refused))


def audit_share(usual: float, warning: EarlyWarning) -> float:
    """The share of tickets to audit now."""
    return min(1.0, usual * MORE_AUDITS) if warning.is_warning else usual
