"""The hard spend limits: who is let through, who waits, and who is sent away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from schemas.spend import Limit, Reserve, Settle, Step
from workers.errors import PermanentError, RetryableError, WorkerDiedError
from workers.tier2.spend import Reservation, SpendLimitError, SpendLimits, TenantLimits, limits_of
from workers.tier2.spend_book import SpendBook
from workers.tier2.spend_desk import LocalSpend, SpendDesk

NOON_S = 1_795_608_000.0
HALF_A_DAY_S = 43_200.0
DAY = SpendLimits(day_usd=100e-6)
PATIENCE_S = 20.0


class LoggedSpend(SpendDesk):
    """A desk whose steps stand in a list until the test lets them through, as if the list were the log."""

    def __init__(self, limits: SpendLimits = DAY) -> None:
        super().__init__(limits)
        self.sent: list[Step] = []
        self.now = NOON_S
        self.current.set()

    def append(self, step: Step) -> None:
        self.sent.append(step)

    def now_s(self) -> float:
        return self.now

    def read(self, *steps: Step) -> None:
        for step in steps:
            self.apply(step, self.now)

    async def until_sent(self, count: int) -> None:
        await until(lambda: len(self.sent) >= count)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0)


async def settled_loop() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def asking(*calls: Awaitable[Reservation]) -> AsyncIterator[list["asyncio.Task[Reservation]"]]:
    """Callers at work; whoever is left at the end is sent home."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await settled_loop()
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def theirs(micro_usd: int, step_id: str = "theirs") -> Reserve:
    """Another process's reservation."""
    return Reserve(id=step_id, tenant="acme", micro_usd=micro_usd)


def test_a_tenants_limits_are_its_own_or_each_tenants() -> None:
    """None is no limit and 0 is one; dollars become whole micro-dollars."""
    limits = SpendLimits(
        day_usd=12.5,
        tenant_minute_usd=0.29,
        tenants={"big": TenantLimits(month_usd=40), "none": TenantLimits(day_usd=0)},
    )
    assert limits_of(limits, "acme") == (Limit("all", "day", 12_500_000), Limit("tenant", "minute", 290_000))
    assert limits_of(limits, "big") == (Limit("all", "day", 12_500_000), Limit("tenant", "month", 40_000_000))
    assert limits_of(limits, "none") == (Limit("all", "day", 12_500_000), Limit("tenant", "day", 0))
    assert limits_of(SpendLimits(), "acme") == ()


async def test_money_is_granted_only_when_the_log_has_granted_it() -> None:
    """The reservation carries its limits, and nothing is certain before it was read back."""
    desk = LoggedSpend()
    async with asking(desk.reserve("acme", 60, PATIENCE_S)) as (call,):
        (step,) = desk.sent
        assert (step.micro_usd, step.limits) == (60, (Limit("all", "day", 100),))
        assert not call.done()
        desk.read(step)
        assert await call == Reservation(step.id, 60)


async def test_a_call_that_another_process_was_faster_than_waits_and_asks_again() -> None:
    """Both saw room; the log's order decides, and the settlement of the first makes room for the second."""
    desk = LoggedSpend()
    async with asking(desk.reserve("acme", 60, PATIENCE_S)) as (call,):
        desk.read(theirs(50), *desk.sent)
        await settled_loop()
        assert not call.done()
        assert len(desk.sent) == 1, "there is no room, so it asks for none"
        desk.read(Settle(id="theirs", micro_usd=40))
        await desk.until_sent(2)
        desk.read(desk.sent[1])
        assert (await call).id == desk.sent[1].id


async def test_without_room_before_the_reset_the_call_is_refused() -> None:
    """No record is written for it, and the error says when the period ends."""
    desk = LoggedSpend()
    desk.read(theirs(50), Settle(id="theirs", micro_usd=50))
    with pytest.raises(SpendLimitError, match="100 micro-dollars a day") as refused:
        await desk.reserve("acme", 51, PATIENCE_S)
    assert isinstance(refused.value, PermanentError)
    assert refused.value.resets_in_s == HALF_A_DAY_S
    with pytest.raises(SpendLimitError) as refused:
        await desk.reserve("acme", 101, PATIENCE_S)
    assert refused.value.resets_in_s == inf
    assert desk.sent == []


async def test_a_call_that_waits_is_refused_once_the_money_is_spent() -> None:
    """The calls under way ended at their worst case."""
    desk = LoggedSpend()
    desk.read(theirs(80))
    async with asking(desk.reserve("acme", 30, PATIENCE_S)) as (call,):
        assert not call.done()
        desk.read(Settle(id="theirs", micro_usd=80))
        with pytest.raises(SpendLimitError):
            await call


async def test_a_call_that_waits_goes_on_when_a_new_period_begins() -> None:
    """Nobody needs to settle anything for that."""
    desk = LoggedSpend(SpendLimits(minute_usd=100e-6))
    desk.read(theirs(80))
    desk.now = NOON_S + 59.99
    async with asking(desk.reserve("acme", 30, PATIENCE_S)) as (call,):
        assert desk.sent == []
        desk.now = NOON_S + 60
        await desk.until_sent(1)
        desk.read(*desk.sent)
        await call


async def test_a_call_waits_no_longer_than_its_patience() -> None:
    """It may go better later: the error is retryable. What it asked for meanwhile is given back."""
    desk = LoggedSpend()
    with pytest.raises(RetryableError, match="within 0 s"):
        await desk.reserve("acme", 30, 0.01)
    reserve, settle = desk.sent
    assert settle == Settle(id=reserve.id, micro_usd=0)
    desk.read(theirs(80))
    with pytest.raises(RetryableError):
        await desk.reserve("acme", 30, 0.01)
    assert len(desk.sent) == 2


async def test_a_call_that_is_cancelled_gives_back_what_it_may_be_granted() -> None:
    """Before the log has decided, and in the very moment in which it has: no call is made either way."""
    for granted_first in (False, True):
        desk = LoggedSpend()
        async with asking(desk.reserve("acme", 60, PATIENCE_S)) as (call,):
            (reserve,) = desk.sent
            if granted_first:
                desk.read(reserve)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        if not granted_first:
            desk.read(reserve)
        desk.read(*desk.sent[1:])
        assert desk.book.counted_micro_usd(None, "day", NOON_S) == 0


async def test_a_reservation_that_comes_twice_is_given_back() -> None:
    """A broker's answer that is lost makes a client send again; refused the first time, it may fit the second time."""
    desk = LoggedSpend()
    desk.book.apply(theirs(80), NOON_S)
    desk.book.apply(Settle(id="theirs", micro_usd=10), NOON_S)
    async with asking(desk.reserve("acme", 60, PATIENCE_S)) as (call,):
        (first,) = desk.sent
        desk.read(theirs(50, "second"), first, Settle(id="second", micro_usd=0), first)
        assert desk.sent[1] == Settle(id=first.id, micro_usd=0)
        desk.read(desk.sent[1])
        await desk.until_sent(3)
        desk.read(desk.sent[2])
        await call
    assert desk.book.counted_micro_usd(None, "day", NOON_S) == 70


async def test_reading_the_log_again_gives_back_no_call_under_way() -> None:
    """After a lost connection the book is read anew, own reservations among the rest."""
    desk = LoggedSpend()
    async with asking(desk.reserve("acme", 60, PATIENCE_S)) as (call,):
        (reserve,) = desk.sent
        desk.read(reserve)
        await call
        desk.current.clear()
        desk.begin(SpendBook())
        desk.read(reserve)
        desk.caught_up()
        assert desk.sent == [reserve]
        assert desk.book.counted_micro_usd(None, "day", NOON_S) == 60


async def test_what_arrives_late_while_the_log_is_read_again_is_given_back() -> None:
    """Its caller had lost patience, and the settlement had overtaken it."""
    desk = LoggedSpend()
    with pytest.raises(RetryableError):
        await desk.reserve("acme", 60, 0.01)
    reserve, settle = desk.sent
    desk.current.clear()
    desk.read(settle, reserve)
    desk.caught_up()
    assert desk.sent[2:] == [settle]


async def test_what_was_granted_while_the_ledger_was_away_is_found_in_the_new_book() -> None:
    """The caller gets it although its record is never read again."""
    desk = LoggedSpend()
    async with asking(desk.reserve("acme", 60, PATIENCE_S)) as (call,):
        (reserve,) = desk.sent
        assert desk.is_wanted(reserve)
        book = SpendBook()
        book.apply(reserve, NOON_S)
        desk.begin(book)
        assert (await call).id == reserve.id
        assert not desk.is_wanted(reserve)


async def test_nothing_is_asked_for_before_the_book_is_read() -> None:
    """An empty book would have room for everything."""
    desk = LoggedSpend()
    desk.current.clear()
    async with asking(desk.reserve("acme", 60, PATIENCE_S)):
        assert desk.sent == []
        desk.current.set()
        await desk.until_sent(1)


async def test_as_many_ask_as_there_is_room_for() -> None:
    """A hundred callers that all see the last cents don't write a hundred records, and the first one comes first."""
    desk = LoggedSpend()
    async with asking(*(desk.reserve("acme", 40 if n else 41, PATIENCE_S) for n in range(100))):
        assert [step.micro_usd for step in desk.sent] == [41, 40]
        desk.read(*desk.sent)
        await settled_loop()
        assert len(desk.sent) == 2
        desk.read(Settle(id=desk.sent[0].id, micro_usd=1))
        await settled_loop()
        assert len(desk.sent) == 3


async def test_a_refusal_lets_those_go_on_that_stood_behind_it() -> None:
    """What a caller asked for and didn't get is room for a smaller one."""
    desk = LoggedSpend()
    async with asking(desk.reserve("acme", 60, PATIENCE_S), desk.reserve("acme", 50, PATIENCE_S)):
        assert [step.micro_usd for step in desk.sent] == [60]
        desk.read(theirs(45), *desk.sent)
        await settled_loop()
        assert [step.micro_usd for step in desk.sent] == [60, 50]


async def test_a_caller_without_room_holds_up_no_other_tenant() -> None:
    """It waits by itself, and so does one that is too large for what is left."""
    desk = LoggedSpend(SpendLimits(day_usd=100e-6, tenant_day_usd=50e-6))
    desk.read(theirs(40))
    async with asking(desk.reserve("acme", 20, PATIENCE_S), desk.reserve("umbrella", 30, PATIENCE_S)) as calls:
        (step,) = desk.sent
        assert step.tenant == "umbrella"
        desk.read(step)
        await calls[1]
        assert not calls[0].done()


async def test_every_caller_is_told_when_the_ledger_dies() -> None:
    """Those that wait for room, those that wait for an answer, and those that come later."""
    desk = LoggedSpend()
    async with asking(desk.reserve("acme", 90, PATIENCE_S), desk.reserve("acme", 90, PATIENCE_S)) as calls:
        assert len(desk.sent) == 1
        desk.die(WorkerDiedError("gone"))
        for call in calls:
            with pytest.raises(WorkerDiedError):
                await call
        with pytest.raises(WorkerDiedError):
            await desk.reserve("acme", 1, PATIENCE_S)


async def test_the_stage_is_closed_while_the_common_limits_leave_no_room_for_a_usual_call() -> None:
    """One large call closes nothing for the others, and a tenant's limit is no reason either."""
    desk = LoggedSpend(SpendLimits(day_usd=100e-6, tenant_day_usd=90e-6))
    assert desk.closed_for_s() == 0.0
    desk.read(theirs(90))
    for micro_usd in (10, 60):
        async with asking(desk.reserve("umbrella", micro_usd, PATIENCE_S)):
            assert desk.closed_for_s() == 0.0
    desk.read(theirs(1, "more"))
    assert desk.closed_for_s() == HALF_A_DAY_S
    desk.read(Settle(id="more", micro_usd=0))
    assert desk.closed_for_s() == 0.0
    assert LoggedSpend(SpendLimits(tenant_day_usd=0)).closed_for_s() == 0.0


async def test_a_stage_is_closed_at_exactly_the_limit_before_its_first_call() -> None:
    """A process that starts into a used-up day begins nothing."""
    desk = LoggedSpend()
    desk.read(theirs(100))
    assert desk.closed_for_s() == HALF_A_DAY_S


async def test_a_full_window_is_said_once() -> None:
    """By scope, tenant and period; the next window is another one."""
    desk = LoggedSpend(SpendLimits(minute_usd=100e-6))
    with capture_logs() as logs:
        for now_s in (NOON_S, NOON_S + 1, NOON_S + 60):
            desk.now = now_s
            desk.read(theirs(100, str(now_s)), Settle(id=str(now_s), micro_usd=100))
            with pytest.raises(SpendLimitError):
                await desk.reserve("acme", 1, PATIENCE_S)
    assert [(e["event"], e["scope"], e["tenant"], e["period"], e["resets_in_s"]) for e in logs] == [
        ("spend_limit_reached", "all", "", "minute", 60),
        ("spend_limit_reached", "all", "", "minute", 60),
    ]


async def test_a_cost_above_its_reservation_is_said() -> None:
    """And is counted as it is."""
    spend = LocalSpend(SpendLimits())
    reservation = await spend.reserve("acme", 10, PATIENCE_S)
    with capture_logs() as logs:
        spend.settle(reservation, 15)
    assert [(e["event"], e["reserved_micro_usd"], e["cost_micro_usd"]) for e in logs] == [("spend_overrun", 10, 15)]
    assert spend.book.counted_micro_usd("acme", "month", spend.now_s()) == 15


async def test_a_local_ledger_needs_nobody() -> None:
    """Calls under way are waited for, and what is spent is spent until the period is over."""
    now_s = NOON_S
    spend = LocalSpend(DAY, lambda: now_s)
    first = await spend.reserve("acme", 70, PATIENCE_S)
    async with asking(spend.reserve("acme", 70, PATIENCE_S)) as (second,):
        assert not second.done()
        spend.settle(first, 30)
        spend.settle(await second, 70)
    with pytest.raises(SpendLimitError):
        await spend.reserve("acme", 1, PATIENCE_S)
    now_s = NOON_S + HALF_A_DAY_S
    await spend.reserve("acme", 100, PATIENCE_S)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans()), max_size=12))
async def test_the_limit_holds_in_any_order_of_reservations_and_settlements(
    steps: list[tuple[int, int, bool]],
) -> None:
    """With costs within their worst cases, spent plus reserved never passes the limit."""
    spend = LocalSpend(DAY, lambda: NOON_S)
    under_way: list[Reservation] = []
    for worst, cost, settle_oldest in steps:
        counted = spend.book.counted_micro_usd(None, "day", NOON_S)
        try:
            under_way.append(await spend.reserve("acme", worst, 0.0))
        except (SpendLimitError, RetryableError):
            assert counted + worst > 100
        if settle_oldest and under_way:
            oldest = under_way.pop(0)
            spend.settle(oldest, min(cost, oldest.micro_usd))
        assert spend.book.counted_micro_usd(None, "day", NOON_S) <= 100
