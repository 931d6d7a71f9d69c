"""What a ticket costs: on an engine that is paid by the hour, and at a price per token."""

from typing import Literal

from msgspec import Struct

from schemas.generations import Usage


class BusyMeter:
    """Shares the engine's busy time among the requests in flight.

    While n requests run, each second of the engine costs each of them 1/n
    second; so the shares of all requests add up to the time that the engine was
    busy, and its price per hour becomes a cost per ticket.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._share_s = 0.0
        self._at = 0.0

    def start(self, now: float) -> float:
        """A request begins; returns the mark to give to `stop`. `now` in seconds, never falling."""
        self._advance(now)
        self._in_flight += 1
        return self._share_s

    def stop(self, mark: float, now: float) -> float:
        """A request ends; returns its share of the engine's busy time, seconds."""
        self._advance(now)
        self._in_flight -= 1
        return self._share_s - mark

    def _advance(self, now: float) -> None:
        if self._in_flight:
            self._share_s += (now - self._at) / self._in_flight
        self._at = now


class Prices(Struct, frozen=True, kw_only=True):
    """What the engine costs, and which of the two prices makes a draft's cost."""

    cost: Literal["hour", "token"] = "hour"
    usd_per_hour: float
    """While it is busy."""
    usd_per_million_prompt_tokens: float | None = None
    """Of cached ones, too: so the cost is rather too high than too low."""
    usd_per_million_completion_tokens: float | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError naming the setting without which a token has no price."""
        if self.cost == "token":
            for name in ("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens"):
                if getattr(self, name) is None:
                    raise ValueError(f'tier1.cost is "token", and tier1.{name} is not set')

    def costs(self, engine_s: float, usage: Usage) -> "Costs":
        """The costs of an answer that took this share of the engine's busy time and these tokens."""
        per_hour_usd, per_token_usd = engine_s * self.usd_per_hour / 3600, self._per_token_usd(usage)
        if self.cost == "hour" or per_token_usd is None:
            return Costs(per_hour_usd, per_hour_usd, per_token_usd)
        return Costs(per_token_usd, per_hour_usd, per_token_usd)

    def _per_token_usd(self, usage: Usage) -> float | None:
        prompt_usd, completion_usd = self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens
        if prompt_usd is None or completion_usd is None:
            return None
        return (usage.prompt_tokens * prompt_usd + usage.completion_tokens * completion_usd) / 1e6


class Costs(Struct, frozen=True):
    """Dollars for one answer: what it counts as, and both ways of counting."""

    cost_usd: float
    per_hour_usd: float
    per_token_usd: float | None
    """None where a token has no price."""
