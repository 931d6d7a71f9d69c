"""From a record's final result to the messages of its transaction."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka.structs import ConsumerRecord

from schemas.codec import encode
from schemas.events import Event, StageName
from schemas.tickets import TicketId
from schemas.topics import DEAD_LETTERS, EVENTS
from streams.runtime.attempt import Attempted
from streams.runtime.headers import dead_letter_headers, output_headers
from streams.runtime.stage import DeadLetter, Headers, Origin, Output


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: topic without prefix, key and value as bytes, headers."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def messages_for(stage: StageName, attempted: Attempted, source: ConsumerRecord, now: float) -> Iterator[Message]:
    """The outputs and the event of a finished record, or its dead letter and the event of that."""
    incoming = tuple(source.headers)
    result = attempted.result
    if isinstance(result, DeadLetter):
        headers = dead_letter_headers(stage, attempted.origin, result, attempted.attempts, now, incoming)
        yield Message(DEAD_LETTERS.name, source.key, source.value, headers)
        event = _dead_lettered(stage, attempted.origin, result, source, now)
        outputs: tuple[Output, ...] = (Output(EVENTS, event.ticket_id, event),)
    else:
        outputs = (*result.outputs, Output(EVENTS, result.event.ticket_id, result.event))
    for number, output in enumerate(outputs):
        name = type(output.value).__name__
        headers = output_headers(stage, name, attempted.origin, number, now, incoming)
        yield Message(output.topic.name, output.key.encode(), encode(output.value), headers)


def _dead_lettered(stage: StageName, origin: Origin, letter: DeadLetter, source: ConsumerRecord, now: float) -> Event:
    return Event(
        event_id=f"{stage}/{origin}",
        at=datetime.fromtimestamp(now, UTC),
        stage=stage,
        outcome="dead_lettered",
        ticket_id=TicketId((source.key or b"").decode("utf-8", "replace")),
        reasons=(letter.exception,),
        age_s=max(0.0, now - source.timestamp / 1000),
    )
