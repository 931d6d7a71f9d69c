"""What the scoreboard says over HTTP beside the summary: one struct an endpoint, as the console reads it.

No text of tickets and answers is in any of them. An endpoint that can't say answers a status of 400 or more and
`Failure`; 503 with the state "loading" means that it can soon.
"""

from typing import Literal

from msgspec import Struct

from schemas.events import Event
from schemas.spend import Period
from schemas.tickets import Moment


class Failure(Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    error: str
    state: Literal["", "loading"] = ""


class JourneyView(Struct, frozen=True, kw_only=True):
    """`/api/journey/<ticket id>`: what the stages did with a ticket, first to last; 404 if nothing is remembered."""

    ticket_id: str
    events: tuple[Event, ...]


class DriftView(Struct, frozen=True, kw_only=True):
    """The sequential test on a certificate's answers: at `alarm_at` the certificate falls."""

    wealth: float
    """It began as 1."""
    alarm_at: float
    tickets: int
    """Audited answers that it has seen."""


class CategoryView(Struct, frozen=True, kw_only=True):
    """What a policy says of a category. Bound, confidence and validity are None where nothing is certified."""

    name: str
    """Empty: any category that is not named."""
    state: Literal["active", "shadow"]
    why: str = ""
    p_ok_threshold: float
    score_threshold: float
    alpha: float | None = None
    """The share of bad answers that is tolerated."""
    upper_bound: float | None = None
    """Proved, on the share of bad answers among those that ship."""
    confidence: float | None = None
    method: Literal["", "learn_then_test", "conformal_risk"] = ""
    pooled: tuple[str, ...] = ()
    """The categories that share the certificate."""
    valid_until: Moment | None = None
    labels: int = 0
    """Those that count towards the next look."""
    labels_missing: int | None = None
    audit_share: float = 0.0
    drift: DriftView | None = None


class PolicyView(Struct, frozen=True, kw_only=True):
    """One policy, and its share of the tickets."""

    version: str
    made_at: Moment | None = None
    because: tuple[str, ...] = ()
    share: float = 1.0
    categories: tuple[CategoryView, ...] = ()


class PoliciesView(Struct, frozen=True, kw_only=True):
    """`/api/policy`."""

    active: PolicyView
    candidate: PolicyView | None = None


class LimitView(Struct, frozen=True, kw_only=True):
    """What counts in the window that is open, against its limit."""

    tenant: str | None
    """None: all tenants together."""
    period: Period
    spent_usd: float
    """Settled calls, and the worst cases of those that are not."""
    reserved_usd: float = 0.0
    """The worst cases in it."""
    limit_usd: float | None = None
    """None: no limit."""
    resets_in_s: float


class SpendView(Struct, frozen=True, kw_only=True):
    """`/api/spend`: all tenants' minute, day and month, then those of tenants that have limits."""

    limits: tuple[LimitView, ...]


class StageBacklog(Struct, frozen=True, kw_only=True):
    """What a stage has not finished of one of its topics."""

    stage: str
    topic: str
    lane: Literal["live", "retry", "backfill"] = "live"
    unfinished: int
    """Records past the committed offset that are not marked as done."""
    oldest_s: float | None = None
    """Age of the oldest of them; None where it isn't known."""


class BacklogView(Struct, frozen=True, kw_only=True):
    """`/api/backlog`, in the order in which a ticket travels."""

    stages: tuple[StageBacklog, ...]


class AuditsView(Struct, frozen=True, kw_only=True):
    """`/api/audits`."""

    waiting: int
    """Audits that nobody has judged."""
    oldest_s: float | None = None
    """Age of the oldest of them."""
    labels: dict[str, int] = {}
    """Labels in force by who judged: judge, rubric, person."""
