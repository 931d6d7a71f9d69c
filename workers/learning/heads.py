"""Everything of the router that is fitted on a frozen encoder, from labelled outcomes. Needs the `learn` extra."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.learning import classes, phrases, scope, success
from workers.learning.classes import ClassHead, Subjects
from workers.learning.labels import LabelledOutcome, weights
from workers.learning.phrases import Phrases
from workers.learning.reading import Reading
from workers.learning.scope import Scope
from workers.learning.success import Success, Views
from workers.router.classifier import category_of

Floats = NDArray[np.float64]

NO_CLASS = "tickets"
"""The one class of a router without knowledge whose tickets name no category."""

LEAST_OF_CATEGORY = 5
"""A rarer bare category is not learned: its tickets go to the likeliest other."""


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """Everything that is fitted on a frozen encoder."""

    phrases: Phrases
    classes: ClassHead
    tier1: Success
    tier2: Success
    scope: Scope
    labels: int
    """Outcomes of tier-1 among the rows."""

    def p_ok(self, reading: Reading) -> Floats:
        """(n,), as the graph gives it."""
        certainty = self.classes.probabilities(self.phrases, reading).max(axis=1)
        return self.tier1.probabilities(Views.of(self.phrases, reading, certainty))


def fit_heads(rows: Sequence[LabelledOutcome], reading: Reading, knowledge: Subjects, kinds_of_pieces: Floats) -> Heads:
    """Fit all heads on rows that `reading` has read.

    Raises: ValueError if there are outcomes of tier-1, but too few good or bad ones, or too few rows at all.
    """
    fitted = phrases.fit(reading.pieces, kinds_of_pieces)
    head, certainty = _classes(rows, reading, knowledge, fitted)
    views = Views.of(fitted, reading, certainty)
    labels = sum(row.tier1_ok is not None for row in rows)
    tier1 = _tier(rows, views, [row.tier1_ok for row in rows]) if labels else success.constant(views, 0.0)
    outcomes = Counter(row.tier2_ok for row in rows)
    if min(outcomes[True], outcomes[False]) >= success.FOLDS:
        tier2 = _tier(rows, views, [row.tier2_ok for row in rows])
    else:
        # Of a tier whose failures are few or unknown, the rule of succession says what can be said.
        some = outcomes[True] + outcomes[False]
        tier2 = success.constant(views, (outcomes[True] + 1) / (some + 2) if some else 1.0)
    return Heads(fitted, head, tier1, tier2, scope.fit(reading.embeddings, reading.pieces), labels)


def out_of_fold_p_ok(
    rows: Sequence[LabelledOutcome], reading: Reading, knowledge: Subjects, kinds_of_pieces: Floats
) -> Floats:
    """p_ok (n,) of labelled rows, each by heads that have not seen it: what a scorer or thresholds may be fitted on.

    How certain the class is comes out of fold as in `fit_heads`. Rows without a label get nan.

    Raises: ValueError as `fit_heads`, for the rows of any fold.
    """
    fitted = phrases.fit(reading.pieces, kinds_of_pieces)
    _, certainty = _classes(rows, reading, knowledge, fitted)
    views = Views.of(fitted, reading, certainty)
    labelled = np.flatnonzero([row.tier1_ok is not None for row in rows])
    found = np.full(len(rows), np.nan)
    for kept, held_out in success.folds(np.array([rows[int(i)].tier1_ok for i in labelled])):
        some = labelled[kept]
        tier1 = _tier([rows[int(i)] for i in some], views.take(some), [rows[int(i)].tier1_ok for i in some])
        found[labelled[held_out]] = tier1.probabilities(views.take(labelled[held_out]))
    return found


def _tier(rows: Sequence[LabelledOutcome], views: Views, outcomes: Sequence[bool | None]) -> Success:
    there = np.flatnonzero([outcome is not None for outcome in outcomes])
    ok = np.array([outcomes[int(i)] is True for i in there])
    return success.fit(views.take(there), ok, weights([rows[int(i)] for i in there]))


def _classes(
    rows: Sequence[LabelledOutcome], reading: Reading, knowledge: Subjects, fitted: Phrases
) -> tuple[ClassHead, Floats]:
    """The class head, and how certain such a head is of each row, (n,), when it has not seen that row."""
    names = _names(rows, knowledge)
    taught = np.flatnonzero([name != "" for name in names])
    if len(taught) < classes.FOLDS:
        # Too few to teach anything: the passages' own texts must do, or there is one class.
        taught = np.arange(0 if knowledge.names else len(rows))
        names = [NO_CLASS] * len(rows)
    tickets = Subjects(reading.take(taught), tuple(names[int(i)] for i in taught))
    head = classes.fit(fitted, tickets, knowledge)
    certainty = head.probabilities(fitted, reading).max(axis=1)
    if len(taught):
        # A model's opinion of its own training rows is surer than it will ever be of a new ticket.
        certainty[taught] = classes.out_of_fold(fitted, tickets, knowledge).max(axis=1)
    return head, certainty


def _names(rows: Sequence[LabelledOutcome], knowledge: Subjects) -> list[str]:
    """Each row's class: its passage, or its category where no passage is of that category; empty teaches nothing."""
    passages = {*knowledge.names, *(row.passage for row in rows if row.passage)}
    with_passages = {category_of(name) for name in passages}
    bare = Counter(row.category for row in rows if not row.passage)
    common = {name for name, count in bare.items() if name and count >= LEAST_OF_CATEGORY} - with_passages
    return [row.passage or (row.category if row.category in common else "") for row in rows]
