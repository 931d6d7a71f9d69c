"""The four agents on a real broker, joined only by their topics: every ticket ends once, with all that it cost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer
from aiokafka.structs import ConsumerRecord
from pydantic import SecretStr

from schemas.answers import Answer, Handoff
from schemas.codec import decode, encode
from schemas.events import Event
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Ticket
from streams import checker, router, settings, telemetry, tier1, tier2
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.loop import StageLoop
from streams.runtime.stage import Stage
from streams.settings import Settings
from tests.collector import Collector
from tests.fakes import FakeChatServer
from tests.fernway import FERNWAY, fernway
from tests.kafka import committed_records, until, write
from workers.learning.company import as_ticket
from workers.tier2.recorded_frontier import application
from workers.tier2.recording import Recordings

pytestmark = pytest.mark.integration

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
REPLY = "It takes 2 business days."


@pytest.fixture
async def engine() -> AsyncIterator[tuple[FakeChatServer, str]]:
    server = FakeChatServer(REPLY)
    async with server.serving() as url:
        yield server, url


@pytest.fixture
async def configured(
    kafka: EmbeddedKafka,
    topics: str,
    engine: tuple[FakeChatServer, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AsyncIterator[Settings]:
    """Fernway's settings on this test's topics, with tier-1 faked and tier-2 recorded."""
    if not (FERNWAY / "router" / "model.onnx").is_file():
        pytest.skip("the router's model is not built: make learn")
    monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
    loaded = settings.load()
    # The fake's answers have no scores worth a threshold: only the gates refuse.
    lenient = Policy(scope="*", version="test", default=CategoryPolicy(p_ok_threshold=0.0, score_threshold=0.0))
    (tmp_path / "policy.json").write_bytes(encode(lenient))
    recordings = Recordings(fernway().examples)
    async with TestServer(application(recordings, latency_scale=0.0, requests_per_minute=None)) as frontier:
        to_frontier = {"base_url": str(frontier.make_url("/")), "api_key": SecretStr("recorded"), "deadline_s": 10.0}
        yield loaded.model_copy(
            update={
                "policy": tmp_path / "policy.json",
                "kafka": loaded.kafka.model_copy(
                    update={"bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": topics, "drain_s": 5.0}
                ),
                "tier1": loaded.tier1.model_copy(update={"base_url": engine[1]}),
                "tier2": loaded.tier2.model_copy(update=to_frontier),
            }
        )


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector of traces; asked for before the agents, it gets theirs."""
    collecting = Collector()
    async with collecting.serving() as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield collecting


@pytest.fixture
async def agents(configured: Settings) -> AsyncIterator[Settings]:
    """All four at work; stopped in order when the test ends."""
    async with AsyncExitStack() as stack:
        loops = []
        for agent in (router, tier1, tier2, checker):
            stage: Stage[Any] = await stack.enter_async_context(agent.stage(configured))
            spans = await stack.enter_async_context(telemetry.collected(stage.name))
            loops.append(StageLoop(replace(stage, spans=spans), configured.kafka))
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        yield configured
        for loop in loops:
            loop.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 40)


async def publish(of: Settings, tickets: list[Ticket]) -> None:
    headers = [("traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-01")]
    records = [(t.ticket_id.encode(), encode(t)) for t in tickets]
    await write(of.kafka.bootstrap_servers, of.kafka.topic_prefix + "tickets", records, headers)


async def found(of: Settings, topic: str, wanted: int) -> list[ConsumerRecord[Any, Any]]:
    return await committed_records(of.kafka.bootstrap_servers, of.kafka.topic_prefix + topic, wanted)


async def test_every_ticket_is_answered_once_with_its_whole_story(agents: Settings) -> None:
    """Through whichever tiers: one answer each, costs that are the events' costs, one trace from end to end."""
    examples = [e for e in fernway().split("test") if e.language == "en"]
    chosen = [e for e in examples if e.kind == "routine"][::40] + [e for e in examples if e.kind == "complex"][:3]
    forced = [
        msgspec.structs.replace(as_ticket(example), metadata={"tier": tier})
        for example, tier in zip(chosen, ["tier1", "tier2"] * len(chosen), strict=False)
    ]
    await publish(agents, forced)
    records = await found(agents, "answers", len(forced))
    answers = {r.key.decode(): decode(Answer, r.value) for r in records}
    assert Counter(r.key.decode() for r in records) == Counter(t.ticket_id for t in forced)
    references = {e.ticket_id: e.reference for e in chosen}
    for ticket in forced:
        answer = answers[ticket.ticket_id]
        assert answer.text == (REPLY if answer.tier == "tier1" else references[ticket.ticket_id])
        assert (answer.tier, answer.attempts) == (ticket.metadata["tier"], ())
    assert all(dict(r.headers)["traceparent"].split(b"-")[1] == TRACE for r in records)
    events = [decode(Event, r.value) for r in await found(agents, "events", 3 * len(forced))]
    assert len(events) == len({e.event_id for e in events}) == 3 * len(forced)
    for ticket_id, answer in answers.items():
        spent = sum(e.cost_usd for e in events if e.ticket_id == ticket_id)
        assert answer.costs.total_usd == pytest.approx(spent)


async def test_a_refused_draft_is_answered_by_the_frontier(
    agents: Settings, engine: tuple[FakeChatServer, str]
) -> None:
    """An empty tier-1 answer reaches no customer, and its cost is not forgotten."""
    engine[0].reply = ""
    example = next(e for e in fernway().split("test") if e.kind == "routine" and e.language == "en")
    await publish(agents, [msgspec.structs.replace(as_ticket(example), metadata={"tier": "tier1"})])
    (record,) = await found(agents, "answers", 1)
    answer = decode(Answer, record.value)
    assert (answer.tier, answer.text) == ("tier2", example.reference)
    assert [(a.tier, a.reason) for a in answer.attempts] == [("tier1", "empty")]
    assert answer.costs.tier1_usd > 0
    assert answer.costs.tier2_usd > 0


async def test_an_engine_that_rejects_a_ticket_costs_money_and_not_the_ticket(
    agents: Settings, engine: tuple[FakeChatServer, str]
) -> None:
    """Tier-2 answers what tier-1's server will not."""
    engine[0].status = 400
    example = next(e for e in fernway().split("test") if e.kind == "routine" and e.language == "en")
    await publish(agents, [msgspec.structs.replace(as_ticket(example), metadata={"tier": "tier1"})])
    (record,) = await found(agents, "answers", 1)
    answer = decode(Answer, record.value)
    assert answer.tier == "tier2"
    assert [a.reason for a in answer.attempts] == ["tier1_unavailable"]


async def test_what_the_frontier_will_not_answer_goes_to_a_person(agents: Settings) -> None:
    """No recording for a ticket is the provider's 404: final, and a handoff with the whole ticket."""
    ticket = Ticket(ticket_id=as_ticket(fernway().examples[0]).ticket_id, body="A question never recorded")
    ticket = msgspec.structs.replace(ticket, metadata={"tier": "tier2"})
    await publish(agents, [ticket])
    (record,) = await found(agents, "handoffs", 1)
    handoff = decode(Handoff, record.value)
    assert handoff.ticket == ticket
    assert handoff.reason == "tier2_rejected_request"


async def test_a_tickets_way_is_one_trace(
    collector: Collector, agents: Settings, engine: tuple[FakeChatServer, str]
) -> None:
    """From the helpdesk's span through all stages, with the calls to models and the batches; no text in any of it."""
    engine[0].reply = ""
    example = next(e for e in fernway().split("test") if e.kind == "routine" and e.language == "en")
    ticket = msgspec.structs.replace(as_ticket(example), metadata={"tier": "tier1"})
    await publish(agents, [ticket])
    (record,) = await found(agents, "answers", 1)
    await until(lambda: len(collector.spans) >= 10)
    spans = {span.span_id.hex(): span for span in collector.spans}
    records = [s for s in spans.values() if s.name.startswith("process") and not s.name.endswith("batch")]

    # From the answer's own traceparent back to the helpdesk's.
    way, at = [], dict(record.headers)["traceparent"].decode().split("-")[2]
    while at in spans:
        assert spans[at].trace_id.hex() == TRACE.decode()
        way.append(spans[at].name.removeprefix(f"process {agents.kafka.topic_prefix}"))
        at = spans[at].parent_span_id.hex()
    assert (way, at) == (["drafts", "tier2", "drafts", "tier1", "tickets"], "00f067aa0ba902b7")
    assert len(records) == len(way)

    calls = {s.name: spans[s.parent_span_id.hex()].name for s in spans.values() if s.name.startswith("chat")}
    prefix = f"process {agents.kafka.topic_prefix}"
    assert calls == {
        f"chat {agents.tier1.model}": f"{prefix}tier1",
        f"chat {agents.tier2.model}": f"{prefix}tier2",
    }
    batches = [s for s in spans.values() if s.name.endswith("batch")]
    assert sorted(spans[link.span_id.hex()].name for batch in batches for link in batch.links) == sorted(
        s.name for s in records if s.name.endswith(("tickets", "drafts"))
    )
    assert {link.span_id for s in records for link in s.links} == {batch.span_id for batch in batches}
    assert collector.services == {f"headgate-{name}" for name in ("router", "tier1", "tier2", "checker")}
    sent = b"".join(collector.bodies)
    texts = [ticket.body, ticket.subject, example.reference, *(m.text for m in ticket.thread)]
    assert [text for text in texts if text and text.encode() in sent] == []
