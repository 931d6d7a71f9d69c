"""The topic `forgotten`, read: what learning takes from other topics goes through it."""

from collections.abc import AsyncIterator
from typing import TypeVar

from msgspec import Struct

from schemas.codec import PoisonError, decode
from schemas.forgotten import Forgotten
from schemas.topics import FORGOTTEN, Topic
from streams.read import Received, raw, reader, records
from streams.settings import KafkaSettings
from streams.topics import TopicsError
from workers.learning.forgetting import Suppressed

S = TypeVar("S", bound=Struct)


async def read_forgotten(kafka: KafkaSettings) -> dict[str, Forgotten]:
    """Who is forgotten, by the customers' digests. A tombstone takes one off the list.

    Raises: TopicsError if the broker can't be reached, the topic is not there, or a record can't be read: without it
    somebody would be learned from.
    """
    found: dict[str, Forgotten] = {}
    async with reader(kafka, [raw(FORGOTTEN)]) as source:
        async for received in source.until_end():
            digest = (received.key or b"").decode(errors="replace")
            if received.raw is None:
                found.pop(digest, None)
                continue
            try:
                found[digest] = decode(Forgotten, received.raw)
            except PoisonError as exc:
                raise TopicsError(f"{received.place} can't be read: {exc.reason}; see who else writes there") from exc
    return found


async def suppressed(kafka: KafkaSettings) -> Suppressed:
    """The same for learning. Raises: as `read_forgotten`."""
    found = await read_forgotten(kafka)
    return Suppressed(frozenset(found), frozenset(ticket for each in found.values() for ticket in each.tickets))


async def learnable(
    kafka: KafkaSettings, record_type: type[S], *topics: Topic, without: Suppressed, unreadable: list[str]
) -> AsyncIterator[tuple[S, Received]]:
    """As `read.records`, without those that nothing may be learned from: they are counted in `without`.

    Raises: TopicsError if the broker can't be reached or a topic is not there.
    """
    async for value, received in records(kafka, record_type, *topics, unreadable=unreadable):
        if without.holds(value):
            without.left_out += 1
        else:
            yield value, received
