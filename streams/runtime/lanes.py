"""Which lane a topic is, and how much of a process the slow lane may take: plain functions over values."""

from enum import StrEnum

from schemas.topics import BACKFILL, RETRY


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
) -> int:
    """How many backfill records may begin now: spare slots only, and none while live records wait or are late.

    A quarter of the slots stays free, so that a live record that comes now begins at once.
    `oldest_live_s` is the age of the oldest unfinished live record, seconds.
    """
    if live_waiting or oldest_live_s > objective_s:
        return 0
    return max(0, max_in_flight - max_in_flight // 4 - live_in_flight - backfill_in_flight)
