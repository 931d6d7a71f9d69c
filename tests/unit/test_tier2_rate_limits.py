"""Rate-limit headers of both providers; whatever can't be read is left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.tier2.rate_limits import RateLimits, Window, read

NOW_S = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""
NAMES = [
    *(f"x-ratelimit-{part}-{kind}" for part in ("limit", "remaining", "reset") for kind in ("requests", "tokens")),
    *(
        f"anthropic-ratelimit-{kind}-{part}"
        for part in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
]


def test_openai_states_requests_and_tokens() -> None:
    """Each window is read from its own three headers."""
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert read(headers, NOW_S) == RateLimits(Window(60, 59, 1.0), Window(150_000, 149_984, 360.0))


def test_anthropic_states_four_windows_and_times_of_day() -> None:
    """Its resets are moments; what counts is how far off they are, and a past one is now."""
    headers = {}
    for kind, limit in (("requests", 50), ("tokens", 8), ("input-tokens", 40_000), ("output-tokens", 8_000)):
        headers |= {
            f"anthropic-ratelimit-{kind}-limit": str(limit),
            f"anthropic-ratelimit-{kind}-remaining": "0",
            f"anthropic-ratelimit-{kind}-reset": "2027-01-15T08:00:12Z",
        }
    headers["anthropic-ratelimit-tokens-reset"] = "2027-01-15T07:59:00Z"
    assert read(headers, NOW_S) == RateLimits(
        Window(50, 0, 12.0), Window(8, 0, 0.0), Window(40_000, 0, 12.0), Window(8_000, 0, 12.0)
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("23h18m29.144s", 83_909.144),
        ("1d", 86_400.0),
        ("0", 0.0),
        ("8.64", 8.64),
        ("2027-01-15T10:00:05+02:00", 5.0),
        ("2027-01-15T08:00:05", 5.0),
        ("", None),
        ("soon", None),
        ("5 parsecs", None),
        ("-1s", None),
        ("1e9", None),
        ("nan", None),
        ("²s", None),
    ],
)
def test_resets_are_durations_seconds_or_moments(text: str, seconds: float | None) -> None:
    """A reset that can't be read costs only itself."""
    headers = {"x-ratelimit-limit-requests": "9", "x-ratelimit-remaining-requests": "3"}
    window = read(headers | {"x-ratelimit-reset-requests": text}, NOW_S).requests
    assert window is not None
    assert (window.limit, window.remaining) == (9, 3)
    assert window.reset_s == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("limit", "remaining"), [("0", "0"), ("-5", "1"), ("x", "1"), ("5", ""), ("5", "1.5"), ("٣", "1")]
)
def test_a_window_without_both_numbers_says_nothing(limit: str, remaining: str) -> None:
    """A limit of none, a part that is missing or no whole number: there is no window."""
    headers = {"x-ratelimit-limit-tokens": limit, "x-ratelimit-remaining-tokens": remaining}
    assert read(headers, NOW_S) == RateLimits()


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.datetimes().map(str) | st.integers().map(str)))
def test_no_header_makes_it_fail(headers: dict[str, str]) -> None:
    """Whatever a provider sends, every window is usable or None."""
    limits = read(headers, NOW_S)
    for window in (limits.requests, limits.tokens, limits.input_tokens, limits.output_tokens):
        assert window is None or (window.limit > 0 and window.remaining >= 0 and (window.reset_s or 0.0) >= 0)
