"""Which lane a topic is, and how much of a process the slow lane may take: plain functions over values."""

from enum import StrEnum

from schemas.topics import BACKFILL, RETRY

LATE_LOOP_S = 0.02
"""A process whose event loop is later than this has no processor time to spare (a guess)."""


class Lane(StrEnum):
    """Whose turn it is, in this order."""

    LIVE = "live"
    RETRY = "retry"
    """Records parked until a due time."""
    BACKFILL = "backfill"


def lane_of(topic: str) -> Lane:
    """By the topic's name."""
    if topic.endswith(BACKFILL):
        return Lane.BACKFILL
    return Lane.RETRY if topic.endswith(RETRY) else Lane.LIVE


def backfill_room(
    *,
    max_in_flight: int,
    live_in_flight: int,
    backfill_in_flight: int,
    live_waiting: int,
    oldest_live_s: float,
    objective_s: float,
    loop_late_s: float,
) -> int:
    """How many backfill records may begin now: spare slots only, and none while live records wait or are late, or the
    processor is what there is too little of.

    A quarter of the slots stays free, so that a live record that comes now begins at once.
    `oldest_live_s` is the age of the oldest unfinished live record, `loop_late_s` is from `lateness`; seconds.
    """
    if live_waiting or oldest_live_s > objective_s or loop_late_s > LATE_LOOP_S:
        return 0
    return max(0, max_in_flight - max_in_flight // 4 - live_in_flight - backfill_in_flight)


def lateness(before_s: float, late_s: float) -> float:
    """How late an event loop is, from what it was before and how late its last tick came: it grows at once, and halves
    with each tick on time, so that what held it up is over before the slow lane goes on."""
    return max(late_s, before_s / 2)
