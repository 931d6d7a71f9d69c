"""The book of spending: the same log makes the same book, and no window passes a limit."""

from datetime import UTC, datetime
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.codec import decode, encode
from schemas.spend import Limit, Period, Reserve, Settle, SpendEntry, SpendSnapshot, Step
from workers.tier2.spend_book import ABANDONED_S, PERIODS, SpendBook, window_s

NOON_S = datetime(2026, 11, 25, 12, 0, tzinfo=UTC).timestamp()
DAY_S = 86_400.0
DAY = (Limit("all", "day", 100),)
TENANTS = ("acme", "umbrella")
LIMITS = (
    Limit("all", "minute", 60),
    Limit("all", "day", 150),
    Limit("all", "month", 300),
    Limit("tenant", "minute", 50),
    Limit("tenant", "day", 90),
    Limit("tenant", "month", 200),
)

Log = list[tuple[Step, float]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Reservations and settlements in any order, with costs within their worst cases; ids may repeat or be nobody's,
    and the broker's clock may be put back a little."""
    at_s, log = NOON_S, []
    worst: dict[str, int] = {}
    for _ in range(draw(st.integers(0, 40))):
        at_s += draw(st.sampled_from([0.0, 0.5, 30.0, 700.0, DAY_S, 20 * DAY_S, -2.0]))
        step_id = draw(st.sampled_from("abcdefgh"))
        if draw(st.booleans()):
            micro_usd = worst.setdefault(step_id, draw(st.integers(0, 60)))
            tenant = draw(st.sampled_from(TENANTS))
            log.append((Reserve(id=step_id, tenant=tenant, micro_usd=micro_usd, limits=LIMITS), at_s))
        else:
            log.append((Settle(id=step_id, micro_usd=draw(st.integers(0, worst.get(step_id, 60)))), at_s))
    return log


def reserve(step_id: str, micro_usd: int, limits: tuple[Limit, ...] = DAY, tenant: str = "acme") -> Reserve:
    return Reserve(id=step_id, tenant=tenant, micro_usd=micro_usd, limits=limits)


def settle(step_id: str, micro_usd: int) -> Settle:
    return Settle(id=step_id, micro_usd=micro_usd)


def read(log: Log, book: SpendBook | None = None) -> SpendBook:
    book = book or SpendBook()
    for step, at_s in log:
        book.apply(step, at_s)
    return book


@given(logs())
def test_no_window_passes_a_limit_while_costs_stay_within_their_worst_cases(log: Log) -> None:
    """In any interleaving, for all tenants and for each, in every period."""
    book = SpendBook()
    for step, at_s in log:
        book.apply(step, at_s)
        for limit in LIMITS:
            for tenant in (None,) if limit.scope == "all" else TENANTS:
                assert 0 <= book.counted_micro_usd(tenant, limit.period, at_s) <= limit.micro_usd


@given(logs())
def test_a_window_counts_costs_and_the_worst_cases_of_what_is_not_settled(log: Log) -> None:
    """Against a model that remembers every grant and adds them up."""
    book, grants, at_s = SpendBook(), [], NOON_S
    for step, at_s in log:
        effective = book.apply(step, at_s)
        if isinstance(step, Reserve) and effective:
            grants.append([step.id, step.tenant, at_s, step.micro_usd, False])
        if isinstance(step, Settle) and effective:
            # The last one: an earlier one of this id was forgotten with its month.
            grant = [g for g in grants if g[0] == step.id and not g[4]][-1]
            grant[3:] = step.micro_usd, True
        for period in PERIODS:
            start_s, end_s = window_s(period, at_s)
            for tenant in (None, *TENANTS):
                wanted = sum(g[3] for g in grants if start_s <= g[2] < end_s and tenant in (None, g[1]))
                assert book.counted_micro_usd(tenant, period, at_s) == wanted


@given(logs(), st.integers(0, 40))
def test_a_book_read_from_a_snapshot_equals_one_read_from_the_start(log: Log, cut: int) -> None:
    """Wherever the snapshot was made, and through the bytes that travel; so two readers never disagree."""
    snapshot = decode(SpendSnapshot, encode(read(log[:cut]).snapshot(cut)))
    travelled = [(decode(SpendEntry, encode(SpendEntry(step=step))).step, at_s) for step, at_s in log[cut:]]
    late, early = read(travelled, SpendBook.restored(snapshot)), read(log)
    assert late.snapshot(len(log)) == early.snapshot(len(log))
    newest_s = max((at_s for _, at_s in log), default=NOON_S)
    for micro_usd in (1, 30, 60):
        for now_s in (newest_s, newest_s + ABANDONED_S):
            assert late.room("acme", LIMITS, micro_usd, now_s) == early.room("acme", LIMITS, micro_usd, now_s)


@given(logs(), st.sampled_from(TENANTS), st.integers(0, 60))
@example([(reserve("a", 60, LIMITS), NOON_S)], "acme", 60)
def test_there_is_room_for_exactly_what_would_be_granted(log: Log, tenant: str, micro_usd: int) -> None:
    """What `room` says of a moment is what the log decides then; a final refusal outlives the calls under way."""
    book = read(log)
    now_s = log[-1][1] if log else NOON_S
    refusal = book.room(tenant, LIMITS, micro_usd, now_s)
    if refusal and refusal.final:
        for pending in book.snapshot(0).pending:
            if pending.at_s > now_s - ABANDONED_S:
                book.apply(settle(pending.id, 0), now_s)
    elif refusal:
        assert not SpendBook.restored(book.snapshot(0)).apply(reserve("new", micro_usd, LIMITS, tenant), now_s)
        for step, _ in log:
            book.apply(settle(step.id, 0), now_s)
        assert book.room(tenant, (refusal.limit,), micro_usd, now_s) is None
        return
    assert book.apply(reserve("new", micro_usd, LIMITS, tenant), now_s) == (refusal is None)


@given(st.integers(0, 4_000_000_000), st.sampled_from(PERIODS))
def test_windows_are_utc_calendar_periods(at_s: int, period: Period) -> None:
    """Each ends where the next begins, and no local time moves them."""
    start_s, end_s = window_s(period, at_s)
    assert start_s <= at_s < end_s
    assert window_s(period, end_s)[0] == end_s
    assert window_s(period, end_s - 0.001) == (start_s, end_s)
    start, units = datetime.fromtimestamp(start_s, UTC), ("second", "minute", "hour")
    assert not any(getattr(start, unit) for unit in units[: 1 if period == "minute" else 3])
    assert period != "month" or start.day == 1


def test_a_call_that_could_pass_the_limit_is_refused() -> None:
    """Spent, reserved and the new worst case are summed; exactly the limit is allowed."""
    book = read([(reserve("a", 50), NOON_S), (settle("a", 30), NOON_S), (reserve("b", 40), NOON_S)])
    assert not book.apply(reserve("c", 31), NOON_S)
    assert book.counted_micro_usd(None, "day", NOON_S) == 70
    assert book.apply(reserve("d", 30), NOON_S)


def test_each_tenant_has_its_own_windows() -> None:
    """One that has used its share up leaves the others theirs, and a limit of a tenant counts that tenant only."""
    limits = (Limit("tenant", "day", 50), Limit("all", "day", 100))
    book = read([(reserve("a", 50, limits), NOON_S)])
    assert not book.apply(reserve("b", 1, limits), NOON_S)
    assert book.apply(reserve("c", 50, limits, "umbrella"), NOON_S)
    assert not book.apply(reserve("d", 1, (Limit("all", "day", 100),), "third"), NOON_S)


def test_a_limit_that_is_new_finds_what_was_spent_before() -> None:
    """Money is counted in every window, limited or not."""
    book = read([(reserve("a", 60, ()), NOON_S), (settle("a", 60), NOON_S)])
    assert not book.apply(reserve("b", 50, (Limit("tenant", "month", 100),)), NOON_S + DAY_S)


@pytest.mark.parametrize(("period", "later_s"), [("minute", 60.0), ("day", DAY_S), ("month", 6 * DAY_S)])
def test_a_new_period_has_the_whole_limit_again(period: Period, later_s: float) -> None:
    """On 25 November the month has five more days and some hours."""
    limits = (Limit("all", period, 100),)
    book = read([(reserve("a", 100, limits), NOON_S)])
    assert not book.apply(reserve("b", 1, limits), NOON_S)
    assert book.apply(reserve("c", 100, limits), NOON_S + later_s)


def test_a_call_settled_in_the_next_period_counts_where_it_was_reserved() -> None:
    """A call over midnight is the old day's."""
    midnight_s = window_s("day", NOON_S)[1]
    book = read([(reserve("a", 80), midnight_s - 1), (settle("a", 10), midnight_s + 1)])
    assert book.counted_micro_usd(None, "day", midnight_s - 1) == 10
    assert book.counted_micro_usd(None, "day", midnight_s + 1) == 0


def test_settlements_of_nothing_and_repeated_ids_have_no_effect() -> None:
    """Records may be sent twice, and refused calls are settled by processes that could not know."""
    log: Log = [(reserve("a", 60), NOON_S), (reserve("b", 60), NOON_S)]
    book = read(log)
    before = book.snapshot(0)
    assert not book.apply(settle("b", 5), NOON_S), "b was refused"
    assert not book.apply(reserve("a", 10), NOON_S), "a is pending"
    assert not book.apply(settle("nobody", 5), NOON_S)
    assert book.snapshot(0) == before
    assert book.apply(settle("a", 20), NOON_S)
    assert not book.apply(settle("a", 60), NOON_S)
    assert book.counted_micro_usd(None, "day", NOON_S) == 20


def test_what_is_never_settled_stays_counted_at_its_worst_case() -> None:
    """A crash between reservation and settlement may have cost all of it."""
    book = read([(reserve("a", 70, (Limit("all", "month", 100),)), NOON_S)])
    assert not book.apply(reserve("b", 31, (Limit("all", "month", 100),)), NOON_S + 3 * DAY_S)


def test_a_cost_above_its_reservation_is_counted_as_it_is() -> None:
    """The money is gone; the calls after it have that much less."""
    book = read([(reserve("a", 10), NOON_S), (settle("a", 95), NOON_S)])
    assert not book.apply(reserve("b", 6), NOON_S)
    assert book.apply(reserve("c", 5), NOON_S)


def test_a_refusal_is_final_only_if_the_money_is_spent() -> None:
    """Calls under way may end below their worst case; those that a dead process left behind will not."""
    book = read([(reserve("a", 80), NOON_S)])
    waiting = book.room("acme", DAY, 80, NOON_S + 5)
    assert waiting
    assert (waiting.final, waiting.resets_in_s) == (False, DAY_S / 2 - 5)
    dead = book.room("acme", DAY, 80, NOON_S + ABANDONED_S)
    assert dead
    assert dead.final
    book.apply(settle("a", 30), NOON_S + 6)
    spent = book.room("acme", DAY, 80, NOON_S + 6)
    assert spent
    assert spent.final
    assert book.room("acme", DAY, 70, NOON_S + 6) is None


def test_what_other_tenants_left_behind_makes_no_refusal_final() -> None:
    """A tenant's own calls under way may still make room in its own limit."""
    limits = (Limit("tenant", "day", 100),)
    book = read([(reserve("a", 80, tenant="umbrella"), NOON_S), (reserve("b", 80, limits), NOON_S + ABANDONED_S)])
    waiting = book.room("acme", limits, 80, NOON_S + ABANDONED_S)
    assert waiting
    assert not waiting.final


def test_a_call_above_the_whole_limit_never_gets_room() -> None:
    """No reset helps it."""
    refusal = SpendBook().room("acme", DAY, 101, NOON_S)
    assert refusal
    assert (refusal.final, refusal.resets_in_s) == (True, inf)


def test_the_refusal_that_counts_is_the_final_one_that_ends_last() -> None:
    """Else a ticket that is held until the minute is over would meet the day's limit then."""
    limits = (Limit("all", "minute", 50), Limit("all", "day", 60), Limit("all", "month", 61))
    log: Log = [(reserve("a", 50, ()), NOON_S), (settle("a", 50), NOON_S), (reserve("b", 9, ()), NOON_S)]
    book = read(log)
    both = book.room("acme", limits[:2], 11, NOON_S)
    assert both
    assert (both.limit.period, both.final) == ("day", True)
    minute = book.room("acme", limits, 3, NOON_S)
    assert minute
    assert (minute.limit.period, minute.final) == ("minute", True)
    waiting = book.room("acme", limits[1:], 3, NOON_S)
    assert waiting
    assert (waiting.limit.period, waiting.final) == ("day", False)


def test_memory_is_bounded() -> None:
    """Windows that are long over are forgotten, and with the month its reservations."""
    book = SpendBook()
    for minute in range(0, 40 * 24 * 60, 7):
        book.apply(reserve(f"r{minute}", 1, ()), NOON_S + minute * 60)
        if minute % 3:
            book.apply(settle(f"r{minute}", 1), NOON_S + minute * 60)
    snapshot = book.snapshot(0)
    assert len(snapshot.windows) < 2 * (3 + 3 + 3)
    book.apply(settle("nobody", 0), NOON_S + 120 * DAY_S)
    assert book.snapshot(0).windows == book.snapshot(0).pending == ()
