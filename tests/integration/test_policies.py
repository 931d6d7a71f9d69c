"""Policies on a real broker: stages take a new one without a restart, and labels make and break certificates."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY
from rich.console import Console

from schemas.codec import decode, encode
from schemas.events import Event
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import TicketId
from streams import certify, router
from streams.local.embedded_kafka import EmbeddedKafka
from streams.local.ports import free_port
from streams.policies import PolicyTopic, load_policy, policies_in_force
from streams.policy_records import promote, publish_policy, read_shelf, rollback
from streams.runtime.clock import utc_now
from streams.runtime.loop import StageLoop
from streams.settings import CertifySettings, KafkaSettings, RouterSettings, Settings
from tests.kafka import committed_records, until, write, write_tickets
from tests.toy_model import write_model

pytestmark = pytest.mark.integration

SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", audit_share=1.0)
LENIENT = CategoryPolicy(p_ok_threshold=0.0, score_threshold=0.0)


@pytest.fixture
def configured(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> Settings:
    """A toy model, and a policy file that keeps all from tier-1."""
    (tmp_path / "policy.json").write_bytes(
        encode(Policy(scope="default", version="file", default=SHADOW, least_in_scope=0.0))
    )
    return Settings().model_copy(
        update={
            "policy": tmp_path / "policy.json",
            "router": RouterSettings(model=write_model(tmp_path / "model.onnx"), threads=1),
            "kafka": KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0),
            "certify": CertifySettings(),
        }
    )


async def test_a_policy_that_changes_under_load_loses_no_ticket(configured: Settings) -> None:
    """Published, tried as a candidate, promoted, rolled back: each ticket is routed once, under one of them, and the
    last ones under the last."""
    kafka, start = configured.kafka, load_policy(configured.policy)
    ids: list[str] = []

    async def publish(count: int) -> None:
        new = [f"t{n:03}" for n in range(len(ids), len(ids) + count)]
        ids.extend(new)
        await write_tickets(kafka.bootstrap_servers, kafka.topic_prefix, new)

    async with router.stage(configured) as stage:
        loop = StageLoop(stage, kafka)
        running = asyncio.create_task(loop.run())

        async def events() -> list[Event]:
            found = await committed_records(kafka.bootstrap_servers, kafka.topic_prefix + "events", len(ids))
            return [decode(Event, record.value) for record in found]

        await publish(20)
        assert {e.policy_version for e in await events()} == {"file"}
        lenient = Policy(scope="default", version="", default=LENIENT, least_in_scope=0.0)
        first = await publish_policy(kafka, start, lenient, None)
        await publish(20)
        strict = Policy(scope="default", version="", default=SHADOW, least_in_scope=0.0)
        second = await publish_policy(kafka, start, strict, 0.5)
        await publish(20)
        await events()
        await until(lambda: is_taken(second, "candidate"))
        await publish(40)
        tried = Counter(e.policy_version for e in (await events()) if e.ticket_id >= "t060")
        assert set(tried) == {first.version, second.version}
        await promote(kafka, start, "", None)
        await until(lambda: is_taken(second, "active"))
        await publish(20)
        assert {e.policy_version for e in await events() if e.ticket_id >= "t100"} == {second.version}
        back = await rollback(kafka, start, "")
        assert back.version == first.version
        await until(lambda: is_taken(first, "active"))
        await publish(20)
        told = await events()
        loop.stop()
        await asyncio.wait_for(running, 40)
    assert Counter(e.ticket_id for e in told) == Counter(ids)
    assert {e.policy_version for e in told if e.ticket_id >= "t120"} == {first.version}
    shelf = await read_shelf(kafka, "default")
    assert set(shelf.versions) == {first.version, second.version}
    assert shelf.candidate is None


def is_taken(policy: Policy, role: str) -> bool:
    """Whether the router, which runs in this process, has it in that role."""
    return REGISTRY.get_sample_value("headgate_policy_info", {"role": role, "version": policy.version}) == 1


def label(number: int, acceptable: bool, shipped: bool) -> tuple[bytes, bytes]:
    made = Label(
        ticket_id=TicketId(f"t{number}"),
        category="billing",
        acceptable=acceptable,
        source="judge",
        propensity=1.0,
        at=utc_now() + timedelta(milliseconds=number),
        p_ok=0.8,
        score=0.9 if acceptable else 0.1,
        shipped=shipped,
    )
    return made.ticket_id.encode(), encode(made)


def refusal(number: int) -> tuple[bytes, bytes]:
    made = Event(
        event_id=f"checker/drafts/0/{number}",
        at=utc_now() + timedelta(milliseconds=number),
        stage="checker",
        outcome="escalated",
        ticket_id=TicketId(f"u{number}"),
        category="billing",
        tier="tier1",
        reasons=("low_score",),
    )
    return made.ticket_id.encode(), encode(made)


async def test_labels_certify_a_category_and_take_it_back(configured: Settings) -> None:
    """A follower of the topic sees both, and the early warning between them; a dry run changes nothing."""
    kafka, console = configured.kafka, Console(quiet=True)
    topic = kafka.topic_prefix + "labels"
    async with policies_in_force(configured.policy, kafka) as followed:
        await until(lambda: followed.is_known)
        good = [label(n, acceptable=n % 4 > 0, shipped=False) for n in range(400)]
        await write(kafka.bootstrap_servers, topic, [*good, (b"x", b"no label")])
        await certify.run(configured, once=True, dry_run=True, console=console)
        assert (await read_shelf(kafka, "default")).active is None
        await certify.run(configured, once=True, dry_run=False, console=console)
        await until(_state(followed, "active"))
        certificate = followed.current.active.of("billing").certificate
        assert certificate is not None
        assert (certificate.labels, certificate.bad) == (400, 0)
        assert 0.1 < followed.current.active.of("billing").score_threshold <= 0.9

        # The checker refuses far more than among those labels.
        await write(kafka.bootstrap_servers, kafka.topic_prefix + "events", [refusal(n) for n in range(200)])
        await certify.run(configured, once=True, dry_run=False, console=console)
        await until(lambda: followed.current.active.of("billing").audit_share == 0.25)
        assert followed.current.active.of("billing").certificate == certificate

        # Answers that were shipped under it turn out bad.
        await write(kafka.bootstrap_servers, topic, [label(1_000 + n, False, True) for n in range(30)])
        ahead = utc_now() + timedelta(milliseconds=1_030)  # as their time is
        await until(lambda: utc_now() > ahead)
        await certify.run(configured, once=True, dry_run=False, console=console)
        await until(_state(followed, "shadow"))
        assert "withdrawn" in followed.current.active.of("billing").why


async def test_operators_see_a_certificate_come_and_fall(configured: Settings) -> None:
    """`headgate certify` serves what the alert on withdrawn certificates and the quality dashboard ask for."""
    kafka, port = configured.kafka, free_port()
    quick = {"health_port": port, "certify": CertifySettings(interval_s=0.2)}
    certifying = asyncio.create_task(
        certify.run(configured.model_copy(update=quick), once=False, dry_run=False, console=Console(quiet=True))
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:

        async def sees(*samples: str) -> bool:
            with suppress(httpx.TransportError):
                found = (await client.get("/metrics")).text.splitlines()
                return set(samples) <= set(found)
            return False

        async def publish(labels: list[tuple[bytes, bytes]]) -> None:
            await write(kafka.bootstrap_servers, kafka.topic_prefix + "labels", labels)

        await until(lambda: sees('headgate_category_active{category="*"} 0.0', "headgate_ready 1.0"))
        assert (await client.get("/healthz")).status_code == (await client.get("/readyz")).status_code == 200
        await publish([label(n, acceptable=n % 4 > 0, shipped=False) for n in range(400)])
        billing = '{category="billing"}'
        await until(
            lambda: sees(f"headgate_category_active{billing} 1.0", f"headgate_certificate_alpha_ratio{billing} 0.05")
        )
        # They are of a moment after the certificate's.
        await publish([label(10_000 + n, n % 3 == 0, True) for n in range(60)])
        await until(lambda: sees(f"headgate_category_active{billing} 0.0"))
    certifying.cancel()
    with suppress(asyncio.CancelledError):
        await certifying


def _state(followed: PolicyTopic, state: str) -> Callable[[], bool]:
    return lambda: followed.current.active.of("billing").state == state and followed.current.active.version != "file"
