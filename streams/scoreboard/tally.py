"""What events add up to, window by window: plain functions over values.

All sums are of whole numbers, so neither the order of events nor the way in
which windows are merged changes anything, to the last digit.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import fields

from schemas.answers import GateReason
from schemas.events import Event

WINDOW_S = 300
"""The windows that are kept. Longer ones are these, merged."""

K = TypeVar("K")

PICO = 10**12

FINEST_S = 0.001
"""Ages below it share a bucket."""
BUCKETS_PER_DECADE = 20
"""A bucket is 12 % wide, so a quantile is read to within 6 %."""


class CellKey(Struct, frozen=True, order=True):
    """One window of one category and tier. `start_s` is in seconds since the epoch, a multiple of WINDOW_S."""

    start_s: int
    category: str
    tier: str


class Cell(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sums of some events. Costs are whole picodollars by stage: dollars would add up differently in each order."""

    events: int = 0
    routed: int = 0
    answered: int = 0
    escalated: int = 0
    """Tier-1 drafts that were refused, and tickets that tier-1 could not take; not the shadow's drafts."""
    shadowed: int = 0
    """Tier-1 drafts that were made to be judged only."""
    handed_off: int = 0
    dead_lettered: int = 0
    duplicates: int = 0
    """Tickets that a helpdesk published again."""
    took_tier2: int = 0
    """Tickets that tier-2 has worked on."""
    reasons: dict[str, int] = {}
    """Why drafts were escalated; a draft may have several reasons."""
    cost_pico: dict[str, int] = {}
    ages: dict[int, int] = {}
    """Answers by the bucket of their age, see `bucket`."""


COUNTS = tuple(field.name for field in fields(Cell) if field.type is int)
"""A cell's fields that are added up as they are."""


def window_start(at: datetime) -> int:
    """The start of the window that a moment falls into, seconds since the epoch."""
    return int(at.timestamp() // WINDOW_S) * WINDOW_S


def key_of(event: Event) -> CellKey:
    """Where an event is counted. An escalation is tier-1's, whoever says so."""
    return CellKey(window_start(event.at), event.category, "tier1" if event.outcome == "escalated" else event.tier)


def cell_of(event: Event) -> Cell:
    """One event as a sum."""
    outcome = event.outcome
    shadow = outcome == "escalated" and tuple(event.reasons) == (GateReason.SHADOW.value,)
    escalated = outcome == "escalated" and not shadow
    cost_pico = round(event.cost_usd * PICO) if math.isfinite(event.cost_usd) else 0
    return Cell(
        events=1,
        routed=int(outcome == "routed"),
        answered=int(outcome == "answered"),
        escalated=int(escalated),
        shadowed=int(shadow),
        handed_off=int(outcome == "handed_off"),
        dead_lettered=int(outcome == "dead_lettered"),
        duplicates=int(outcome == "duplicate"),
        took_tier2=int(event.stage == "tier2" and outcome in ("drafted", "handed_off")),
        reasons=dict(Counter(event.reasons)) if escalated else {},
        cost_pico={event.stage: cost_pico} if cost_pico else {},
        # A backfill waits for spare capacity: its ages say nothing of what customers wait for.
        ages={bucket(event.age_s): 1} if outcome == "answered" and not event.replay_id else {},
    )


def merge(cells: Iterable[Cell]) -> Cell:
    """The sum of sums."""
    cells = list(cells)
    return Cell(
        **{name: sum(getattr(cell, name) for cell in cells) for name in COUNTS},
        reasons=_added(cell.reasons for cell in cells),
        cost_pico=_added(cell.cost_pico for cell in cells),
        ages=_added(cell.ages for cell in cells),
    )


def bucket(age_s: float) -> int:
    """The number of the logarithmic bucket of an age; it holds ages up to `upper_s` of it."""
    if not age_s > FINEST_S:
        return 0
    # An age that is no number would end the count; a day-long bucket more doesn't.
    return math.ceil(math.log10(min(age_s, 1e9) / FINEST_S) * BUCKETS_PER_DECADE)


def upper_s(number: int) -> float:
    """The highest age of a bucket."""
    return FINEST_S * math.pow(10.0, number / BUCKETS_PER_DECADE)


def quantile_s(ages: Mapping[int, int], share: float) -> float | None:
    """The upper end of the bucket of the nearest-rank quantile, so never below it; None of no ages."""
    rank = max(1, math.ceil(share * sum(ages.values())))
    for number in sorted(ages):
        rank -= ages[number]
        if rank <= 0:
            return upper_s(number)
    return None


def _added(dicts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    total: Counter[K] = Counter()
    for one in dicts:
        total.update(one)
    return dict(total)
