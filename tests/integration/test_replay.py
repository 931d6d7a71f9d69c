"""`headgate replay` on a real broker: a recorded window under another policy, the same bytes each time."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from schemas.codec import encode
from schemas.events import Event
from schemas.labels import Label
from schemas.replays import Replay
from schemas.tickets import Ticket
from streams import replay as replaying
from streams.local.embedded_kafka import EmbeddedKafka
from streams.policy_records import PolicyError, keep, put_in_force
from streams.read import records
from streams.replay import ReplayError
from streams.runtime.clock import utc_now
from streams.settings import KafkaSettings, RouterSettings, Settings
from tests.replay_world import Truth, a_policy, ends, events, labels, world
from tests.toy_model import write_model
from workers.learning.replay import replay
from workers.learning.replay_fates import Unsupported
from workers.learning.replay_log import Log
from workers.router.classifier import Classifier

pytestmark = pytest.mark.integration

STRICT = a_policy(0.7, 0.55, audit_share=0.5)
LOOSE = a_policy(0.3, 0.5, audit_share=0.1, version="loose")


@pytest.fixture
def settings(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> Settings:
    """A file's policy that no ticket was under, and a toy model."""
    (tmp_path / "policy.json").write_bytes(encode(a_policy(version="file")))
    return Settings().model_copy(
        update={
            "policy": tmp_path / "policy.json",
            "router": RouterSettings(model=write_model(tmp_path / "model.onnx"), threads=1),
            "kafka": KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics),
        }
    )


async def publish(kafka: KafkaSettings, topic: str, told: Sequence[tuple[datetime, str, bytes]]) -> None:
    """Records as they were written at (moment, key, value)."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        for at, key, value in told:
            ms = int(at.timestamp() * 1000)
            await producer.send(kafka.topic_prefix + topic, value, key=key.encode(), timestamp_ms=ms)
        await producer.flush()


async def record(kafka: KafkaSettings, truths: Sequence[Truth], start: datetime) -> tuple[list[Event], list[Label]]:
    """The window's log under STRICT, and a record that is none of ours."""
    await put_in_force(kafka, STRICT)
    await keep(kafka, LOOSE)
    ended = ends(truths, STRICT)
    happened, said = events(truths, ended, start), [replace(x, at=start) for x in labels(truths, ended)]
    await publish(kafka, "events", [(e.at, e.ticket_id, encode(e)) for e in happened] + [(start, "x", b"none of ours")])
    await publish(kafka, "labels", [(start + timedelta(minutes=9), x.ticket_id, encode(x)) for x in said])
    return happened, said


async def test_a_window_is_replayed_from_the_topics_alone(settings: Settings, tmp_path: Path) -> None:
    """The command's figures are those of the events in the window, whoever asks and however often."""
    kafka, start = settings.kafka, utc_now().replace(microsecond=0) - timedelta(hours=2)
    happened, said = await record(kafka, world(1, 240), start)
    window = start + timedelta(seconds=20), start + timedelta(seconds=220)
    env = {
        "HEADGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "HEADGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "HEADGATE_POLICY": str(settings.policy),
        "COLUMNS": "150",
    }
    command = ("replay", "--from", window[0].isoformat(), "--to", window[1].isoformat(), "--policy", "loo")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streams.cli", *command, "--out", str(tmp_path / "one")),
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    shown = (await asyncio.wait_for(process.communicate(), 100))[0].decode()
    assert process.returncode == 0, shown
    found = msgspec.json.decode((tmp_path / "one" / "replay.json").read_bytes(), type=Replay)

    log = Log(*window)
    for event in happened:
        log.add(event)
    for label in said:
        log.add_label(label)
    expected = replay(log.tickets(), LOOSE, {STRICT.version: STRICT}, {}, window, {"records that can't be read": 1})
    assert found == expected
    assert found.everything.tickets == 200
    assert found.check is not None
    assert (found.check.tickets, found.check.ends_differ) == (200, 0)
    assert found.everything.sampled > found.everything.drawn > 30
    assert "the log itself: 200 of 200 tickets end in the replay as they did" in shown

    await replaying.run(settings, *window, "loose", tmp_path / "two")
    for name in ("replay.json", "replay.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


async def test_another_router_model_scores_the_texts_that_are_still_there(settings: Settings, tmp_path: Path) -> None:
    """With the file that the settings name, and with no other than the candidate's."""
    kafka, start = settings.kafka, utc_now() - timedelta(hours=2)
    truths = world(2, 40)
    await record(kafka, truths, start)
    kept = truths[:30]
    await publish(kafka, "tickets", [(start, t.ticket.ticket_id, encode(t.ticket)) for t in kept])
    window, file = (start, start + timedelta(minutes=5)), tmp_path / "candidate.json"
    with pytest.raises(PolicyError, match="no policies begin"):
        await replaying.run(settings, *window, "nowhere", tmp_path)
    file.write_bytes(encode(replace(LOOSE, router_model="r2")))
    version = Classifier(settings.router.model, threads=1).version
    with pytest.raises(ReplayError, match=rf"router model r2.*is {version}"):
        await replaying.run(settings, *window, str(file), tmp_path)
    file.write_bytes(encode(replace(LOOSE, router_model=version, least_in_scope=0.0)))
    found = await replaying.run(settings, *window, str(file), tmp_path)
    assert found.rescored == 30
    assert found.everything.unsupported[Unsupported.TEXT_GONE] == 10
    would = found.everything.candidate
    assert would.tier1_share.value is None
    with pytest.raises(ReplayError, match="no ticket of the window"):
        await replaying.run(settings, start - timedelta(hours=1), start - timedelta(minutes=30), "loose", tmp_path)


async def test_a_bounded_reading_ends_where_it_should(settings: Settings) -> None:
    """At the first record of a moment, though later ones are there."""
    kafka, start = settings.kafka, utc_now() - timedelta(hours=2)
    told = [Ticket(ticket_id=t.ticket.ticket_id, body="x") for t in world(3, 40)]
    at = {ticket.ticket_id: start + timedelta(seconds=n) for n, ticket in enumerate(told)}
    await publish(kafka, "tickets", [(at[t.ticket_id], t.ticket_id, encode(t)) for t in told])
    since, before = start + timedelta(seconds=10), start + timedelta(seconds=25)
    reading = records(kafka, Ticket, replaying.ALL_TICKETS[0], since=since, before=before)
    read = [ticket.ticket_id async for ticket, _ in reading]
    assert sorted(read) == [t.ticket_id for t in told[10:25]]
