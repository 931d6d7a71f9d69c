"""The hard spend limits, as whoever pays for calls sees them: money is reserved before a call and settled after it, in
whole micro-dollars.

What is granted is decided by the book alone (spend_book.py), step by step in one order; before it
stands the desk that takes the callers (spend_desk.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.spend import Limit, Period, Scope
from workers.errors import PermanentError, RetryableError


class SpendLimitError(PermanentError):
    """A limit leaves no room for the call, so it is not made."""

    def __init__(self, reason: str, resets_in_s: float) -> None:
        """`resets_in_s`: until the limit's period is over; infinite where the call alone could pass the limit."""
        super().__init__(reason)
        self.resets_in_s = resets_in_s


class NoRoomError(RetryableError):
    """Calls under way took all that a limit leaves, for as long as the caller would wait; or the ledger was away."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for one call."""

    id: str
    micro_usd: int


class Spend(Protocol):
    """What whoever pays for calls needs."""

    async def reserve(self, tenant: str, micro_usd: int, patience_s: float) -> Reservation:
        """Set a call's worst case aside, for all processes, before the call is made.

        Raises: SpendLimitError if there is no room before the limit's period ends; NoRoomError if nothing was
        granted within `patience_s`: calls under way have the room, or the ledger can't be reached; WorkerDiedError.
        """

    def settle(self, reservation: Reservation, micro_usd: int) -> None:
        """Replace a reservation by what the call cost: 0 where the provider certainly charged nothing."""

    def closed_for_s(self) -> float:
        """0 while the limits for all tenants together leave room for a usual call, else seconds until there may be."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Limits of one tenant, dollars by UTC calendar minute, day and month. None is no limit, and 0 is a limit."""

    minute_usd: float | None = None
    day_usd: float | None = None
    month_usd: float | None = None


@dataclass(frozen=True, slots=True)
class SpendLimits:
    """Limits of all tenants together, and of each. None is no limit, and 0 is a limit."""

    minute_usd: float | None = None
    day_usd: float | None = None
    month_usd: float | None = None
    tenant_minute_usd: float | None = None
    tenant_day_usd: float | None = None
    tenant_month_usd: float | None = None
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    """Tenants with limits of their own, all three of them, in place of each tenant's."""


def limits_of(limits: SpendLimits, tenant: str) -> tuple[Limit, ...]:
    """The limits that a tenant's reservations are judged by."""
    each = TenantLimits(limits.tenant_minute_usd, limits.tenant_day_usd, limits.tenant_month_usd)
    own = limits.tenants.get(tenant, each)
    usd: tuple[tuple[Scope, Period, float | None], ...] = (
        ("all", "minute", limits.minute_usd),
        ("all", "day", limits.day_usd),
        ("all", "month", limits.month_usd),
        ("tenant", "minute", own.minute_usd),
        ("tenant", "day", own.day_usd),
        ("tenant", "month", own.month_usd),
    )
    return tuple(Limit(scope, period, round(most * 1e6)) for scope, period, most in usd if most is not None)
