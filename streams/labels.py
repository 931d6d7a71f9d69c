"""Labelled outcomes from Kafka: the labels topic joined with the tickets that the labels are about.

Both are read to where they end when reading starts. What can't be read or joined is counted, never guessed at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schemas.labels import Label
from schemas.tickets import Ticket, TicketKey, Tier
from schemas.topics import BACKFILL, LABELS, TICKETS
from streams.forgotten import learnable, suppressed
from streams.settings import KafkaSettings
from workers.learning.cold_start import Reservoir
from workers.learning.labels import LabelledOutcome
from workers.router.classifier import category_of, ticket_text

ALL_TICKETS = (TICKETS, replace(TICKETS, name=TICKETS.name + BACKFILL))
"""Past tickets, those that came by the slow lane too."""


@dataclass(slots=True)
class Join:
    """Labels, then tickets, as they come from the topics; `outcomes` is what they make together.

    For each ticket and tier the latest label is in force, and of two of one moment the one that came last. Of a
    ticket that was published twice the first counts, as it does for the router.
    """

    labels: dict[TicketKey, dict[Tier, Label]] = field(default_factory=dict)
    outcomes: dict[TicketKey, LabelledOutcome] = field(default_factory=dict)
    replaced: int = 0
    """Labels that were passed over because a later one is in force."""
    unreadable: int = 0
    """Records that are none of ours."""
    complaints: int = 0
    """Labels of feedback: they come from tickets that chose themselves, and an audit's label must not give way."""
    forgotten: int = 0
    """Records of customers who are forgotten."""

    def add_label(self, label: Label) -> None:
        if label.source == "feedback":
            self.complaints += 1
            return
        in_force = self.labels.setdefault((label.tenant, label.ticket_id), {})
        before = in_force.get(label.tier)
        self.replaced += before is not None
        if before is None or label.at >= before.at:
            in_force[label.tier] = label

    def add_ticket(self, ticket: Ticket) -> None:
        key = (ticket.tenant, ticket.ticket_id)
        if key in self.labels and key not in self.outcomes:
            self.outcomes[key] = outcome(ticket, self.labels[key])

    @property
    def without_ticket(self) -> int:
        """Labelled tickets that are no longer on their topic: it is kept for a shorter time than labels are."""
        return len(self.labels) - len(self.outcomes)

    def said(self) -> str:
        """For the operator, in a line."""
        return (
            f"{len(self.outcomes)} labelled tickets; left out: {self.without_ticket} whose ticket is no longer on its "
            f"topic, {self.replaced} labels replaced by later ones, {self.complaints} of feedback, "
            f"{self.unreadable} records that can't be read, {self.forgotten} of customers who are forgotten"
        )


def outcome(ticket: Ticket, labels: Mapping[Tier, Label]) -> LabelledOutcome:
    """A ticket and its labels in force as one outcome.

    Its propensity is that of tier-1's label where there is one, since p_ok learns from that; a tier-2 label beside it
    counts as drawn together with it, as audits draw both.
    """
    tier1, tier2 = labels.get("tier1"), labels.get("tier2")
    latest = max(labels.values(), key=lambda label: label.at)
    return LabelledOutcome(
        text=ticket_text(ticket),
        tier1_ok=tier1.acceptable if tier1 else None,
        tier2_ok=tier2.acceptable if tier2 else None,
        category=category_of(latest.category),
        propensity=(tier1 or latest).propensity,
        group=f"{ticket.tenant}/{ticket.customer_id}" if ticket.customer_id else "",
    )


async def read_labels(settings: KafkaSettings) -> Join:
    """The labels topic joined with the tickets topics. Of the tickets only those are kept that have a label.

    Raises: TopicsError if the broker can't be reached or a topic is not there.
    """
    join, unreadable, without = Join(), list[str](), await suppressed(settings)
    async for label, _ in learnable(settings, Label, LABELS, without=without, unreadable=unreadable):
        join.add_label(label)
    async for ticket, _ in learnable(settings, Ticket, *ALL_TICKETS, without=without, unreadable=unreadable):
        join.add_ticket(ticket)
    join.unreadable, join.forgotten = len(unreadable), without.left_out
    return join


async def read_tickets(settings: KafkaSettings, sample: Reservoir[LabelledOutcome]) -> int:
    """Offer every past ticket to `sample`, without outcomes; returns how many records could not be read.

    Raises: TopicsError as `read_labels`.
    """
    unreadable, without = list[str](), await suppressed(settings)
    async for ticket, _ in learnable(settings, Ticket, *ALL_TICKETS, without=without, unreadable=unreadable):
        sample.add(LabelledOutcome(text=ticket_text(ticket)))
    return len(unreadable)
