"""One suite for every provider: the recording in both wire formats, and the real ones where a key is at hand.

The real calls cost well under a cent together, under a hard limit of five.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp.test_utils import TestServer

from schemas.tickets import Routed
from tests.records import a_decision, a_routed, a_ticket
from workers.errors import PermanentError
from workers.knowledge import load_knowledge
from workers.learning.company import load_company
from workers.tier2.client import HandoffError, Tier2, Tier2Config
from workers.tier2.prices import Prices
from workers.tier2.recorded_frontier import application
from workers.tier2.recording import Recordings
from workers.tier2.spend import SpendLimits
from workers.tier2.spend_desk import LocalSpend
from workers.tier2.targets import Target

BODY = "My bill is unpaid since its due date, ten days ago. Is there a fee?"
REFERENCE = "Yes: a bill that is still unpaid 7 days after its due date costs a late fee of $8."
MODELS = {"anthropic": "claude-haiku-5-5", "openai": "gpt-6-luna"}
ADDRESSES = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com"}


@pytest.fixture
def company(tmp_path: Path) -> Path:
    """A small company whose knowledge is long enough for a prompt cache."""
    passages = "".join(
        f'[[passage]]\nid = "plans.plan_{n}"\ntext = "Plan {n} costs ${20 + n} a month, runs for 12 months and '
        f'can be left with 30 days of notice. It comes with a router on loan and support on weekdays."\n'
        for n in range(60)
    )
    fee = '[[passage]]\nid = "billing.late_fee"\ntext = "A bill unpaid 7 days after its due date costs $8."\n'
    (tmp_path / "knowledge.toml").write_text(passages + fee)
    (tmp_path / "complex").mkdir()
    (tmp_path / "complex" / "all.toml").write_text(
        f'[[ticket]]\nid = "c01"\nsplit = "test"\ncategory = "billing"\nsubject = "Fee"\nbody = "{BODY}"\n'
        f'reference = "{REFERENCE}"\nstates = [{{ fact = "the fee", any = [\'8\'] }}]\nwrong = ["No."]\n'
    )
    return tmp_path


@pytest.fixture
async def recording(company: Path) -> AsyncIterator[str]:
    """The recorded frontier on a loopback port, answering at once."""
    recordings = Recordings(load_company(company).examples)
    server = TestServer(application(recordings, latency_scale=0.0, requests_per_minute=None))
    async with server:
        yield str(server.make_url("/"))


@dataclass(frozen=True)
class Suite:
    """A provider to run the suite against."""

    config: Tier2Config
    recorded: bool

    @property
    def asked(self) -> Target:
        return self.config.targets[0]

    def tier2(self, limit_usd: float = 0.05, **changes: Any) -> Tier2:
        """A client that can't cost more than that."""
        return Tier2(replace(self.config, **changes), LocalSpend(SpendLimits(month_usd=limit_usd)))


@pytest.fixture(params=["recorded-anthropic", "recorded-openai", "anthropic", "openai"])
def suite(request: pytest.FixtureRequest, company: Path) -> Suite:
    """Each provider; a real one without a key in the environment is skipped."""
    provider = request.param.removeprefix("recorded-")
    recorded = request.param != provider
    name = f"{provider.upper()}_API_KEY"
    key = "any-key-will-do" if recorded else os.environ.get(name, "")
    if not key:
        pytest.skip(f"{name} is not set: the real provider is not asked")
    base_url = request.getfixturevalue("recording") if recorded else ADDRESSES[provider]
    knowledge = "\n\n".join(p.text for p in load_knowledge(company / "knowledge.toml"))
    return Suite(_config(provider, base_url, key=key, knowledge=knowledge), recorded)


def routed(body: str = BODY) -> Routed:
    """A ticket on its way to tier-2."""
    return a_routed(a_ticket(body, subject="Fee"), decision=a_decision("tier2"))


async def test_a_ticket_becomes_a_draft(suite: Suite) -> None:
    """Text, finish, usage, cost and calls are all there."""
    ticket = routed()
    async with suite.tier2() as tier2:
        assert await tier2.ready()
        draft = await tier2.answer(ticket)
    assert draft.routed == ticket
    assert "8" in draft.text
    assert (draft.tier, draft.finish_reason, draft.calls) == ("tier2", "stop", 1)
    assert draft.provider == suite.asked.provider
    assert draft.usage.prompt_tokens > 1_024
    assert 0 < draft.usage.completion_tokens <= suite.config.max_tokens
    assert 0 < draft.cost_usd < 0.01
    assert draft.duration_s > 0
    if suite.recorded:
        assert (draft.text, draft.model) == (REFERENCE, suite.asked.model)


async def test_the_second_ticket_reads_the_system_prompt_from_the_cache(suite: Suite) -> None:
    """Cached tokens are part of the prompt's; a real provider may miss its cache, the recording never does."""
    async with suite.tier2() as tier2:
        first, second = [await tier2.answer(routed()) for _ in range(2)]
    for draft in (first, second):
        assert draft.usage.cached_tokens + draft.usage.cache_write_tokens <= draft.usage.prompt_tokens
    if suite.recorded:
        assert first.usage.cached_tokens == 0
        assert second.usage.cached_tokens > 1_024
        assert second.usage.prompt_tokens == first.usage.prompt_tokens
        assert second.cost_usd < first.cost_usd


async def test_an_answer_that_does_not_fit_says_so(suite: Suite) -> None:
    """The finish reason is length, in either format."""
    async with suite.tier2(max_tokens=5) as tier2:
        draft = await tier2.answer(routed())
    assert draft.finish_reason == "length"


async def test_an_unknown_model_is_rejected_for_good(suite: Suite) -> None:
    """A model of the other provider: known to the price table, not to this one."""
    other = MODELS["openai" if suite.asked.provider == "anthropic" else "anthropic"]
    async with suite.tier2(targets=(replace(suite.asked, model=other),)) as tier2:
        with pytest.raises(PermanentError) as rejected:
            await tier2.answer(routed())
    assert suite.asked.api_key not in rejected.value.reason
    assert BODY not in rejected.value.reason


async def test_a_call_past_the_spend_limit_is_not_made(suite: Suite) -> None:
    """The limit is hard: not even one call goes out."""
    async with suite.tier2(limit_usd=0.000001) as tier2:
        with pytest.raises(HandoffError, match="spend limit"):
            await tier2.answer(routed())
    if suite.recorded:
        assert (await _get(suite.asked.base_url, "ledger")).json()["calls"] == 0


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
async def test_a_ticket_without_a_recording_is_rejected(provider: Any, recording: str, company: Path) -> None:
    """A person gets it: the recording makes nothing up."""
    async with _tier2(_config(provider, recording)) as tier2:
        with pytest.raises(PermanentError, match=r"HTTP 400 .*no recording for this ticket"):
            await tier2.answer(routed(body="What is the weather?"))


async def test_the_recordings_ledger_agrees_with_the_drafts(recording: str, company: Path) -> None:
    """Calls, answers and cost, computed from the same price table."""
    drafts = []
    for provider in ("anthropic", "openai"):
        async with _tier2(_config(provider, recording)) as tier2:
            drafts += [await tier2.answer(routed()) for _ in range(2)]
            with pytest.raises(PermanentError):
                await tier2.answer(routed(body="Unknown"))
    ledger = (await _get(recording, "ledger")).json()
    cost_micro_usd = round(sum(d.cost_usd for d in drafts) * 1e6)
    assert (ledger["calls"], ledger["answered"], ledger["cost_micro_usd"]) == (6, 4, cost_micro_usd)


ANTHROPIC_HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
GOOD = {"model": "claude-haiku-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": BODY}]}


@pytest.mark.parametrize(
    ("headers", "body", "status", "kind", "message"),
    [
        ({}, GOOD, 401, "authentication_error", "x-api-key"),
        ({"x-api-key": "k"}, GOOD, 400, "invalid_request_error", "anthropic-version"),
        (ANTHROPIC_HEADERS, GOOD | {"max_tokens": 0}, 400, "invalid_request_error", "max_tokens"),
        (ANTHROPIC_HEADERS, {"model": "claude-haiku-5-5"}, 400, "invalid_request_error", "messages"),
        (ANTHROPIC_HEADERS, GOOD | {"stream": True}, 400, "invalid_request_error", "stream"),
        (ANTHROPIC_HEADERS, GOOD | {"model": "claude-2"}, 404, "not_found_error", "claude-2"),
    ],
)
async def test_anthropics_errors_have_anthropics_shape(
    recording: str, headers: dict[str, str], body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    """Type, message and request id, in the body and in the headers."""
    response = await _post(recording, "v1/messages", headers, body)
    assert response.status_code == status
    error = response.json()
    assert error["type"] == "error"
    assert error["error"]["type"] == kind
    assert message in error["error"]["message"]
    assert error["request_id"] == response.headers["request-id"]
    assert response.headers["anthropic-ratelimit-requests-limit"] == "100000"
    assert response.headers["x-headgate-recording"] == "true"


@pytest.mark.parametrize(
    ("headers", "body", "status", "code", "message"),
    [
        ({}, GOOD, 401, "invalid_api_key", "API key"),
        ({"authorization": "Bearer"}, GOOD, 401, "invalid_api_key", "API key"),
        ({"authorization": "Bearer k"}, GOOD | {"messages": []}, 400, None, "messages"),
        ({"authorization": "Bearer k"}, GOOD, 404, "model_not_found", "claude-haiku-5-5"),
    ],
)
async def test_openais_errors_have_openais_shape(
    recording: str, headers: dict[str, str], body: dict[str, Any], status: int, code: str | None, message: str
) -> None:
    """Message, type, param and code, and a request id in the headers."""
    response = await _post(recording, "v1/chat/completions", headers, body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert message in error["message"]
    assert response.headers["x-request-id"]
    assert response.headers["x-ratelimit-limit-requests"] == "100000"
    assert response.headers["x-headgate-recording"] == "true"


@pytest.mark.parametrize("path", ["health", "ledger", "nowhere"])
async def test_every_response_says_that_it_is_a_recording(recording: str, path: str) -> None:
    """Even a page that isn't there."""
    assert (await _get(recording, path)).headers["x-headgate-recording"] == "true"


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
async def test_the_rate_limit_turns_calls_away_with_a_wait(provider: Any, company: Path) -> None:
    """429 with retry-after, which the client honours: it isn't waited for past the deadline."""
    recordings = Recordings(load_company(company).examples)
    async with TestServer(application(recordings, latency_scale=0.0, requests_per_minute=1)) as server:
        base_url = str(server.make_url("/"))
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01", "authorization": "Bearer k"}
        path = "v1/messages" if provider == "anthropic" else "v1/chat/completions"
        body = {"model": MODELS[provider], "max_tokens": 9, "messages": [{"role": "user", "content": BODY}]}
        assert (await _post(base_url, path, headers, body)).status_code == 200
        turned_away = await _post(base_url, path, headers, body)
        assert (turned_away.status_code, turned_away.headers["retry-after"]) == (429, "60")
        async with _tier2(replace(_config(provider, base_url), deadline_s=30.0)) as tier2:
            with pytest.raises(HandoffError, match="1 calls, the last: HTTP 429 rate_limit"):
                await tier2.answer(routed())


@pytest.fixture
def command(company: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server as people start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--port", str(port), "--company", str(company), "--latency-scale", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.tier2.recorded_frontier", *arguments], stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process, port
        process.kill()


async def test_the_command_says_what_it_is_and_stops_on_sigterm(command: tuple[subprocess.Popen[str], int]) -> None:
    """Its first line comes once it listens, and it ends with status 0."""
    process, port = command
    assert process.stdout
    line = process.stdout.readline()
    assert f"RECORDING on 127.0.0.1:{port}: replays 1 answers written by the project's authors" in line
    assert (await _get(f"http://127.0.0.1:{port}", "health")).json()["recorded_answers"] == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def _config(
    provider: Any, base_url: str, key: str = "any-key-will-do", knowledge: str = "A late fee is $8."
) -> Tier2Config:
    asked = Target("primary", provider, base_url, MODELS[provider], key)
    return Tier2Config(targets=(asked,), company="Fernway", knowledge=knowledge, prices=Prices.load(None))


def _tier2(config: Tier2Config) -> Tier2:
    return Tier2(config, LocalSpend(SpendLimits()))


async def _get(base_url: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=base_url, trust_env=False) as http:
        return await http.get(path)


async def _post(base_url: str, path: str, headers: dict[str, str], body: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=base_url, trust_env=False) as http:
        return await http.post(path, headers=headers, json=body)
