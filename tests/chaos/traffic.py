"""The helpdesk of a chaos run: tickets at a steady rate, whatever happens to the broker.

Most are Fernway's, which the recorded frontier can answer. A few are poison, a
few nobody has an answer to (they go to a person), and a few are published a
second time a little later, as a helpdesk does that got no acknowledgement.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.tickets import Ticket, TicketId
from schemas.topics import TICKETS
from streams.publish import producer, publish
from streams.settings import KafkaSettings

POISON_SHARE = 0.02
STRANGE_SHARE = 0.02
"""Tickets that the recording does not know."""
AGAIN_SHARE = 0.04
AGAIN_AFTER = (1, 60)
"""Tickets between a ticket and its second publication: some fall into the same batch, some long behind the first."""

STRANGE_BODY = "Our llama has eaten the router's manual. Which of its pages does she need not have?"
POISON_VALUE = b'{"ticket_id": '

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    """What is published: `value` is a ticket, or bytes that are none."""

    ticket_id: str
    value: Ticket | None

    @property
    def is_poison(self) -> bool:
        return self.value is None


def letters(seed: int, known: Sequence[Ticket]) -> Iterator[Letter]:
    """Endless traffic; the same seed gives the same letters."""
    rng = random.Random(seed)
    again: dict[int, Letter] = {}
    number = 0
    while True:
        number += 1
        if late := again.pop(number, None):
            yield late
        letter = _letter(f"t{number:06}", known, rng)
        yield letter
        if not letter.is_poison and rng.random() < AGAIN_SHARE:
            again[number + rng.randint(*AGAIN_AFTER)] = letter


def _letter(ticket_id: str, known: Sequence[Ticket], rng: random.Random) -> Letter:
    drawn = rng.random()
    if drawn < POISON_SHARE:
        return Letter(f"poison-{ticket_id}", None)
    ticket = rng.choice(known)
    changed = {"body": STRANGE_BODY, "context": ()} if drawn < POISON_SHARE + STRANGE_SHARE else {}
    return Letter(ticket_id, msgspec.structs.replace(ticket, ticket_id=TicketId(ticket_id), **changed))


class Helpdesk:
    """Publishes letters until told to stop, and knows which of them the broker has acknowledged."""

    def __init__(self, kafka: KafkaSettings, source: Iterator[Letter], per_s: float) -> None:
        self.kafka = kafka
        self.published: Counter[str] = Counter()
        """Acknowledged publications by ticket id."""
        self.poison: set[str] = set()
        self._source = source
        self._per_s = per_s
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Publish nothing new; what is being published still goes out."""
        self._closing.set()

    async def run(self) -> None:
        """Publish until `close`. A letter that the broker did not acknowledge is sent again, by a client made anew."""
        letter: Letter | None = None
        while not self._closing.is_set() or letter:
            try:
                async with producer(self.kafka) as client:
                    started, sent = time.monotonic(), 0
                    while not self._closing.is_set() or letter:
                        letter = letter or next(self._source)
                        await self._send(client, letter)
                        letter, sent = None, sent + 1
                        # By the clock and not by pauses: after an outage comes the crowd that has been waiting.
                        await asyncio.sleep(max(0.0, started + sent / self._per_s - time.monotonic()))
            except (KafkaError, TimeoutError, OSError) as exc:
                log.warning("the helpdesk lost its broker and connects anew: %r", exc)

    async def _send(self, client: AIOKafkaProducer, letter: Letter) -> None:
        if letter.is_poison:
            # Known as poison before it can come out: it may stand in the log without an acknowledgement.
            self.poison.add(letter.ticket_id)
        if letter.value is None:
            topic = self.kafka.topic_prefix + TICKETS.name
            await client.send_and_wait(topic, POISON_VALUE, key=letter.ticket_id.encode())
        else:
            await (await publish(client, self.kafka, letter.value))
        self.published[letter.ticket_id] += 1
