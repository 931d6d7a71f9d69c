"""No stage tells a customer's words, an answer or a key to logs, metrics or events, whether it succeeds or fails."""

import logging
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiokafka.structs import ConsumerRecord
from prometheus_client import generate_latest
from pydantic import SecretStr

from schemas.topics import EVENTS
from streams import checker, router, settings, tier1, tier2
from streams.policies import Given, load_policy
from streams.runtime.attempt import after, handled
from streams.runtime.canonical_log import report
from streams.runtime.messages import Settled, finished
from streams.runtime.stage import DeadLetter, Origin, Record, Stage
from streams.settings import Settings
from tests.fakes import FakeChatServer
from tests.records import a_draft, a_routed, a_ticket
from workers.retry import Retry
from workers.tier2.spend import SpendLimits
from workers.tier2.spend_desk import LocalSpend

FERNWAY = Path(__file__).parents[2] / "examples" / "fernway"
CANARY = "canary4711"
KEY = "sk-canary4711"
TICKET = a_ticket(
    f"My bird named {CANARY} sings in the small hours, why?",
    subject=f"About {CANARY}",
    context=(f"Owns a {CANARY}",),
    customer_id=CANARY,
    metadata={"note": CANARY},
)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Settings:
    if not (FERNWAY / "router" / "model.onnx").is_file():
        pytest.skip("the router's model is not built: make learn")
    monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
    return settings.load()


async def told(stage: Stage[Any], value: Any, caplog: pytest.LogCaptureFixture) -> tuple[str, list[str]]:
    """All that the stage tells about a record, and the topics that it sends to."""
    record = Record(value, Origin("t", 0, 1), 0.0)
    source = ConsumerRecord("t", 0, 1, 0, 0, b"t1", b"{}", None, 0, 0, ())
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as logs:
        (result,) = await handled(stage, [record])
        if isinstance(result, Exception):
            # At the last of its attempts, so that it is given up.
            step = after(stage, record, result, stage.retry.attempts, 0.0, random.Random(0))
            assert not isinstance(step, Retry)
            result = step
        settled, messages = finished(stage.name, stage.topic, Settled(record.origin, result, 1), source, 0.0)
        report(stage.name, [settled])
    assert logs
    events = [m.value for m in messages if m.topic is EVENTS]
    headers = [m.headers for m in messages]
    public = f"{logs} {caplog.text} {generate_latest()!r} {events} {headers}"
    return public.lower(), ["dead" if isinstance(settled.result, DeadLetter) else m.topic.name for m in messages]


async def test_router_and_checker_tell_nothing(configured: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Models in this process: their stages on a ticket and on drafts of both tiers."""
    policies = Given(load_policy(configured.policy))
    async with router.stage_under(policies, configured.router) as routing:
        public, topics = await told(routing, TICKET, caplog)
    assert topics[0] in ("tier1", "tier2")
    assert CANARY not in public
    checking = checker.stage_under(policies, configured)
    for tier in ("tier1", "tier2"):
        draft = a_draft(f"Your {CANARY} is fine.", a_routed(TICKET), tier=tier)
        public, topics = await told(checking, draft, caplog)
        assert topics[0] in ("tier2", "answers")
        assert CANARY not in public


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("tier", ["tier1", "tier2"])
async def test_the_tiers_tell_nothing(
    configured: Settings, caplog: pytest.LogCaptureFixture, tier: str, status: int
) -> None:
    """Servers answer, reject and are busy, and all the while quote the ticket."""
    server = FakeChatServer(f"About this: {TICKET.body}")
    server.status, server.context_words = status, 100_000
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(server.serving())
        key = {"base_url": url, "api_key": SecretStr(KEY)}
        openai = {"provider": "openai", "model": "gpt-6-luna", "deadline_s": 0.5}
        sections = {
            "tier1": configured.tier1.model_copy(update=key),
            "tier2": configured.tier2.model_copy(update=key | openai),
        }
        told_so = configured.model_copy(update=sections)
        built = tier1.stage(told_so) if tier == "tier1" else tier2.stage_on(LocalSpend(SpendLimits()), told_so)
        stage = await stack.enter_async_context(built)
        public, topics = await told(stage, a_routed(TICKET), caplog)
    assert CANARY in str(server.bodies)
    assert topics[0] == ("drafts" if status == 200 else {"tier1": "tier2", "tier2": "handoffs"}[tier])
    assert CANARY not in public


async def test_a_bug_tells_nothing(configured: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody foresaw has the customer's words in its text more often than not."""

    async def handler(records: Any) -> Any:
        raise ValueError(f"cannot handle {records[0].value.body}")

    broken = Stage("router", EVENTS, type(TICKET), handler)
    public, topics = await told(broken, TICKET, caplog)
    assert topics[0] == "dead"
    assert CANARY not in public
