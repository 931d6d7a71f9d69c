"""The wall clock, where records need one."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, with its time zone."""
    return datetime.now(UTC)


def age_s(since: datetime) -> float:
    """Seconds since then; never negative, since two machines' clocks may differ."""
    return max(0.0, (utc_now() - since).total_seconds())
