"""The events topic as `headgate certify` follows it: from a moment on, and on from there at each look."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import structlog

from schemas.codec import PoisonError, decode
from schemas.events import Event
from schemas.topics import EVENTS
from streams.read import reader
from streams.settings import KafkaSettings

NewEvents = Callable[[], AsyncIterator[Event]]
"""The events that came since it was called last."""

log = structlog.get_logger()


@asynccontextmanager
async def events_since(kafka: KafkaSettings, since: datetime) -> AsyncIterator[NewEvents]:
    """Events written since a moment, and whatever comes while the block lasts.

    Raises: TopicsError if the broker can't be reached or the topic is not there.
    """
    async with reader(kafka, [replace(EVENTS, value=None)], since=since) as source:

        async def new() -> AsyncIterator[Event]:
            async for received in source.until_end():
                try:
                    yield decode(Event, received.raw)
                except PoisonError as exc:
                    log.warning(
                        "event_unreadable", partition=received.partition, offset=received.offset, error=exc.reason
                    )

        yield new
