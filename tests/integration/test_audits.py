"""Audits from the router's draw to labels on a real broker: drawn, drafted in the shadow, answered, judged."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from rich.console import Console

from schemas.answers import Answer
from schemas.audits import Audit
from schemas.codec import decode, encode
from schemas.events import Event
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import TicketId
from streams import checker, judge, router, settings, tier1, tier2
from streams.audits import judge_next, read_book
from streams.local.embedded_kafka import EmbeddedKafka
from streams.runtime.loop import StageLoop
from streams.settings import Settings
from tests.fakes import FakeChatServer
from tests.fernway import FERNWAY, fernway
from tests.kafka import committed_records, write
from tests.records import AT, a_decision, a_ticket, an_attempt
from workers.learning.company import Example, as_ticket
from workers.tier2.recorded_frontier import application
from workers.tier2.recording import Recordings

pytestmark = pytest.mark.integration

WRONG = "It takes 2 business days."


def examples(count: int) -> list[Example]:
    found = [e for e in fernway().split("test") if e.kind == "routine" and e.language == "en"]
    return found[:: len(found) // count][:count]


@pytest.fixture
async def configured(
    kafka: EmbeddedKafka, topics: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Settings]:
    """Fernway, nothing certified and every ticket drawn; tier-1 always says the same wrong thing."""
    monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
    loaded = settings.load()
    shadow = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow", audit_share=1.0)
    (tmp_path / "policy.json").write_bytes(
        encode(Policy(scope="*", version="test", default=shadow, least_in_scope=0.0))
    )
    recordings = Recordings(fernway().examples)
    async with (
        FakeChatServer(WRONG).serving() as engine,
        TestServer(application(recordings, latency_scale=0.0, requests_per_minute=None)) as frontier,
    ):
        asked = {"base_url": str(frontier.make_url("/")), "api_key": SecretStr("recorded"), "deadline_s": 10.0}
        yield loaded.model_copy(
            update={
                "policy": tmp_path / "policy.json",
                "kafka": loaded.kafka.model_copy(
                    update={"bootstrap_servers": kafka.bootstrap_servers, "topic_prefix": topics, "drain_s": 5.0}
                ),
                "tier1": loaded.tier1.model_copy(update={"base_url": engine}),
                "tier2": loaded.tier2.model_copy(update=asked),
                "judge": loaded.judge.model_copy(update=asked),
            }
        )


async def found(of: Settings, topic: str, wanted: int) -> Sequence[bytes]:
    records = await committed_records(of.kafka.bootstrap_servers, of.kafka.topic_prefix + topic, wanted)
    return [record.value for record in records]


@pytest.mark.parametrize("by", ["rubric", "frontier"])
async def test_a_drawn_ticket_gets_tier2s_answer_and_labels_for_both(configured: Settings, by: str) -> None:
    """Nobody is sent the draft from the shadow; its label says that it is bad, and tier-2's that it is good."""
    config = configured.model_copy(update={"judge": configured.judge.model_copy(update={"by": by})})
    chosen = examples(4)
    async with AsyncExitStack() as stack:
        stages = [
            await stack.enter_async_context(router.stage(config)),
            await stack.enter_async_context(tier1.stage(config)),
            await stack.enter_async_context(tier2.stage(config)),
            await stack.enter_async_context(checker.stage(config)),
            await stack.enter_async_context(judge.stage(config)),
        ]
        loops = [StageLoop(stage, config.kafka) for stage in stages]
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        records = [(e.ticket_id.encode(), encode(as_ticket(e))) for e in chosen]
        await write(config.kafka.bootstrap_servers, config.kafka.topic_prefix + "tickets", records)
        labels = [decode(Label, raw) for raw in await found(config, "labels", 2 * len(chosen))]
        answers = {a.ticket_id: a for a in (decode(Answer, raw) for raw in await found(config, "answers", len(chosen)))}
        events = [decode(Event, raw) for raw in await found(config, "events", 6 * len(chosen))]
        for loop in loops:
            loop.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 40)

    assert {e.ticket_id: e.reference for e in chosen} == {i: a.text for i, a in answers.items()}
    assert all([(t.tier, t.reason) for t in a.attempts] == [("tier1", "shadow")] for a in answers.values())
    said = {(label.ticket_id, label.tier): label for label in labels}
    assert len(labels) == len(said) == 2 * len(chosen)
    assert all(label.acceptable == (tier == "tier2") == label.shipped for (_, tier), label in said.items())
    assert {label.propensity for label in labels} == {1.0}
    assert all(label.score is not None for (_, tier), label in said.items() if tier == "tier1")
    judged = [e for e in events if e.stage == "judge"]
    assert [e.outcome for e in judged] == ["judged"] * len(chosen)
    assert all((e.cost_usd > 0) == (by == "frontier") for e in judged)


async def test_a_person_judges_what_nobody_judged(kafka: EmbeddedKafka, topics: str) -> None:
    """Blind, until there is no more or they have had enough; then the judge's errors can be counted."""
    config = settings.KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, topic_prefix=topics)
    audits = [
        Audit(
            ticket=a_ticket(f"Question {n}", ticket_id=TicketId(f"t{n}")),
            decision=a_decision(audited=True, propensity=0.5),
            draft=an_attempt(text=f"Draft {n}", reason="low_score"),
            other=an_attempt("tier2", text=f"Other {n}"),
            at=AT,
        )
        for n in range(3)
    ]
    await write(
        kafka.bootstrap_servers,
        f"{topics}audits",
        [*((a.ticket.ticket_id.encode(), encode(a)) for a in audits), (b"x", b"{}")],
    )
    typed = iter(["y it is right", "perhaps", "n"])
    console = Console(record=True, width=100)
    assert await judge_next(config, check=False, ask=lambda _: next(typed, None), console=console) == 1
    shown = console.export_text()
    assert "answer y (acceptable) or n" in shown
    assert "tier" not in shown
    book = await read_book(config)
    assert (len(book.audits), len(book.by_person), len(book.open(check=False)), book.unreadable) == (3, 2, 2, 1)
    assert len(book.open(check=True)) == 0
