"""The policy in force: thresholds by category, with the evidence they rest on."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.tickets import Moment

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]

Role = Literal["in_force", "candidate", "rolled_back"]
"""A policy's place."""


class Certificate(Struct, frozen=True, kw_only=True):
    """What is promised of the answers shipped under a category's thresholds, and the labels that it rests on."""

    method: Literal["learn_then_test", "conformal_risk"]
    """learn_then_test: with probability 1 - delta over the labels, at most a share alpha of the shipped answers is bad.
    conformal_risk: on average over labels, at most a share alpha of all tickets gets a bad answer shipped."""
    alpha: Probability
    delta: Probability
    labels: int
    """Labelled drafts that the thresholds were solved on."""
    shipped: int
    """How many of them these thresholds ship."""
    bad: int
    """How many of those are bad."""
    upper_bound: Probability
    """On the share of bad answers among those shipped, at confidence 1 - delta, the judge's error included."""
    judge_miss: Probability = 0.0
    """The judge accepts at most this share of bad answers; the bound allows for it."""
    pooled: tuple[str, ...] = ()
    """The categories that share the certificate: it holds for all of them together, not for each. Empty: for one."""
    solved_at: Moment
    valid_until: Moment | None = None


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
    certificate: Certificate | None = None
    """None: nothing is promised of what these thresholds ship."""
    why: str = ""
    """In the shadow: how it came there, in words."""
    since: Moment | None = None
    """Labels of earlier audits don't count: they are about what was before."""
    labels_missing: int | None = None
    """In the shadow: about how many more labelled tickets would certify the category; None where nobody can tell."""
    audit_share: Probability = 0.0
    """Share of the category's tickets whose tier-1 draft is judged: of those that go to tier-2, tier-1 drafts an answer
    that nobody is sent."""
    usual_audit_share: Probability | None = None
    """While an early warning is on: the share that it has raised, which comes back with its end."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What was known when a policy got its place, or lost it. What is promised of it, its certificates say."""

    role: Role
    at: Moment
    by: str
    """The command that put it there."""
    because: tuple[str, ...] = ()
    """Why, for people."""
    labels: int = 0
    """Labels that were counted."""
    drift_wealth: dict[str, float] = {}
    """Evidence against each category's certificate; it falls at 20."""
    tickets: int = 0
    """Of the candidate, which were compared with those of the policy in force; 0: none were."""
    control: int = 0
    """Those of the policy in force."""
    latency_ratio: float | None = None
    """The candidate's 95 % quantile of the tickets' ages, by that of the policy in force."""
    cost_ratio: float | None = None
    """The same of the mean cost of a ticket."""


class Policy(Struct, frozen=True, kw_only=True):
    """One scope's policy; the scope is the record's key on the compacted topic."""

    scope: str
    version: str
    default: CategoryPolicy
    categories: dict[str, CategoryPolicy] = {}
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

    router_model: str = ""
    """The router model that the thresholds were solved for: under another one nothing is certified. Empty: any."""
    scorer: str = ""
    """The same for the checker's scorer."""
    tier1_model: str = ""
    """The same for tier-1: drafts of another model don't ship."""
    canary_share: Probability = 0.0
    """A candidate's share of the tickets; the policy in force has the rest."""
    made_at: Moment | None = None
    because: tuple[str, ...] = ()
    """What changed with this version, for people."""
    evidence: Evidence | None = None
    """What it has its place on. None: it is from a file, or was published before policies had any."""

    def of(self, category: str) -> CategoryPolicy:
        return self.categories.get(category, self.default)
