"""A candidate's trial: its tickets, and as many of the policy in force, put together from the stages' events."""

from dataclasses import dataclass, field
from datetime import timedelta

from msgspec.structs import replace

from schemas.events import Event
from schemas.policy import Role
from schemas.tickets import TicketKey
from workers.learning.guards import Comparison, Journey
from workers.learning.review import Review
from workers.policies import Policies


@dataclass(slots=True)
class Trial:
    """The tickets of both, as their events come. Events of one ticket must come in their order."""

    policies: Policies
    most_tickets: int
    """No ticket is taken in after so many of the candidate."""
    tried: dict[TicketKey, Journey] = field(default_factory=dict)
    beside: dict[TicketKey, Journey] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """A judge's work is not the ticket's: it isn't counted. Nor is a backfill's: it waits for spare capacity."""
        if event.replay_id:
            return
        key = (event.tenant, event.ticket_id)
        if event.stage == "router":
            self._begin(key, event)
        elif event.stage != "judge":
            for journeys in (self.tried, self.beside):
                if key in journeys:
                    journeys[key] = after(journeys[key], event)

    def _begin(self, key: TicketKey, event: Event) -> None:
        candidate = self.policies.candidate
        if event.outcome != "routed" or candidate is None or len(self.tried) >= self.most_tickets:
            return
        begun = Journey(event.at - timedelta(seconds=event.age_s), event.cost_usd, None)
        if event.policy_version == candidate.version:
            self.tried.setdefault(key, begun)
        elif event.policy_version == self.policies.active.version and self.policies.is_control(event.ticket_id):
            self.beside.setdefault(key, begun)


def after(journey: Journey, event: Event) -> Journey:
    """The ticket's way so far, this event included."""
    is_end = event.outcome in ("answered", "handed_off")
    return replace(
        journey,
        cost_usd=journey.cost_usd + event.cost_usd,
        age_s=event.age_s if is_end and journey.age_s is None else journey.age_s,
    )


def next_step(done: Review, seen: Comparison, promote_after: int | None) -> tuple[Role | None, tuple[str, ...]]:
    """A candidate's next place, and why, for people: from the review of its certificates and its tickets. `candidate`
    means that another policy takes its place; None, that all stays as it is."""
    if done.is_alarm:
        return "rolled_back", done.policy.because
    if seen.breaches:
        return "rolled_back", tuple(f"{breach} (on {seen.tickets} tickets)" for breach in seen.breaches)
    if done.policy is not done.of:
        return "candidate", ()
    if promote_after is not None and seen.is_complete and seen.tickets >= promote_after:
        return "in_force", (f"{seen.tickets} tickets without a breach",)
    return None, ()
