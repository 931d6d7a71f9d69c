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


class Policy(Struct, frozen=True, kw_only=True):
    """One scope's policy; the scope is the record's key on the compacted topic."""

    scope: str
    version: str
    default: CategoryPolicy
    categories: dict[str, CategoryPolicy] = {}
    explore_share: Probability = 0.0
    """Share of tickets below the threshold that goes to tier-1 all the same, to keep learning."""
    languages: tuple[str, ...] = ("en",)
    """Languages that tier-1 was trained for; other tickets go to tier-2."""
    max_ticket_chars: int = 2_000
    """Longer tickets go to tier-2: the encoder reads 256 word pieces."""

    def of(self, category: str) -> CategoryPolicy:
        return self.categories.get(category, self.default)
