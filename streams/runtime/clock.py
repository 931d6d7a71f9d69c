"""The wall clock, where records need one."""

from datetime import UTC, datetime

LAST_S = 253_402_300_799.0
"""The end of the year 9999."""


def utc_now() -> datetime:
    """Now, with its time zone."""
    return datetime.now(UTC)


def moment(timestamp_s: float) -> datetime:
    """A record's timestamp, seconds since the epoch, as a point in time. It is its producer's to set: one that no
    calendar has is brought to the nearest that one has."""
    return datetime.fromtimestamp(min(max(timestamp_s, 0.0), LAST_S), UTC)


def age_s(since: datetime) -> float:
    """Seconds since then; never negative, since two machines' clocks may differ."""
    return max(0.0, (utc_now() - since).total_seconds())
