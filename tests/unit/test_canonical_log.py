"""What is counted of a commit: tickets by what became of them, as the scoreboard counts them."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from schemas.events import Event, StageName
from schemas.tickets import TicketId
from streams.runtime.canonical_log import report
from streams.runtime.messages import Settled
from streams.runtime.stage import Done, Origin
from streams.scoreboard.tally import cell_of, key_of
from tests.records import AT

FATES = ("answered", "escalated", "shadowed", "handed_off")


def counted(category: str) -> dict[tuple[str, str], float]:
    """By outcome and tier, those that are not zero."""
    values = {
        (outcome, tier): REGISTRY.get_sample_value(
            "headgate_tickets_total", {"outcome": outcome, "tier": tier, "category": category}
        )
        for outcome in FATES
        for tier in ("tier1", "tier2")
    }
    return {key: value for key, value in values.items() if value}


@pytest.mark.parametrize(
    ("stage", "event", "expected"),
    [
        ("checker", {"outcome": "answered", "tier": "tier1"}, {("answered", "tier1"): 1}),
        ("checker", {"outcome": "answered", "tier": "tier2"}, {("answered", "tier2"): 1}),
        ("checker", {"outcome": "escalated", "tier": "tier1", "reasons": ("empty",)}, {("escalated", "tier1"): 1}),
        ("checker", {"outcome": "escalated", "tier": "tier1", "reasons": ("shadow",)}, {("shadowed", "tier1"): 1}),
        (
            "tier1",
            {"outcome": "escalated", "tier": "tier2", "reasons": ("tier1_unavailable",)},
            {("escalated", "tier1"): 1},
        ),
        ("tier2", {"outcome": "handed_off", "tier": "tier2"}, {("handed_off", "tier2"): 1}),
        ("router", {"outcome": "routed", "tier": "tier1"}, {}),
    ],
)
def test_a_ticket_is_counted_by_what_became_of_it(
    stage: StageName, event: dict[str, Any], expected: dict[tuple[str, str], float], request: pytest.FixtureRequest
) -> None:
    """The scoreboard says the same of the same event."""
    category = request.node.name
    made = Event(event_id="e", at=AT, stage=stage, ticket_id=TicketId("t"), category=category, **event)
    report(stage, [Settled(Origin("t", 0, 0), Done((), made), 1)])
    assert counted(category) == expected
    cell, tier = cell_of(made), key_of(made).tier
    assert expected == {(fate, tier): n for fate in FATES if (n := getattr(cell, fate))}
