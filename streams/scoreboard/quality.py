"""What audits say about the answers: the labels in force, and a share of good ones with its interval."""

from collections.abc import Iterable

from msgspec import Struct

from schemas.labels import AUDIT_SOURCES, Label
from schemas.tickets import Moment
from workers.learning.estimates import Estimate, share


class Judged(Struct, frozen=True):
    """What the scoreboard keeps of a label."""

    at: Moment
    offset: int
    category: str
    tier: str
    acceptable: bool
    propensity: float
    shipped: bool | None
    source: str = ""
    """Who judged: a rubric, a model or a person."""


def judged(label: Label, offset: int) -> Judged | None:
    """None for a label that is not an audit's."""
    if label.source not in AUDIT_SOURCES:
        return None
    return Judged(
        label.at, offset, label.category, label.tier, label.acceptable, label.propensity, label.shipped, label.source
    )


def in_force(before: Judged | None, after: Judged) -> Judged:
    """Of two labels of one ticket and tier the later; of two of one moment the one that came last."""
    return after if before is None or (after.at, after.offset) >= (before.at, before.offset) else before


def qualities(labels: Iterable[Judged]) -> dict[tuple[str, str], Estimate]:
    """The share of good answers by category and tier among those that customers got, by inverse propensity.

    A draft that nobody got says nothing about the answers; where it is not known whether it shipped, it counts.
    """
    groups: dict[tuple[str, str], list[Judged]] = {}
    for label in labels:
        if label.shipped is not False:
            groups.setdefault((label.category, label.tier), []).append(label)
            groups.setdefault(("", label.tier), []).append(label)
    return {
        # Sorted, so that not even the last digit depends on the order in which labels came.
        key: share([j.acceptable for j in group], [j.propensity for j in group])
        for key, group in ((k, sorted(g, key=lambda j: (j.at, j.propensity, j.acceptable))) for k, g in groups.items())
    }
