"""The router on a real broker while its model is replaced: no ticket is lost, and none is routed twice."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from schemas.codec import decode, encode
from schemas.events import Event
from schemas.policy import CategoryPolicy, Policy
from streams import router, router_models
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.loop import StageLoop
from streams.settings import KafkaSettings, RouterSettings, Settings
from tests.kafka import committed_records, until, write_tickets
from tests.toy_model import metadata, write_model
from workers.router.classifier import Classifier

pytestmark = pytest.mark.integration


def refused() -> float | None:
    """Whether the file in the model's place can't be used, as /metrics says it."""
    return REGISTRY.get_sample_value("headgate_router_model_refused", {"role": "active"})


async def test_a_model_replaced_under_load_loses_no_ticket(
    kafka: EmbeddedKafka, topics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tickets before, while and after a file that can't be used and one that can: each has one event, of one of the
    two usable versions, and the last are the new one's."""
    monkeypatch.setattr(router_models, "LOOK_S", 0.05)
    policy = Policy(scope="*", version="p", default=CategoryPolicy(p_ok_threshold=0.5, score_threshold=0.5))
    (tmp_path / "policy.json").write_bytes(encode(policy))
    model = write_model(tmp_path / "model.onnx")
    old = Classifier(model).version
    changes = {
        "policy": tmp_path / "policy.json",
        "router": RouterSettings(model=model, threads=1),
        "kafka": KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0),
    }
    ids: list[str] = []

    async def publish(count: int) -> None:
        new = [f"t{n:03}" for n in range(len(ids), len(ids) + count)]
        ids.extend(new)
        await write_tickets(kafka.bootstrap_servers, topics, new)

    async with router.stage(Settings().model_copy(update=changes)) as stage:
        loop = StageLoop(stage, changes["kafka"])  # type: ignore[arg-type]
        running = asyncio.create_task(loop.run())
        await publish(40)
        await committed_records(kafka.bootstrap_servers, topics + "events", len(ids))
        (tmp_path / "half").write_bytes(model.read_bytes()[:500])
        (tmp_path / "half").replace(model)
        await publish(40)
        await until(lambda: refused() == 1)
        write_model(model, metadata(labels="7"))
        new = Classifier(model).version
        await publish(40)
        await until(lambda: refused() == 0)
        await publish(1)
        records = await committed_records(kafka.bootstrap_servers, topics + "events", len(ids))
        loop.stop()
        await asyncio.wait_for(running, 40)
    events = [decode(Event, record.value) for record in records]
    assert Counter(event.ticket_id for event in events) == Counter(ids)
    versions = {event.ticket_id: event.model for event in events}
    assert set(versions.values()) == {old, new}
    assert versions[ids[0]] == old
    assert versions[ids[-1]] == new
