"""Labelled outcomes from Kafka, as `headgate learn router --labels topic` reads them."""

import pytest
from aiokafka import AIOKafkaProducer

from schemas.codec import encode
from schemas.labels import Label
from schemas.tickets import TicketId
from schemas.topics import BACKFILL
from streams.labels import read_labels, read_tickets
from streams.local.embedded_kafka import EmbeddedKafka
from streams.settings import KafkaSettings
from tests.records import AT, a_ticket
from workers.learning.cold_start import Reservoir
from workers.learning.labels import LabelledOutcome

pytestmark = pytest.mark.integration


def a_label(ticket_id: str, acceptable: bool) -> bytes:
    return encode(
        Label(
            ticket_id=TicketId(ticket_id),
            category="orders",
            acceptable=acceptable,
            source="person",
            propensity=0.5,
            at=AT,
        )
    )


async def test_labels_are_joined_with_tickets_of_both_lanes(kafka: EmbeddedKafka, topics: str) -> None:
    """Across partitions; a record that is none of ours is counted and ends nothing, an aborted one isn't seen."""
    settings = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics)
    tickets = [a_ticket(f"Body {n}", ticket_id=TicketId(f"t{n}")) for n in range(6)]
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, transactional_id=f"{topics}labels"
    ) as client:
        async with client.transaction():
            for n, ticket in enumerate(tickets):
                lane = BACKFILL if n == 3 else ""
                await client.send(f"{topics}tickets{lane}", encode(ticket), key=ticket.ticket_id.encode())
            await client.send(f"{topics}tickets", b"not a ticket")
            for n in (0, 3, 9):
                await client.send(f"{topics}labels", a_label(f"t{n}", acceptable=n == 0), key=f"t{n}".encode())
            await client.send(f"{topics}labels", b"{}")
        await client.begin_transaction()
        await client.send(f"{topics}labels", a_label("t5", acceptable=True), key=b"t5")
        await client.abort_transaction()

    join = await read_labels(settings)
    assert {o.text: (o.tier1_ok, o.propensity) for o in join.outcomes.values()} == {
        "Body 0": (True, 0.5),
        "Body 3": (False, 0.5),
    }
    assert (join.without_ticket, join.replaced, join.unreadable) == (1, 0, 2)

    sample = Reservoir[LabelledOutcome](100, seed=1)
    assert await read_tickets(settings, sample) == 1
    assert sorted(row.text for row in sample.kept) == [f"Body {n}" for n in range(6)]
