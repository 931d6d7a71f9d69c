"""Tier-1 on a real broker while its models file is replaced: no ticket is lost, and each model gets its share."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from schemas.codec import decode, encode
from schemas.events import Event
from schemas.tickets import TicketId
from streams import tier1, tier1_models
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.loop import StageLoop
from streams.settings import KafkaSettings, Settings, Tier1Settings
from tests.fakes import FakeChatServer
from tests.kafka import committed_records, until, write
from tests.records import a_routed, a_ticket
from workers.tier1.models import load_models

pytestmark = pytest.mark.integration

OLD = '[[model]]\nname = "old"\n'
CANARY = OLD + '[[model]]\nname = "canary"\n[model.extra]\nlora = [{id = 1, scale = 1}]\n'


async def test_a_models_file_replaced_under_load_loses_no_ticket(
    kafka: EmbeddedKafka, topics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tickets before, while and after one that can't be used and one that can: each is drafted once, the last by the
    model that the new file gives them, and the server was asked for that one."""
    monkeypatch.setattr(tier1_models, "LOOK_S", 0.05)
    path = tmp_path / "models.toml"
    path.write_text(OLD)
    (tmp_path / "knowledge.toml").write_text('[[passage]]\nid = "orders.track"\ntext = "Two days."\n')
    of_kafka = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0)
    ids: list[str] = []

    async def publish(count: int) -> None:
        new = [f"t{n:03}" for n in range(len(ids), len(ids) + count)]
        ids.extend(new)
        records = [(n.encode(), encode(a_routed(a_ticket(ticket_id=TicketId(n))))) for n in new]
        await write(kafka.bootstrap_servers, topics + "tier1", records)

    def replace(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(path)

    def refused() -> float | None:
        return REGISTRY.get_sample_value("headgate_tier1_models_refused")

    server = FakeChatServer()
    async with server.serving() as url:
        config = Tier1Settings(base_url=url, models=path, usd_per_hour=3600.0)
        changes = {"knowledge": tmp_path / "knowledge.toml", "tier1": config, "kafka": of_kafka}
        async with tier1.stage(Settings().model_copy(update=changes)) as stage:
            loop = StageLoop(stage, of_kafka)
            running = asyncio.create_task(loop.run())
            await publish(40)
            await committed_records(kafka.bootstrap_servers, topics + "events", len(ids))
            replace("half a fi")
            await publish(40)
            await until(lambda: refused() == 1)
            replace(CANARY)
            await publish(40)
            await until(lambda: refused() == 0)
            await publish(40)
            records = await committed_records(kafka.bootstrap_servers, topics + "events", len(ids))
            loop.stop()
            await asyncio.wait_for(running, 40)
    events = [decode(Event, record.value) for record in records]
    assert Counter(event.ticket_id for event in events) == Counter(ids)
    by_model = {event.ticket_id: event.model for event in events}
    assert {by_model[i] for i in ids[:40]} == {"old"}
    canary = load_models(path)
    assert [by_model[i] for i in ids[-40:]] == [canary.pick(i).name for i in ids[-40:]]
    assert set(by_model.values()) == {"old", "canary"}
    assert {body["model"] for body in server.bodies if "lora" in body} == {"canary"}
    assert all(event.cost_usd == event.cost_per_hour_usd > 0 for event in events)
    # At a dollar a second.
    assert [event.cost_usd for event in events] == pytest.approx([event.engine_s for event in events])
