"""`headgate answers`: what Headgate made of the tickets, one JSON object a line."""

import sys

from schemas.topics import ANSWERS, HANDOFFS
from streams.read import raw, reader
from streams.settings import KafkaSettings


async def print_answers(settings: KafkaSettings, follow: bool, with_handoffs: bool) -> None:
    """Print the records of the answers topic (and of handoffs) as they stand in Kafka, whatever they hold."""
    topics = [ANSWERS, HANDOFFS] if with_handoffs else [ANSWERS]
    async with reader(settings, [raw(topic) for topic in topics]) as source:
        async for received in source.until_end():
            _print(received.raw)
        while follow:
            for received in await source.poll(1.0):
                _print(received.raw)


def _print(value: bytes | None) -> None:
    sys.stdout.buffer.write((value or b"") + b"\n")
    sys.stdout.buffer.flush()
