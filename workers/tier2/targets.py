"""Whom tier-2 may ask: one provider's model each, and in which order for one ticket."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from workers.tier2.wire import Provider

Role = Literal["primary", "fallback", "cheaper"]


@dataclass(frozen=True, slots=True)
class Target:
    """One model behind one provider's API."""

    role: Role
    provider: Provider
    base_url: str
    """With or without the closing /v1."""
    model: str
    api_key: str = field(repr=False)
    weight: float = 1.0
    """Its share of the tickets, relative to the other primaries'; of no effect in the other roles."""

    def __post_init__(self) -> None:
        """Raises: ValueError naming the wrong value; the key is never shown."""
        if not _is_address(self.base_url):
            raise ValueError(f"tier-2 base_url {self.base_url!r} is not an http(s) address")
        if not self.model:
            raise ValueError(f"tier-2 model is empty for {self.base_url!r}")
        if not re.fullmatch(r"[!-~]+", self.api_key):
            raise ValueError(f"tier-2 api_key for {self.name} is empty or holds characters that no HTTP header may")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"tier-2 weight {self.weight} of {self.name} is not a positive number")

    @property
    def name(self) -> str:
        """How logs and metrics call it."""
        return f"{self.provider}/{self.model}"


def order(targets: Sequence[Target], rng: random.Random) -> list[Target]:
    """Whom to ask for one ticket: the primaries drawn by weight, then the fallbacks as listed; no cheaper ones."""
    # The first to arrive of independent exponential clocks is a draw by rate; so is the next among those left.
    primaries = sorted((t for t in targets if t.role == "primary"), key=lambda t: rng.expovariate(t.weight))
    return [*primaries, *(t for t in targets if t.role == "fallback")]


def cheaper(targets: Sequence[Target]) -> list[Target]:
    """Whom to ask where a spend limit rules the others out, as listed."""
    return [t for t in targets if t.role == "cheaper"]


def _is_address(base_url: str) -> bool:
    try:
        url = urlsplit(base_url)
        # Reading the port checks it.
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and base_url.isprintable()
    except ValueError:
        return False
