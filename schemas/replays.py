"""What a replay says: the tickets of a window under another policy, beside what happened to them."""

from msgspec import Struct

from schemas.tickets import Moment


class Range(Struct, frozen=True, kw_only=True):
    """A figure, as far as the log knows it."""

    value: float | None
    """None where the log supports no single figure: it lies between the other two."""
    low: float
    high: float
    """Of what a sample says, the 95 % interval; of what nothing is known of, the best and the worst case; both
    together where there is both."""


class Parts(Struct, frozen=True, kw_only=True):
    """What 1,000 tickets cost, by what it was spent on, in dollars."""

    router_usd: float
    tier1_usd: float
    checker_usd: float
    tier2_usd: float
    audits_usd: float
    """The judge, and drafts in the shadow with their check."""


class BadAnswers(Struct, frozen=True, kw_only=True):
    """Bad answers among those that tier-1 gives. Tier-2's are not judged here."""

    share: Range | None
    """Of the answers that labels can speak for: those that might have been drawn for an audit. None: too few labels."""
    labels: int
    """Labelled drafts that are shipped."""
    effective_labels: float
    """How many labels, drawn with one probability, would say as much."""
    unlabelled_share: float
    """Share of the answers shipped, at most, that no label can speak for."""
    share_of_all: Range
    """Of all answers shipped, with those that no label can speak for all good and all bad."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of some tickets under a policy."""

    tier1_share: Range
    """Answered by tier-1."""
    escalated_share: Range
    """Tried on tier-1, and sent up."""
    straight_share: Range
    """Sent to tier-2 by the router."""
    cost_per_1000_usd: Range
    parts: Parts | None
    """None where the cost is no single figure."""
    bad: BadAnswers


class Group(Struct, frozen=True, kw_only=True):
    """Tickets of one category, or all."""

    category: str
    """As the log has it; empty for all."""
    tickets: int
    happened: Outcome
    candidate: Outcome
    sampled: int
    """Tickets that the candidate tries on tier-1, and the log only where they were drawn for an audit."""
    drawn: int
    """Those that were: they speak for all of the sampled ones."""
    unsupported: dict[str, int]
    """Tickets of which the log says nothing under the candidate, by the reason."""


class Check(Struct, frozen=True, kw_only=True):
    """The log's tickets under the policies that they were really under: must give what happened."""

    tickets: int
    policy_unknown: int
    """Left out, since their policy is not on the policy topic."""
    ends_differ: int
    """Tickets that end otherwise in the replay."""
    replayed: Outcome
    happened: Outcome


class Replay(Struct, frozen=True, kw_only=True):
    """A window under a candidate. The same records give the same bytes."""

    start: Moment
    end: Moment
    policy: str
    """The candidate's version."""
    log_policies: dict[str, int]
    """Tickets by the version that they were routed under."""
    left_out: dict[str, int]
    """Tickets of the window that are not in the figures, and records that can't be read, by the reason."""
    rescored: int
    """Tickets that the candidate's router model scored anew."""
    priced: int
    """Tickets that reach tier-2 under the candidate alone: their price is their category's mean."""
    everything: Group
    categories: tuple[Group, ...]
    check: Check | None
    """None where no policy of the log is known."""
    notes: tuple[str, ...]
    """What the log can't say, in words."""
