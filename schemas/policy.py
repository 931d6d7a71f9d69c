"""The policy in force: thresholds by category, with the evidence they rest on."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class CategoryPolicy(Struct, frozen=True, kw_only=True):
    """Thresholds of one category. `shadow` ships nothing from tier-1."""

    p_ok_threshold: Probability
    score_threshold: Probability
    state: Literal["active", "shadow"] = "active"
    labels: int = 0
    """How many labelled drafts the thresholds were solved on."""
    bad_among_shipped: int = 0
    """How many of those labelled drafts these thresholds would have shipped although they were bad."""
    shipped: int = 0
    least_gain: Probability = 0.0
    """Below p_ok_threshold, a ticket whose gain is smaller goes to tier-1 all the same: tier-2's price buys nothing."""


class Policy(Struct, frozen=True, kw_only=True):
    """One scope's policy; the scope is the record's key on the compacted topic."""

    scope: str
    version: str
    default: CategoryPolicy
    categories: dict[str, CategoryPolicy] = {}
    explore_share: Probability = 0.0
    """Share of tickets below the threshold that goes to tier-1 all the same, to keep learning."""
    tier2_share: Probability = 1.0
    """Share of all tickets that may go to tier-2, kept by each router process by itself: past it, tickets that only
    the score would send there go to tier-1. 1 is no limit."""
    tier2_customers: tuple[str, ...] = ()
    """customer_ids whose tickets always go to tier-2."""
    least_in_scope: Probability = 0.05
    """Tickets whose in_scope is smaller go to tier-2; at 0.05 that is one ordinary ticket in twenty."""
    languages: tuple[str, ...] = ("en",)
    """Languages that tier-1 was trained for; other tickets go to tier-2."""
    max_ticket_chars: int = 2_000
    """Longer tickets go to tier-2: the encoder reads 256 word pieces."""

    def of(self, category: str) -> CategoryPolicy:
        return self.categories.get(category, self.default)
