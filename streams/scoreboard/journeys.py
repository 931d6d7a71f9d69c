"""What is remembered of single tickets: their latest events, which also tell whether an event was counted before."""

from msgspec import Struct
from msgspec.structs import replace

from schemas.events import Event

MOST_EVENTS = 64
"""Of one ticket; a helpdesk that publishes it for ever must not fill a record. The latest are kept."""


class Step(Struct, frozen=True):
    """An event, and its offset in its partition of the events topic."""

    offset: int
    event: Event


class Journey(Struct, frozen=True):
    """The events of one ticket id, in the order of their offsets."""

    steps: tuple[Step, ...] = ()

    @property
    def offset(self) -> int:
        """Of the latest event; -1 of none."""
        return self.steps[-1].offset if self.steps else -1


def is_repeated(journey: Journey, offset: int, event: Event) -> bool:
    """Whether another record with this event's id was there before.

    The same record read again, after a crash, is not repeated: whether it was counted is for the cell to say.
    """
    return any(step.event.event_id == event.event_id and step.offset < offset for step in journey.steps)


def with_step(journey: Journey, offset: int, event: Event) -> Journey:
    """The journey and one more event; a record that it has already changes nothing."""
    if offset <= journey.offset:
        return journey
    return replace(journey, steps=(*journey.steps, Step(offset, event))[-MOST_EVENTS:])


def in_order(journey: Journey) -> list[Event]:
    """The events in the order in which they happened: stages' events of one ticket come by different producers."""
    return [step.event for step in sorted(journey.steps, key=lambda step: (step.event.at, step.offset))]
