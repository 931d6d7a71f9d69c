"""What the tier-2 benchmark makes of a frontier's books."""

from benchmarks.tier2_frontier import Books
from benchmarks.tier2_rate import rate_used, recovery_s, share_429

QUARTER_S = 0.25


def _looks(*rates_per_s: float, rate_limited_per_s: float = 0.0) -> list[Books]:
    """Four looks a second, for as many seconds as there are rates."""
    looks, used, turned_away = [_books(0.0, 0.0, 0.0)], 0.0, 0.0
    for number, rate in enumerate(r for r in rates_per_s for _ in range(4)):
        used, turned_away = used + rate * QUARTER_S, turned_away + rate_limited_per_s * QUARTER_S
        looks.append(_books((number + 1) * QUARTER_S, used, turned_away))
    return looks


def _books(at_s: float, used: float, rate_limited: float) -> Books:
    return Books(
        at_s=at_s,
        calls=int(used + rate_limited),
        open=0,
        rate_limited=int(rate_limited),
        used={"requests": int(used)},
        delivered_calls=0,
        delivered_micro_usd=0,
        broken_calls=0,
        broken_micro_usd=0,
        faults={},
    )


def test_the_rate_is_a_share_of_the_limit() -> None:
    """Thirty a second of 2,400 a minute; a tenth of the calls turned away."""
    looks = _looks(30.0, 30.0, rate_limited_per_s=3.0)
    assert rate_used(looks[0], looks[-1], "requests", 2_400) == 0.75
    assert 0.09 <= share_429(looks[0], looks[-1]) <= 0.1


def test_a_limit_is_followed_from_the_first_second_at_its_rate() -> None:
    """Two seconds at the old rate, two on the way, then at the new one to the end."""
    looks = _looks(20, 20, 25, 30, *[40] * 8)
    assert recovery_s(looks, 0.0, "requests", 2_400) == 4.0


def test_a_rate_above_the_new_limit_does_not_follow_it() -> None:
    """Twice too fast for three seconds, though nothing was turned away."""
    assert recovery_s(_looks(40, 40, 40, *[20] * 30), 0.0, "requests", 1_200) == 3.0


def test_a_limit_whose_calls_are_turned_away_is_not_followed() -> None:
    """The rate is right and every tenth call too much."""
    assert recovery_s(_looks(*[40] * 12, rate_limited_per_s=4.0), 0.0, "requests", 2_400) is None


def test_a_rate_that_falls_back_has_not_followed() -> None:
    """One second at the limit doesn't count if the rest of the time it is missed."""
    assert recovery_s(_looks(40, *[20] * 11), 0.0, "requests", 2_400) is None
