"""The book of spending: what every tier-2 process makes of the same log of steps.

Invariants:
- A step's effect depends on the steps before it and on its own time, never on
  the reader's clock or settings: two readers of one log hold equal books.
- While costs stay within their worst cases, no window passes a limit that
  each of its reservations carried.
- A reservation that nobody settles counts at its worst case for as long as its
  windows last: what a crash may have cost is reserved for.
- Memory is bounded: windows that are long over are forgotten, and so are their
  reservations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import inf
from typing import Self, get_args

from schemas.spend import Limit, Pending, Period, Reserve, Settle, SpendSnapshot, SpendWindow, Step

PERIODS: tuple[Period, ...] = get_args(Period)
KEPT_S: dict[Period, float] = {"minute": 10 * 60.0, "day": 24 * 3600.0, "month": 31 * 24 * 3600.0}
"""For how long a window is remembered once it is over. Nothing is decided by it any more, unless the broker's clock is
put back; minutes are kept shorter than days, since a thousand tenants have a thousand of them a minute."""
ABANDONED_S = 10 * 60.0
"""A reservation that is older belongs to no call under way: it won't be settled, so nobody waits for that. A guess: a
ticket's deadline is a fraction of it."""

Key = tuple[str | None, Period, int]
"""Tenant (None for all), period and start of a window."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no room, and when there may be some."""

    limit: Limit
    start_s: int
    """The window's start."""
    resets_in_s: float
    """Until the window is over; infinite where the call alone could pass the limit."""
    final: bool
    """Whether there is no room before, even if every call under way turned out free."""


@dataclass(slots=True)
class _Window:
    micro_usd: int = 0
    reserved_micro_usd: int = 0
    """The part of it that is not settled."""


class SpendBook:
    """Applies steps in the log's order, and says what there is room for."""

    def __init__(self) -> None:
        self.newest_s = 0.0
        """Time of the newest step."""
        self._windows: dict[Key, _Window] = {}
        self._pending: dict[str, Pending] = {}
        """In the log's order, so about the oldest first."""

    def apply(self, step: Step, at_s: float) -> bool:
        """Take one step, written at `at_s`. Returns whether it had an effect: a reservation that is refused or whose id
        is pending has none, nor has a settlement of what is not reserved."""
        if at_s // 60 > self.newest_s // 60:
            self._forget(at_s)
        self.newest_s = max(self.newest_s, at_s)
        return self._reserve(step, at_s) if isinstance(step, Reserve) else self._settle(step)

    def room(self, tenant: str, limits: Sequence[Limit], micro_usd: int, now_s: float) -> Refusal | None:
        """None if the limits leave room for so much at `now_s`.

        Of several refusals: the final one that ends last, else the one that ends first, which is when to look again.
        """
        refusals = [
            self._refusal(tenant, limit, micro_usd, now_s)
            for limit in limits
            if not self._fits(tenant, limit, micro_usd, now_s)
        ]
        if final := [refusal for refusal in refusals if refusal.final]:
            return max(final, key=lambda refusal: refusal.resets_in_s)
        return min(refusals, key=lambda refusal: refusal.resets_in_s, default=None)

    def counted_micro_usd(self, tenant: str | None, period: Period, at_s: float) -> int:
        """What counts in a window: costs, and the worst cases of calls that are not settled."""
        window = self._windows.get((tenant, period, window_s(period, at_s)[0]))
        return window.micro_usd if window else 0

    def is_pending(self, reservation_id: str) -> bool:
        """Whether it is granted and not settled."""
        return reservation_id in self._pending

    def snapshot(self, offset: int) -> SpendSnapshot:
        """The book as a record; `offset` is that of the next step."""
        return SpendSnapshot(
            offset=offset,
            newest_s=self.newest_s,
            windows=tuple(SpendWindow(*key, window.micro_usd) for key, window in self._windows.items()),
            pending=tuple(self._pending.values()),
        )

    @classmethod
    def restored(cls, snapshot: SpendSnapshot) -> Self:
        """The book that a snapshot was made of."""
        book = cls()
        book.newest_s = snapshot.newest_s
        book._windows = {(w.tenant, w.period, w.start_s): _Window(w.micro_usd) for w in snapshot.windows}
        book._pending = {pending.id: pending for pending in snapshot.pending}
        for pending in snapshot.pending:
            for window in book._windows_of(pending):
                window.reserved_micro_usd += pending.micro_usd
        return book

    def _reserve(self, step: Reserve, at_s: float) -> bool:
        if step.id in self._pending or not all(self._fits(step.tenant, li, step.micro_usd, at_s) for li in step.limits):
            return False
        # Limited or not: a limit that is set in the middle of a month must know what the month has cost.
        for key in _keys(step.tenant, at_s):
            window = self._windows.setdefault(key, _Window())
            window.micro_usd += step.micro_usd
            window.reserved_micro_usd += step.micro_usd
        self._pending[step.id] = Pending(step.id, step.tenant, step.micro_usd, at_s)
        return True

    def _settle(self, step: Settle) -> bool:
        pending = self._pending.pop(step.id, None)
        if pending is None:
            return False
        for window in self._windows_of(pending):
            window.micro_usd += step.micro_usd - pending.micro_usd
            window.reserved_micro_usd -= pending.micro_usd
        return True

    def _fits(self, tenant: str, limit: Limit, micro_usd: int, at_s: float) -> bool:
        return self.counted_micro_usd(_scope(limit, tenant), limit.period, at_s) + micro_usd <= limit.micro_usd

    def _refusal(self, tenant: str, limit: Limit, micro_usd: int, now_s: float) -> Refusal:
        start_s, end_s = window_s(limit.period, now_s)
        if micro_usd > limit.micro_usd:
            return Refusal(limit, start_s, inf, final=True)
        scope = _scope(limit, tenant)
        window = self._windows[scope, limit.period, start_s]
        abandoned_micro_usd = sum(
            pending.micro_usd
            for pending in self._abandoned(now_s)
            if start_s <= pending.at_s < end_s and scope in (None, pending.tenant)
        )
        certain_micro_usd = window.micro_usd - window.reserved_micro_usd + abandoned_micro_usd
        return Refusal(limit, start_s, end_s - now_s, final=certain_micro_usd + micro_usd > limit.micro_usd)

    def _abandoned(self, now_s: float) -> Iterator[Pending]:
        for pending in self._pending.values():
            if pending.at_s > now_s - ABANDONED_S:
                return
            yield pending

    def _windows_of(self, pending: Pending) -> Iterator[_Window]:
        return (window for key in _keys(pending.tenant, pending.at_s) if (window := self._windows.get(key)))

    def _forget(self, now_s: float) -> None:
        over = [key for key in self._windows if window_s(key[1], key[2])[1] + KEPT_S[key[1]] < now_s]
        for key in over:
            del self._windows[key]
        # The month is the window that lasts longest.
        months = {start_s for _, period, start_s in self._windows if period == "month"}
        self._pending = {p.id: p for p in self._pending.values() if window_s("month", p.at_s)[0] in months}


def window_s(period: Period, at_s: float) -> tuple[int, int]:
    """Start and end of the UTC calendar minute, day or month around a point in time, in seconds since the epoch."""
    day = int(at_s // 86_400)
    match period:
        case "minute":
            minute = int(at_s // 60)
            return minute * 60, (minute + 1) * 60
        case "day":
            return day * 86_400, (day + 1) * 86_400
        case "month":
            return _month_s(day)


@lru_cache(maxsize=64)
def _month_s(day: int) -> tuple[int, int]:
    start = datetime.fromtimestamp(day * 86_400, UTC).replace(day=1)
    end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()), int(end.timestamp())


def _keys(tenant: str, at_s: float) -> Iterator[Key]:
    for period in PERIODS:
        start_s = window_s(period, at_s)[0]
        yield None, period, start_s
        yield tenant, period, start_s


def _scope(limit: Limit, tenant: str) -> str | None:
    return tenant if limit.scope == "tenant" else None
