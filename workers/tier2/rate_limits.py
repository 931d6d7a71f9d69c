"""What a response's headers say about the provider's rate limits. A header that can't be read says nothing.

Sources: OpenAI's guide to rate limits (`x-ratelimit-*`) and Anthropic's API reference (`anthropic-ratelimit-*`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

_COUNT = re.compile(r"\d{1,15}", re.ASCII)
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)
_DURATION_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_SECONDS_IN = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Window:
    """One limit at the time of the response."""

    limit: int
    """At least 1; a minute's worth unless `reset_s` shows otherwise."""
    remaining: int
    reset_s: float | None = None
    """Seconds from the response until the whole of it is there again, if nothing is asked meanwhile."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """All that one response said."""

    requests: Window | None = None
    tokens: Window | None = None
    """OpenAI: prompt and max_tokens together. Anthropic: whichever of its limits leaves least."""
    input_tokens: Window | None = None
    output_tokens: Window | None = None


def read(headers: Mapping[str, str], now_s: float) -> RateLimits:
    """The limits in a response of either provider. Names are looked up in lower case; `now_s` is since the epoch."""
    return RateLimits(
        requests=_window(headers, "x-ratelimit-{}-requests", now_s)
        or _window(headers, "anthropic-ratelimit-requests-{}", now_s),
        tokens=_window(headers, "x-ratelimit-{}-tokens", now_s)
        or _window(headers, "anthropic-ratelimit-tokens-{}", now_s),
        input_tokens=_window(headers, "anthropic-ratelimit-input-tokens-{}", now_s),
        output_tokens=_window(headers, "anthropic-ratelimit-output-tokens-{}", now_s),
    )


def _window(headers: Mapping[str, str], name: str, now_s: float) -> Window | None:
    limit, remaining = (_count(headers.get(name.format(part), "")) for part in ("limit", "remaining"))
    if not limit or remaining is None:
        return None
    return Window(limit, remaining, _from_now_s(headers.get(name.format("reset"), ""), now_s))


def _count(text: str) -> int | None:
    return int(text) if _COUNT.fullmatch(text.strip()) else None


def _from_now_s(text: str, now_s: float) -> float | None:
    """Plain seconds, a duration as Go prints it ("6m0s", "20ms"), or a time of day with its date (RFC 3339)."""
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    if text and not _DURATION_PART.sub("", text):
        return sum(float(number) * _SECONDS_IN[unit] for number, unit in _DURATION_PART.findall(text))
    try:
        when = datetime.fromisoformat(text)
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
