"""Tier-2's client against a provider that misbehaves, over loopback."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.tickets import Attempt, Decision, Routed, RouteReason, Ticket, TicketId
from workers.errors import PermanentError
from workers.tier2.client import Tier2, Tier2Config, UnavailableError
from workers.tier2.spend import Ledger, SpendLimitError

KEY = "sk-test-0123456789abcdef"
BODY = "Please tell me, Ann Field, why my bill is $54."
COST_MICRO_USD = 300
"""100 tokens in at $2, 10 out at $10 per million."""

Step = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(text: str | None = "It is the setup fee.", stop_reason: str = "end_turn") -> Step:
    """An answer in Anthropic's shape; None leaves the content empty."""
    body = {
        "model": "claude-sonnet-5-5-20260901",
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "usage": {"input_tokens": 100, "output_tokens": 10},
    }

    async def step(_: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    return step


def error(status: int, kind: str = "api_error", message: str = "Sorry.", **headers: str) -> Step:
    """An error in Anthropic's shape."""

    async def step(_: web.Request) -> web.StreamResponse:
        body = {"type": "error", "error": {"type": kind, "message": message}}
        return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return step


async def half_body(request: web.Request) -> web.StreamResponse:
    """Promises 1,000 bytes, sends a few and hangs up."""
    response = web.StreamResponse(headers={"content-length": "1000"})
    await response.prepare(request)
    await response.write(b'{"model": "clau')
    assert request.transport
    request.transport.close()
    return response


async def wrong_json(_: web.Request) -> web.StreamResponse:
    """A 200 that is no answer."""
    return web.json_response({"hello": "world"})


async def hang(_: web.Request) -> web.StreamResponse:
    """Never answers; ends when the client hangs up."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@dataclass
class Provider:
    """A scripted provider: one step a call."""

    base_url: str = ""
    steps: list[Step] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.text())
        self.called.set()
        return await self.steps.pop(0)(request)


@dataclass
class Time:
    """A clock that only the client's own waits move."""

    now_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds

    def clock(self) -> float:
        return self.now_s


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """The scripted provider on a loopback port."""
    scripted = Provider()
    app = web.Application()
    app.router.add_post("/v1/messages", scripted.handle)
    async with TestServer(app) as server:
        scripted.base_url = str(server.make_url("/"))
        yield scripted
        assert not scripted.steps, "the client made fewer calls than scripted"


@pytest.fixture
def config(provider: Provider, tmp_path: Path) -> Tier2Config:
    """A client of the scripted provider, with a ledger on disk."""
    return Tier2Config(
        provider="anthropic",
        base_url=provider.base_url + "v1",
        model="claude-sonnet-5-5",
        company="Fernway",
        knowledge="[billing.setup_fee] A setup fee of $15 comes with the first bill.",
        api_key=KEY,
        attempts=3,
        spend_file=tmp_path / "spend",
    )


def routed(attempts: tuple[Attempt, ...] = ()) -> Routed:
    """A ticket on its way to tier-2."""
    decision = Decision(
        tier="tier2",
        reason=RouteReason.UNCERTAIN,
        p_ok=0.1,
        category="billing",
        p_category=0.9,
        threshold=0.5,
        propensity=1.0,
        policy_version="1",
        cost_usd=0.0,
    )
    ticket = Ticket(ticket_id=TicketId("t-1"), body=BODY)
    return Routed(ticket=ticket, decision=decision, received_at=datetime(2026, 5, 4, tzinfo=UTC), attempts=attempts)


def client(config: Tier2Config, time: Time) -> Tier2:
    """The client on the test's own clock."""
    return Tier2(config, sleep=time.sleep, clock=time.clock, rng=random.Random(1))


def spent_micro_usd(config: Tier2Config) -> int:
    """What a restarted process would find in the ledger."""
    with Ledger(config.spend_file, None) as ledger:
        return ledger.committed_micro_usd


@pytest.mark.parametrize("fault", [error(429), error(529, "overloaded_error"), error(503)])
async def test_a_call_turned_away_is_made_again_and_costs_nothing(
    provider: Provider, config: Tier2Config, fault: Step
) -> None:
    """The draft counts both calls; the ledger holds only the answer's cost."""
    provider.steps += [fault, answer()]
    time = Time()
    async with client(config, time) as tier2:
        draft = await tier2.answer(routed())
    assert (draft.text, draft.calls, draft.model) == ("It is the setup fee.", 2, "claude-sonnet-5-5-20260901")
    assert draft.cost_usd == COST_MICRO_USD / 1e6
    assert draft.duration_s == time.waits_s[0]
    assert 0.25 <= time.waits_s[0] <= 0.5
    assert spent_micro_usd(config) == COST_MICRO_USD


@pytest.mark.parametrize("fault", [error(500), half_body, wrong_json])
async def test_a_broken_call_is_made_again_and_may_have_cost_its_worst_case(
    provider: Provider, config: Tier2Config, fault: Step
) -> None:
    """The provider may have charged for what never arrived whole."""
    provider.steps += [fault, answer()]
    async with client(config, Time()) as tier2:
        draft = await tier2.answer(routed())
    assert (draft.text, draft.calls) == ("It is the setup fee.", 2)
    assert draft.cost_usd == COST_MICRO_USD / 1e6
    # 500 tokens of answer at $10 and a prompt of some hundreds at $2.50.
    assert spent_micro_usd(config) > COST_MICRO_USD + 5_000


async def test_the_providers_wait_is_honoured(provider: Provider, config: Tier2Config) -> None:
    """Retry-After is longer than the back-off, so it counts."""
    provider.steps += [error(429, "rate_limit_error", retry_after="7"), answer()]
    time = Time()
    async with client(config, time) as tier2:
        await tier2.answer(routed())
    assert time.waits_s == [7.0]


async def test_a_wait_past_the_deadline_is_not_waited(provider: Provider, config: Tier2Config) -> None:
    """The ticket goes to a person now, not in ten minutes."""
    provider.steps += [error(429, "rate_limit_error", retry_after="600")]
    time = Time()
    async with client(config, time) as tier2:
        with pytest.raises(UnavailableError, match="1 calls, the last: HTTP 429 rate_limit_error"):
            await tier2.answer(routed())
    assert time.waits_s == []


async def test_the_attempts_are_bounded(provider: Provider, config: Tier2Config) -> None:
    """Three calls, two growing waits, then it is given up."""
    provider.steps += [error(529, "overloaded_error")] * 3
    time = Time()
    async with client(config, time) as tier2:
        with pytest.raises(UnavailableError, match="tier-2 unavailable, 3 calls, the last: HTTP 529 overloaded_error"):
            await tier2.answer(routed())
    assert len(time.waits_s) == 2
    assert time.waits_s[1] >= 0.5
    assert spent_micro_usd(config) == 0


async def test_a_silent_provider_is_left_after_the_timeout(provider: Provider, config: Tier2Config) -> None:
    """One call's timeout, then another call."""
    provider.steps += [hang, answer()]
    async with client(replace(config, timeout_s=0.2), Time()) as tier2:
        assert (await tier2.answer(routed())).calls == 2


async def test_a_call_gets_no_more_time_than_the_deadline_leaves(provider: Provider, config: Tier2Config) -> None:
    """However long the timeout of one call."""
    provider.steps += [hang]
    async with client(replace(config, timeout_s=60.0, deadline_s=0.2), Time()) as tier2:
        with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
            await tier2.answer(routed())


async def test_a_cancelled_call_counts_at_its_worst_case(provider: Provider, config: Tier2Config) -> None:
    """When partitions move, the call is dropped here and perhaps finished, and charged, there."""
    provider.steps += [hang]
    async with client(config, Time()) as tier2:
        task = asyncio.create_task(tier2.answer(routed()))
        async with asyncio.timeout(10):
            await provider.called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert spent_micro_usd(config) > 5_000


async def test_a_refusal_is_a_draft(provider: Provider, config: Tier2Config) -> None:
    """The checker refuses it, with a reason of its own; asking again would cost again."""
    provider.steps += [answer("I can't help with that.", stop_reason="refusal")]
    async with client(config, Time()) as tier2:
        draft = await tier2.answer(routed())
    assert (draft.finish_reason, draft.calls) == ("refusal", 1)


async def test_empty_content_is_an_empty_draft(provider: Provider, config: Tier2Config) -> None:
    """It was paid for, and the checker refuses it."""
    provider.steps += [answer(None)]
    async with client(config, Time()) as tier2:
        draft = await tier2.answer(routed())
    assert (draft.text, draft.finish_reason, draft.cost_usd) == ("", "stop", COST_MICRO_USD / 1e6)


async def test_a_rejected_request_is_not_made_again(provider: Provider, config: Tier2Config) -> None:
    """The provider's words are kept."""
    provider.steps += [error(400, "invalid_request_error", "prompt is too long")]
    async with client(config, Time()) as tier2:
        with pytest.raises(PermanentError, match="HTTP 400 invalid_request_error: prompt is too long"):
            await tier2.answer(routed())
    assert spent_micro_usd(config) == 0


async def test_neither_key_nor_ticket_shows_in_errors_and_logs(
    provider: Provider, config: Tier2Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if the provider quotes both."""
    provider.steps += [error(500, message=BODY), error(400, message=f"{KEY} said: {BODY}")]
    async with client(config, Time()) as tier2:
        with pytest.raises(PermanentError) as rejected:
            await tier2.answer(routed())
    shown = capsys.readouterr()
    everything = repr(rejected.value) + repr(config) + shown.out + shown.err
    assert "tier2_call_failed" in everything
    assert KEY not in everything
    assert "Ann Field" not in everything


async def test_a_refused_draft_is_not_shown_to_the_provider(provider: Provider, config: Tier2Config) -> None:
    """An escalated ticket is asked like any other."""
    provider.steps += [answer(), answer()]
    refused = Attempt(tier="tier1", text="It is free.", reason="low_score", score=0.1, cost_usd=0.0, duration_s=1.0)
    async with client(config, Time()) as tier2:
        await tier2.answer(routed())
        await tier2.answer(routed(attempts=(refused,)))
    assert provider.bodies[0] == provider.bodies[1]


async def test_the_spend_limit_stops_retries_too(provider: Provider, config: Tier2Config) -> None:
    """A broken call's worst case counts, so the next one doesn't fit any more."""
    provider.steps += [wrong_json]
    async with client(replace(config, spend_limit_usd=0.01), Time()) as tier2:
        with pytest.raises(SpendLimitError):
            await tier2.answer(routed())


async def test_calls_wait_for_room_under_the_spend_limit(provider: Provider, config: Tier2Config) -> None:
    """The limit holds one worst case at a time, and all five real costs: nobody is turned away."""
    provider.steps += [answer()] * 5
    async with client(replace(config, spend_limit_usd=0.012), Time()) as tier2:
        async with asyncio.timeout(10):
            drafts = await asyncio.gather(*(tier2.answer(routed()) for _ in range(5)))
    assert [d.calls for d in drafts] == [1] * 5
    assert spent_micro_usd(config) == 5 * COST_MICRO_USD


async def test_a_provider_that_is_not_there_costs_nothing(config: Tier2Config) -> None:
    """No connection, no charge; and it isn't ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = replace(config, base_url=f"http://127.0.0.1:{free.getsockname()[1]}")
        async with client(nowhere, Time()) as tier2:
            assert not await tier2.ready()
            with pytest.raises(UnavailableError, match="3 calls, the last: no connection"):
                await tier2.answer(routed())
    assert spent_micro_usd(config) == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "gpt-9"}, "gpt-9"),
        ({"base_url": "api.anthropic.com"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"api_key": " "}, "api_key"),
        ({"api_key": "sk-test\n"}, "api_key"),
        ({"api_key": "sk-test "}, "api_key"),
    ],
)
async def test_a_wrong_setting_fails_at_start(config: Tier2Config, changes: dict[str, Any], named: str) -> None:
    """The value is named, a key never shown."""
    with pytest.raises(ValueError, match=named) as wrong:
        replace(config, **changes)
    assert "sk-test" not in str(wrong.value)
