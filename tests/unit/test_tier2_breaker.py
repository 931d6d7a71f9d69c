"""The breaker: opens on failures in a row, lets one probe through, and never locks itself."""

from hypothesis import given
from hypothesis import strategies as st

from workers.tier2.breaker import FAILURES, FIRST_COOL_DOWN_S, LONGEST_COOL_DOWN_S, Breaker


def opened(now_s: float = 0.0) -> Breaker:
    """After enough failures."""
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.began(now_s)
        breaker.failed(now_s, hard=False)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    """One fewer doesn't, and a success between them starts the count anew."""
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(0.0, hard=False)
    breaker.succeeded(0.0)
    for _ in range(FAILURES - 1):
        breaker.failed(0.0, hard=False)
    assert breaker.state(0.0) == "closed"
    breaker.failed(0.0, hard=False)
    assert breaker.state(0.0) == "open"
    assert not breaker.may_call(0.0)
    assert breaker.opens_in_s(1.0) == FIRST_COOL_DOWN_S - 1.0


def test_a_hard_failure_opens_it_at_once_and_for_long() -> None:
    """A refused key is not worth five tickets."""
    breaker = Breaker()
    breaker.failed(0.0, hard=True)
    assert breaker.opens_in_s(0.0) == LONGEST_COOL_DOWN_S


def test_half_open_lets_one_probe_through_at_a_time() -> None:
    """While it is under way nobody else may call, and who waits is told to look again later."""
    breaker, now_s = opened(), FIRST_COOL_DOWN_S
    assert breaker.state(now_s) == "half_open"
    assert breaker.may_call(now_s)
    breaker.began(now_s)
    assert not breaker.may_call(now_s)
    assert breaker.opens_in_s(now_s) > 0


def test_a_probe_that_is_answered_closes_it() -> None:
    """And its next cool-down is a short one again."""
    breaker, now_s = opened(), FIRST_COOL_DOWN_S
    breaker.began(now_s)
    breaker.succeeded(now_s + 1)
    assert breaker.state(now_s + 1) == "closed"
    assert breaker.may_call(now_s + 1)
    for _ in range(FAILURES):
        breaker.failed(now_s + 1, hard=False)
    assert breaker.opens_in_s(now_s + 1) == FIRST_COOL_DOWN_S


def test_probes_that_fail_double_the_cool_down_up_to_a_cap() -> None:
    """An outage of an hour costs a probe a minute."""
    breaker, now_s, waits_s = opened(), 0.0, []
    for _ in range(6):
        waits_s.append(breaker.opens_in_s(now_s))
        now_s += waits_s[-1]
        breaker.began(now_s)
        breaker.failed(now_s, hard=False)
    assert waits_s == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_a_probe_that_is_abandoned_frees_its_place() -> None:
    """A cancelled call must not keep the target shut for good."""
    breaker, now_s = opened(), FIRST_COOL_DOWN_S
    breaker.began(now_s)
    breaker.abandoned(now_s)
    assert breaker.may_call(now_s)


def test_calls_that_began_before_it_opened_change_nothing() -> None:
    """Their ends come in while it is open: neither a longer wait nor an early close."""
    breaker = opened()
    breaker.failed(1.0, hard=False)
    breaker.succeeded(1.0)
    assert breaker.opens_in_s(1.0) == FIRST_COOL_DOWN_S - 1.0


@given(st.lists(st.tuples(st.sampled_from(["began", "ok", "soft", "hard", "gone"]), st.floats(0, 30)), max_size=60))
def test_it_can_always_be_asked_again(steps: list[tuple[str, float]]) -> None:
    """A minute after whatever happened a call may begin, once the probe has ended; the wait agrees with the word."""
    breaker, now_s = Breaker(), 0.0
    for step, passed_s in steps:
        now_s += passed_s
        assert breaker.may_call(now_s) == (breaker.opens_in_s(now_s) == 0)
        match step:
            case "began":
                if breaker.may_call(now_s):
                    breaker.began(now_s)
            case "ok":
                breaker.succeeded(now_s)
            case "gone":
                breaker.abandoned(now_s)
            case _:
                breaker.failed(now_s, hard=step == "hard")
    now_s += LONGEST_COOL_DOWN_S
    breaker.abandoned(now_s)
    assert breaker.may_call(now_s)
