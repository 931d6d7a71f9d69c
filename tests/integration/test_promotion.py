"""A candidate on a real broker: rolled back or promoted by `headgate certify`, on the tickets that chance gave it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from rich.console import Console

from schemas.answers import HandoffReason
from schemas.codec import decode, encode
from schemas.events import Event
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Routed
from schemas.topics import HANDOFFS, TIER2
from streams import certify, router
from streams.local.embedded_kafka import EmbeddedKafka
from streams.outcomes import handoff
from streams.policies import load_policy
from streams.policy_records import PolicyError, promote, publish_policy, read_shelf, rollback
from streams.runtime.clock import age_s, utc_now
from streams.runtime.loop import StageLoop
from streams.runtime.stage import Done, Output, Record, Stage, singly
from streams.settings import CertifySettings, KafkaSettings, RouterSettings, Settings
from tests.kafka import committed_records, until, write_tickets
from tests.toy_model import write_model

pytestmark = pytest.mark.integration

TO_TIER2 = Policy(
    scope="default",
    version="file",
    default=CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow"),
    least_in_scope=0.0,
)
OTHER = Policy(scope="default", version="", default=TO_TIER2.default, least_in_scope=0.0, max_ticket_chars=1_999)


@pytest.fixture
def configured(kafka: EmbeddedKafka, topics: str, tmp_path: Path) -> Settings:
    """A toy model, and everything to tier-2."""
    (tmp_path / "policy.json").write_bytes(encode(TO_TIER2))
    return Settings().model_copy(
        update={
            "policy": tmp_path / "policy.json",
            "router": RouterSettings(model=write_model(tmp_path / "model.onnx"), threads=1),
            "kafka": KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics, drain_s=5.0),
            "certify": CertifySettings(guard_from=40, max_latency_ratio=1.2),
        }
    )


def tier2_that_takes(slow_s: float, usual_s: float) -> Stage[Routed]:
    """A person answers everything; tickets of another policy than the file's wait longer for that."""

    async def handle(record: Record[Routed]) -> Done:
        routed = record.value
        decision, ticket = routed.decision, routed.ticket
        await asyncio.sleep(usual_s if decision.policy_version == "file" else slow_s)
        event = Event(
            event_id=f"tier2/{record.origin}",
            at=utc_now(),
            stage="tier2",
            outcome="handed_off",
            ticket_id=ticket.ticket_id,
            tenant=ticket.tenant,
            cost_usd=0.001,
            age_s=age_s(routed.received_at),
        )
        handed = handoff(routed, HandoffReason.TIER2_UNAVAILABLE, "", tier2_usd=0.001)
        return Done((Output(HANDOFFS, ticket.ticket_id, handed),), event)

    return Stage("tier2", TIER2, Routed, singly(handle), batch_size=1, max_in_flight=512)


@asynccontextmanager
async def traffic(settings: Settings, tier2: Stage[Routed]) -> AsyncIterator[list[str]]:
    """Tickets through the router and `tier2` while the block lasts, and then until all are finished. Yields the ids as
    they are published, once some are through: what waited while the stages began is old under any policy."""
    kafka, ids = settings.kafka, list[str]()

    stopped = asyncio.Event()

    async def publish() -> None:
        while not stopped.is_set():
            new = [f"t{n:05}" for n in range(len(ids), len(ids) + 10)]
            ids.extend(new)
            await write_tickets(kafka.bootstrap_servers, kafka.topic_prefix, new)
            await asyncio.sleep(0.2)

    async with router.stage(settings) as routing:
        loops = [StageLoop(stage, kafka) for stage in (routing, tier2)]
        running = [asyncio.create_task(loop.run()) for loop in loops]
        publishing = asyncio.create_task(publish())
        try:
            await committed_records(kafka.bootstrap_servers, kafka.topic_prefix + "handoffs", 20)
            yield ids
        finally:
            stopped.set()
            await publishing
            handed = await committed_records(kafka.bootstrap_servers, kafka.topic_prefix + "handoffs", len(ids))
            for loop in loops:
                loop.stop()
            await asyncio.wait_for(asyncio.gather(*running), 40)
            assert Counter((r.key or b"").decode() for r in handed) == Counter(ids), "each ticket ends once"


async def certify_until_the_trial_is_over(settings: Settings) -> Policy | None:
    """What `headgate certify` does, look by look, until there is no candidate any more; returns what is in force."""
    async with certify.watching(settings) as watch:

        async def is_over() -> bool:
            await certify.act(watch, settings, dry_run=False, console=Console(quiet=True))
            return (await read_shelf(settings.kafka, "default")).candidate is None

        await until(is_over)
    return (await read_shelf(settings.kafka, "default")).active


async def test_a_candidate_whose_tickets_are_slow_is_rolled_back(configured: Settings) -> None:
    """By itself, with what was seen as evidence; later tickets are the other's again, and none is lost over it."""
    kafka, start = configured.kafka, load_policy(configured.policy)
    async with traffic(configured, tier2_that_takes(1.5, 0.3)) as ids:
        candidate = await publish_policy(kafka, start, OTHER, 0.5)
        assert await certify_until_the_trial_is_over(configured) is None
        # The router runs in this process.
        role = {"role": "candidate", "version": candidate.version}
        await until(lambda: REGISTRY.get_sample_value("headgate_policy_info", role) is None)
        late = len(ids)
        await until(lambda: len(ids) >= late + 60)
    lost = (await read_shelf(kafka, "default")).rolled_back
    assert lost is not None
    assert lost.evidence is not None
    assert lost.version == candidate.version
    assert (lost.evidence.role, lost.evidence.by) == ("rolled_back", "headgate certify")
    assert "its p95 is" in lost.evidence.because[0]
    assert lost.evidence.latency_ratio is not None
    assert lost.evidence.latency_ratio > 1.2
    records = await committed_records(kafka.bootstrap_servers, kafka.topic_prefix + "events", 2 * len(ids))
    routed = [e for e in (decode(Event, r.value) for r in records) if e.stage == "router"]
    assert {e.policy_version for e in routed if e.ticket_id >= f"t{late:05}"} == {"file"}
    assert sum(e.policy_version == candidate.version for e in routed) >= configured.certify.guard_from
    console = Console(record=True, width=200)
    await certify.show(configured, console)
    said = console.export_text()
    assert f"no longer: policy {candidate.version}" in said
    assert "its p95 is" in said


async def test_a_candidate_without_a_breach_is_promoted_where_that_is_wanted(configured: Settings) -> None:
    """After the tickets that were asked for, which are its evidence."""
    patient = configured.certify.model_copy(update={"promote_after": 40, "max_latency_ratio": 3.0})
    settings = configured.model_copy(update={"certify": patient})
    kafka, start = settings.kafka, load_policy(settings.policy)
    async with traffic(settings, tier2_that_takes(0.1, 0.1)):
        candidate = await publish_policy(kafka, start, OTHER, 0.5)
        active = await certify_until_the_trial_is_over(settings)
    assert active is not None
    assert active.version == candidate.version
    assert active.evidence is not None
    assert active.evidence.tickets >= 40
    assert active.evidence.cost_ratio == pytest.approx(1.0, abs=0.1)
    assert active.canary_share == 0.0


async def test_an_operators_promotion_carries_its_evidence_and_is_taken_back_step_by_step(configured: Settings) -> None:
    """What is known of the candidate goes with it; a rollback never leads to a policy that was rolled back."""
    kafka, start = configured.kafka, load_policy(configured.policy)
    first = await publish_policy(kafka, start, OTHER, None)
    second = await publish_policy(kafka, start, replace(OTHER, max_ticket_chars=1_998), 0.5)
    failed = await publish_policy(kafka, start, replace(OTHER, max_ticket_chars=1_997), 0.5)
    await rollback(kafka, start, "")
    await promote(kafka, start, second.version, 0.5)
    promoted = await certify.promote(configured, "", None)
    assert promoted.version == second.version
    assert promoted.evidence is not None
    assert (promoted.evidence.role, promoted.evidence.by) == ("in_force", "headgate policy promote")
    assert (await rollback(kafka, start, "")).version == first.version
    with pytest.raises(PolicyError, match="no earlier policy"):
        await rollback(kafka, start, "")
    lost = (await read_shelf(kafka, "default")).versions[failed.version].evidence
    assert lost is not None
    assert lost.role == "rolled_back"
