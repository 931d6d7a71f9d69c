"""Feedback on a real broker: joined with its answers, each label once."""

import pytest
from rich.console import Console

from schemas.codec import decode, encode
from schemas.labels import Feedback, Label
from schemas.tickets import TicketId
from streams.feedback import label_feedback
from streams.local.embedded_kafka import EmbeddedKafka
from streams.outcomes import answer
from streams.settings import KafkaSettings
from tests.kafka import committed_records, write
from tests.records import AT, a_draft, a_routed, a_ticket, a_verdict

pytestmark = pytest.mark.integration


def an_answer(ticket_id: str, tenant: str = "default") -> tuple[bytes, bytes]:
    routed = a_routed(a_ticket(ticket_id=TicketId(ticket_id), tenant=tenant))
    return ticket_id.encode(), encode(answer(a_draft(routed=routed), a_verdict()))


def said(ticket_id: str, **fields: object) -> tuple[bytes, bytes]:
    made = Feedback(ticket_id=TicketId(ticket_id), at=AT, **fields)  # type: ignore[arg-type]
    return ticket_id.encode(), encode(made)


async def test_feedback_becomes_labels_and_each_once(kafka: EmbeddedKafka, topics: str) -> None:
    """However often it is run; what has no answer, or says nothing, is counted. Tenants are told apart."""
    settings = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics)
    servers = kafka.bootstrap_servers
    console = Console(record=True, width=200)
    answers = [an_answer("t1"), an_answer("t1", "other"), an_answer("t2"), an_answer("t3"), (b"x", b"no answer")]
    await write(servers, topics + "answers", answers)
    feedback = [said("t1", reopened=True), said("t2", rating=5), said("t3"), said("gone", rating=1), (b"x", b"{")]
    await write(servers, topics + "feedback", feedback)
    assert await label_feedback(settings, dry_run=True, console=console) == 2
    assert await label_feedback(settings, dry_run=False, console=console) == 2
    assert await label_feedback(settings, dry_run=False, console=console) == 0
    text = console.export_text()
    assert "4 tickets with feedback: 1 have no answer on the topic, 1 say nothing of it; 2 new labels" in text
    assert "reopened 1" in text

    await write(servers, topics + "feedback", [said("t2", edited_text="Something else.")])
    assert await label_feedback(settings, dry_run=False, console=console) == 1
    labels = [decode(Label, r.value) for r in await committed_records(servers, topics + "labels", 3)]
    found = sorted((x.ticket_id, x.tenant, x.acceptable, x.why) for x in labels)
    assert found == [
        ("t1", "default", False, "reopened"),
        ("t2", "default", False, "edited"),
        ("t2", "default", True, ""),
    ]
