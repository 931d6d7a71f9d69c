"""The recorded frontier's books: what it was asked, what it charged, and whether the caller can know of the charge."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from workers.tier2.enforced_limits import Window

Fate = Literal["delivered", "broken"]
"""Of a charged answer: the whole response was written; or the caller can't have seen what it used."""


@dataclass(slots=True)
class Charged:
    """Answers that cost something."""

    calls: int = 0
    cost_micro_usd: int = 0

    def add(self, cost_micro_usd: int) -> None:
        self.calls += 1
        self.cost_micro_usd += cost_micro_usd

    def plain(self) -> dict[str, int]:
        return {"calls": self.calls, "cost_micro_usd": self.cost_micro_usd}


@dataclass(slots=True)
class FrontierLedger:
    """What GET /ledger tells. A call counts when it comes in, its charge when its response is over."""

    calls: int = 0
    open: int = 0
    """Calls whose response isn't over."""
    rate_limited: int = 0
    batches: int = 0
    """Batches that were made."""
    faults: Counter[str] = field(default_factory=Counter)
    """Calls that went wrong on purpose, by the fault's name."""
    used: Counter[Window] = field(default_factory=Counter)
    """What answers took from the windows of the rate limits."""
    _by_model: defaultdict[str, dict[Fate, Charged]] = field(
        default_factory=lambda: defaultdict(lambda: {"delivered": Charged(), "broken": Charged()})
    )

    def charge(self, model: str, fate: Fate, cost_micro_usd: int, used: Mapping[Window, int]) -> None:
        """Book an answer."""
        self._by_model[model][fate].add(cost_micro_usd)
        self.used.update(used)

    def charged(self, fate: Fate) -> Charged:
        """Over all models."""
        of_models = [by_fate[fate] for by_fate in self._by_model.values()]
        return Charged(sum(c.calls for c in of_models), sum(c.cost_micro_usd for c in of_models))

    def plain(self) -> dict[str, object]:
        """For JSON."""
        delivered, broken = self.charged("delivered"), self.charged("broken")
        return {
            "calls": self.calls,
            "open": self.open,
            "answered": delivered.calls,
            "rate_limited": self.rate_limited,
            "batches": self.batches,
            "charged": delivered.calls + broken.calls,
            "cost_micro_usd": delivered.cost_micro_usd + broken.cost_micro_usd,
            "delivered": delivered.plain(),
            "broken": broken.plain(),
            "by_model": {m: {fate: c.plain() for fate, c in fates.items()} for m, fates in self._by_model.items()},
            "used": dict(self.used),
            "faults": dict(self.faults),
        }
