"""What stands before the book of the spend limits: callers that wait for room, and the steps that they ask for.

Where the steps go is the owner's: with `LocalSpend` into a book in memory, with streams/spend.py into Kafka, for all
processes.
"""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import isfinite

import structlog

from schemas.spend import Limit, Period, Reserve, Scope, Settle, Step
from workers.errors import WorkerDiedError
from workers.tier2.spend import NoRoomError, Reservation, SpendLimitError, SpendLimits, limits_of
from workers.tier2.spend_book import Refusal, SpendBook

log = structlog.get_logger()

USUAL_CALLS = 32
"""There must be room for the smallest of so many calls. Not for the last one: a call that is far larger than the others
would close a stage whose other calls fit."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    tenant: str
    limits: tuple[Limit, ...]
    micro_usd: int


class SpendDesk(ABC):
    """Takes callers in front of a book that follows a log of steps.

    `append` puts a step on its way to the log; whoever reads the log calls `apply` for each of its steps, these among
    them. A step may come back late, twice or never: a caller then waits, and money is counted for longer, never less.
    """

    def __init__(self, limits: SpendLimits) -> None:
        self.book = SpendBook()
        self.current = asyncio.Event()
        """Set while the book has what stands in the log: only then anything is asked for."""
        self.died: WorkerDiedError | None = None
        """Why nobody will read the log again."""
        self._limits = limits
        self._owner = uuid.uuid4().hex[:12]
        self._numbers = count(1)
        self._asked: dict[str, tuple[asyncio.Future[bool], int]] = {}
        """Reservations on their way through the log, with their micro-dollars."""
        self._held: set[str] = set()
        """Granted reservations whose settlement hasn't been read: their calls may be under way."""
        self._waiting: dict[asyncio.Future[None], _Wanted] = {}
        """Callers without room, in the order in which they came."""
        self._lately: deque[int] = deque(maxlen=USUAL_CALLS)
        self._newest = (time.time(), time.monotonic())
        """Time of the log's newest step, and when it was read here."""
        self._full: dict[tuple[str, Scope, Period], int] = {}
        """Start of the window of which the operator was last told that it is full, by tenant, scope and period."""

    @abstractmethod
    def append(self, step: Step) -> None:
        """Put a step on its way to the log. It must neither wait nor lose it."""

    async def reserve(self, tenant: str, micro_usd: int, patience_s: float) -> Reservation:
        """See `Spend`."""
        wanted = _Wanted(tenant, limits_of(self._limits, tenant), micro_usd)
        self._lately.append(micro_usd)
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    await self.current.wait()
                    await self._room(wanted)
                    step = Reserve(id=self.new_id(), tenant=tenant, micro_usd=micro_usd, limits=wanted.limits)
                    if await self._granted(step):
                        return Reservation(step.id, micro_usd)
        except TimeoutError as exc:
            raise NoRoomError(
                f"spend limits: nothing was granted within {patience_s:.0f} s: calls under way have the room, "
                "or the ledger can't be reached"
            ) from exc

    def settle(self, reservation: Reservation, micro_usd: int) -> None:
        """See `Spend`."""
        if micro_usd > reservation.micro_usd:
            log.warning(
                "spend_overrun",
                reserved_micro_usd=reservation.micro_usd,
                cost_micro_usd=micro_usd,
                consequence="a spend limit may be passed by the difference",
            )
        self.append(Settle(id=reservation.id, micro_usd=micro_usd))

    def closed_for_s(self) -> float:
        """See `Spend`."""
        limits = [limit for limit in limits_of(self._limits, "") if limit.scope == "all"]
        refusal = self.book.room("", limits, max(1, min(self._lately, default=1)), self.now_s())
        return refusal.resets_in_s if refusal else 0.0

    def apply(self, step: Step, at_s: float) -> None:
        """Take the log's next step, written at `at_s` by the log's clock."""
        effective = self.book.apply(step, at_s)
        self._newest = (at_s, time.monotonic())
        if isinstance(step, Settle):
            self._held.discard(step.id)
            self._wake()
        elif step.id in self._asked:
            self._answer(step.id, granted=effective)
            self._wake()
        elif effective and self.current.is_set():
            self._give_back(step.id)

    def begin(self, book: SpendBook) -> None:
        """Begin anew with a book; what was asked for may be in it already."""
        self.book = book
        for reservation_id in [asked for asked in self._asked if book.is_pending(asked)]:
            self._answer(reservation_id, granted=True)

    def caught_up(self) -> None:
        """The book has what stands in the log."""
        for pending in self.book.snapshot(0).pending:
            self._give_back(pending.id)
        self.current.set()

    def is_wanted(self, step: Step) -> bool:
        """Whether a step that may not have reached the log is worth another try."""
        return isinstance(step, Settle) or step.id in self._asked

    def die(self, error: WorkerDiedError) -> None:
        """Send every caller away, and those that come later."""
        self.died = error
        self.current.set()
        for reservation_id in list(self._asked):
            self._answer(reservation_id, granted=False)
        self._wake()

    def new_id(self) -> str:
        """An id that no other step has, and that says whose it is."""
        return f"{self._owner}-{next(self._numbers)}"

    def is_own(self, step: Step) -> bool:
        """Whether this process wrote it."""
        return self._is_own(step.id)

    def now_s(self) -> float:
        """The log's clock: its newest step's time, and what has passed here since. The process's own may be wrong."""
        at_s, since_s = self._newest
        return at_s + time.monotonic() - since_s

    async def _room(self, wanted: _Wanted) -> None:
        """Wait until there is room beside what this process has already asked for: if a hundred callers asked for the
        last cents, the log would fill with what is refused.

        Raises: SpendLimitError; WorkerDiedError.
        """
        while True:
            if self.died:
                raise self.died
            refusal = self._refusal(wanted)
            if refusal and refusal.final:
                raise self._limit_reached(refusal, wanted)
            if not self._refusal(wanted, beside_micro_usd=self._asked_micro_usd()):
                return
            freed = asyncio.get_running_loop().create_future()
            self._waiting[freed] = wanted
            try:
                await asyncio.wait({freed}, timeout=refusal.resets_in_s if refusal else None)
            finally:
                del self._waiting[freed]

    async def _granted(self, step: Reserve) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked[step.id] = answer, step.micro_usd
        try:
            self.append(step)
            return await answer
        except asyncio.CancelledError:
            # No call will be made. If it was refused, or never arrives, this says nothing.
            self._held.discard(step.id)
            self.append(Settle(id=step.id, micro_usd=0))
            raise
        finally:
            self._asked.pop(step.id, None)

    def _answer(self, reservation_id: str, granted: bool) -> None:
        answer, _ = self._asked.pop(reservation_id)
        if not answer.done():
            if granted:
                self._held.add(reservation_id)
            answer.set_result(granted)

    def _give_back(self, reservation_id: str) -> None:
        """Settle one of ours that came twice, or after its caller had gone: no call is made for it."""
        if self._is_own(reservation_id) and reservation_id not in self._held:
            self.append(Settle(id=reservation_id, micro_usd=0))

    def _wake(self) -> None:
        """Let those look again, the first one first, for whom there is room now, or none any more."""
        beside_micro_usd = self._asked_micro_usd()
        for freed, wanted in self._waiting.items():
            refusal = self._refusal(wanted, beside_micro_usd)
            if not freed.done() and (refusal is None or refusal.final or self.died):
                freed.set_result(None)

    def _is_own(self, step_id: str) -> bool:
        return step_id.startswith(self._owner)

    def _asked_micro_usd(self) -> int:
        return sum(micro_usd for _, micro_usd in self._asked.values())

    def _refusal(self, wanted: _Wanted, beside_micro_usd: int = 0) -> Refusal | None:
        return self.book.room(wanted.tenant, wanted.limits, wanted.micro_usd + beside_micro_usd, self.now_s())

    def _limit_reached(self, refusal: Refusal, wanted: _Wanted) -> SpendLimitError:
        limit = refusal.limit
        tenant = wanted.tenant if limit.scope == "tenant" else ""
        if self._full.get((tenant, limit.scope, limit.period)) != refusal.start_s:
            self._full[tenant, limit.scope, limit.period] = refusal.start_s
            log.warning(
                "spend_limit_reached",
                scope=limit.scope,
                tenant=tenant,
                period=limit.period,
                limit_micro_usd=limit.micro_usd,
                resets_in_s=round(refusal.resets_in_s) if isfinite(refusal.resets_in_s) else None,
            )
        whose = "the tenant" if tenant else "all tenants"
        return SpendLimitError(
            f"spend limit: of {limit.micro_usd} micro-dollars a {limit.period} for {whose} less is left than the "
            f"{wanted.micro_usd} that the call may cost",
            refusal.resets_in_s,
        )


class LocalSpend(SpendDesk):
    """Limits of one process by itself, forgotten with it: for tools and tests."""

    def __init__(self, limits: SpendLimits, clock: Callable[[], float] = time.time) -> None:
        super().__init__(limits)
        self._clock = clock
        self.current.set()

    def append(self, step: Step) -> None:
        """Take the step at once."""
        self.apply(step, self._clock())

    def now_s(self) -> float:
        """The process's clock is the log's."""
        return self._clock()
