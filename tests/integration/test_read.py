"""Reading topics as a downstream consumer does."""

import pytest

from schemas.codec import encode
from schemas.tickets import Ticket, TicketId
from schemas.topics import TICKETS
from streams.answers import print_answers
from streams.local.embedded_kafka import EmbeddedKafka
from streams.publish import producer, publish
from streams.read import reader
from streams.settings import KafkaSettings
from streams.topics import TopicsError
from tests.kafka import write

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics)


async def _publish(settings: KafkaSettings, *numbers: int) -> list[Ticket]:
    sent = [Ticket(ticket_id=TicketId(str(n)), body="Where is my router?") for n in numbers]
    async with producer(settings) as client:
        for ticket in sent:
            await (await publish(client, settings, ticket))
    return sent


async def test_from_the_start_everything_is_read_up_to_the_end(settings: KafkaSettings) -> None:
    """And then it ends: `headgate answers` without --follow."""
    sent = await _publish(settings, 1, 2, 3, 4, 5)
    async with reader(settings, [TICKETS]) as source:
        received = [r async for r in source.until_end()]
    assert sorted(r.raw or b"" for r in received) == sorted(map(encode, sent))


async def test_from_the_end_only_what_comes_later_is_read(settings: KafkaSettings) -> None:
    """Whatever is published once the reader is open, and nothing before."""
    await _publish(settings, 1, 2, 3)
    async with reader(settings, [TICKETS], from_start=False) as source:
        later = await _publish(settings, 4, 5)
        received = [r async for r in source.until_end()]
    assert sorted(r.raw or b"" for r in received) == sorted(map(encode, later))


async def test_a_topic_that_is_not_there_is_named(kafka: EmbeddedKafka) -> None:
    """With what to do about it."""
    settings = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix="nowhere-")
    with pytest.raises(TopicsError, match=r"nowhere-tickets.*topics apply"):
        async with reader(settings, [TICKETS]):
            pass


async def test_answers_are_printed_whatever_they_hold(
    settings: KafkaSettings, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A record that is none of ours does not keep the later ones from the reader."""
    written = [b"none of ours", b'{"ticket_id": "1"}']
    await write(settings.bootstrap_servers, settings.topic_prefix + "answers", [(b"1", value) for value in written])
    await print_answers(settings, follow=False, with_handoffs=False)
    assert capsysbinary.readouterr().out.splitlines() == written
