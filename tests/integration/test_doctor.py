"""`headgate doctor` on a real broker: nothing is wrong after `topics apply`; then one thing after the other is."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from msgspec.structs import replace
from pydantic import SecretStr

from streams.doctor import cluster, models, providers, stages
from streams.doctor.examination import examine
from streams.doctor.finding import Finding
from streams.local.embedded_kafka import EmbeddedKafka
from streams.policies import load_policy
from streams.policy_records import put_in_force
from streams.settings import JudgeSettings, KafkaSettings, Settings, Tier1Settings, Tier2Settings, load
from streams.topics import TopicsError
from tests.fakes import FakeChatServer
from tests.frontier_faults import frontier, recordings
from tests.kafka import until, write, write_tickets
from workers.tier2.recorded_frontier import no_faults

pytestmark = pytest.mark.integration

FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"
KEY = "sk-test-of-the-doctor"


@pytest.fixture
async def settings(kafka: EmbeddedKafka, topics: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Settings]:
    """Fernway's on this broker, with a provider and a small model that answer."""
    monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
    server = FakeChatServer()
    server.names = ("smollm2-135m-fernway",)
    async with frontier(recordings({}), no_faults) as provider, server.serving() as small:
        asked = {"base_url": provider, "api_key": SecretStr(KEY)}
        yield load().model_copy(
            update={
                "kafka": KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, partitions=2),
                "tier1": Tier1Settings(base_url=small),
                "tier2": Tier2Settings(**asked),
                "judge": JudgeSettings(**asked),
            }
        )


def not_well(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    return {f.name: (f.verdict, f.fix) for f in findings if f.verdict != "ok"}


async def test_a_deployment_that_is_as_it_should_be_has_nothing_wrong(settings: Settings) -> None:
    """Only warnings: one broker, and no stage is running. No topic is changed, and no key is shown."""
    before = await cluster.look(settings.kafka)
    findings = await examine(settings)
    assert {name: verdict for name, (verdict, _) in not_well(findings).items()} == dict.fromkeys(
        ("brokers", "router", "tier1", "tier2", "checker", "judge"), "warning"
    )
    assert {f.subject for f in findings} >= {"Kafka", "models", "policy", "tier-1", "tier-2", "judge", "stages"}
    assert KEY not in str(findings)
    assert (await cluster.look(settings.kafka)).found == before.found


async def test_what_was_changed_on_the_cluster_is_found_with_the_command_that_mends_it(settings: Settings) -> None:
    """A topic that is gone, a shorter retention, a memory with fewer partitions."""
    kafka = settings.kafka
    answers, labels = (kafka.topic_prefix + name for name in ("answers", "labels"))
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([labels])
        config = {"retention.ms": "3600000", "cleanup.policy": "delete", "max.message.bytes": str(4 << 20)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, answers, config)])
    finally:
        await admin.close()

    async def has_changed() -> bool:
        try:
            seen = not_well(cluster.judged(await cluster.look(kafka), kafka))
        except TopicsError:  # it went while we looked
            return False
        return {"topics", answers} <= seen.keys()

    await until(has_changed)
    found = cluster.judged(await cluster.look(kafka), kafka)
    assert not_well(found)["topics"] == ("wrong", "headgate topics apply")
    verdict, fix = not_well(found)[answers]
    assert verdict == "warning"
    assert fix.endswith(f"--entity-name {answers} --add-config retention.ms={30 * 24 * 3600 * 1000}")
    with pytest.raises(TopicsError, match="spend"):
        await cluster.clock(kafka.model_copy(update={"topic_prefix": "never-"}))


async def test_a_policy_for_another_router_is_found_on_the_topic(settings: Settings) -> None:
    """The file's own is as it should be; the one that is in force was solved for another model."""
    loaded = await asyncio.to_thread(models.load, settings)
    assert not_well(list(loaded.findings)) == {}
    assert not_well(await models.in_force(settings, loaded)) == {}
    await put_in_force(settings.kafka, replace(load_policy(settings.policy), version="v9", router_model="another"))
    verdict, fix = not_well(await models.in_force(settings, loaded))["in force"]
    assert (verdict, fix.startswith("put router_model another back")) == ("wrong", True)


async def test_tickets_that_nobody_takes_and_dead_letters_are_found(settings: Settings) -> None:
    """By the stage, with the command that starts it."""
    kafka = settings.kafka
    await write_tickets(kafka.bootstrap_servers, kafka.topic_prefix, ["t1", "t2"])
    await write(
        kafka.bootstrap_servers,
        kafka.topic_prefix + "dead-letters",
        [(b"t3", b"no JSON")],
        [("headgate-reason", b"not a Ticket")],
    )
    found = not_well(await stages.at_work(kafka))
    assert found["router"] == ("wrong", "headgate run router")
    assert found["tier1"] == ("warning", "headgate run tier1")
    (letters,) = await stages.dead_letters(kafka)
    assert letters.said == "1 in the last day; 1 of them: not a Ticket"


async def test_a_provider_that_does_not_know_the_model_and_a_server_that_is_away_are_found(
    settings: Settings,
) -> None:
    """Each with the setting to correct; a key that is missing names its variable."""
    assert not_well(await providers.frontier(settings, "tier2")) == {}
    of_openai = settings.tier2.model_copy(update={"provider": "openai"})
    found = await providers.frontier(settings.model_copy(update={"tier2": of_openai}), "tier2")
    assert list(not_well(found).values()) == [("wrong", "correct tier2.model")]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        away = settings.model_copy(update={"tier1": Tier1Settings(base_url=address)})
        assert not_well(await providers.tier1(away)) == {
            "server": ("wrong", "start tier-1's server, or correct tier1.base_url")
        }
