"""How often a judge errs, against people or rubrics: the part of a certificate that the judge's labels can't tell.

The two errors are counted apart, since only a miss (a bad answer accepted) makes a bound too good; what it costs the
bound is the solver's matter. Exact only for cases that were chosen without regard to the judge's word, one answer a
ticket: two answers to one ticket err together.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from workers.learning.bounds import lower_bound, upper_bound


class Checked(NamedTuple):
    """One answer that the judge and somebody who knows both judged."""

    accepted: bool
    """By the judge."""
    acceptable: bool


@dataclass(frozen=True, slots=True)
class Share:
    """A share with exact bounds: each holds with probability 1 - delta, both with 1 - 2 delta."""

    count: int
    of: int
    low: float
    high: float

    @property
    def rate(self) -> float | None:
        return self.count / self.of if self.of else None


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against the truth."""

    miss: Share
    """Of the bad answers, those that the judge accepts: P(judge accepts | bad). A certificate carries its `high`."""
    false_alarm: Share
    """Of the good answers, those that the judge refuses: P(judge refuses | good). It costs money, not safety."""
    kappa: float | None
    """Cohen's: agreement beyond chance, at most 1; None where chance alone would agree always."""


def agreement(checked: Iterable[Checked], delta: float) -> Agreement:
    """The judge's errors. With no bad answers among those checked nothing is known of its misses: `high` is 1.

    Raises: ValueError unless 0 < delta < 0.5.
    """
    accepts = {True: [0, 0], False: [0, 0]}
    for accepted, acceptable in checked:
        accepts[acceptable][accepted] += 1
    (refused_bad, accepted_bad), (refused_good, accepted_good) = accepts[False], accepts[True]
    return Agreement(
        miss=share(accepted_bad, accepted_bad + refused_bad, delta),
        false_alarm=share(refused_good, accepted_good + refused_good, delta),
        kappa=_kappa(accepted_good, refused_good, accepted_bad, refused_bad),
    )


def share(count: int, of: int, delta: float) -> Share:
    """`count` of `of` with one-sided bounds at `delta` each.

    Raises: ValueError unless 0 < delta < 0.5 and 0 <= count <= of.
    """
    if not (0 < delta < 0.5 and 0 <= count <= of):
        raise ValueError(f"no share: {count} of {of} at delta {delta}")
    return Share(count, of, lower_bound(count, of, delta), upper_bound(count, of, delta))


def _kappa(accepted_good: int, refused_good: int, accepted_bad: int, refused_bad: int) -> float | None:
    good, bad = accepted_good + refused_good, accepted_bad + refused_bad
    accepted, refused = accepted_good + accepted_bad, refused_good + refused_bad
    # Times the square of the number of answers, so that whole numbers decide whether there is one.
    square, by_chance = (good + bad) ** 2, good * accepted + bad * refused
    if by_chance == square:
        return None
    return ((accepted_good + refused_bad) * (good + bad) - by_chance) / (square - by_chance)
