"""The recorded frontier over loopback: limits, headers, faults and books, seen by a plain HTTP client."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.frontier_faults import (
    FAULTS,
    NO_SUCH_HOST,
    Drawn,
    Script,
    frontier,
    ledger,
    names_of,
    rate_limited,
    recordings,
    refusal,
    self_signed_server,
    wrong_json,
)
from tests.kafka import until
from workers.tier2.enforced_limits import WindowState
from workers.tier2.provider_side import duration, headers
from workers.tier2.recorded_frontier import Spoiled
from workers.tier2.wire import Provider

BODY = "Why is my bill $54?"
ANSWER = "Because of the $15 setup fee, which comes with the first bill only."
MODELS: dict[Provider, str] = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-sol"}
PATHS: dict[Provider, str] = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
KEYS: dict[Provider, dict[str, str]] = {
    "anthropic": {"x-api-key": "k", "anthropic-version": "2023-06-01"},
    "openai": {"authorization": "Bearer k"},
}
COST_MICRO_USD = 5 * 2 + 17 * 10
"""19 characters in, 67 out, four to a token, at $2 and $10 per million."""
BOTH = pytest.mark.parametrize("provider", ["anthropic", "openai"])
EVERY_FAULT = pytest.mark.parametrize(
    ("provider", "name"), [(p, name) for p in ("anthropic", "openai") for name in names_of(p)]
)
NOTHING = {"calls": 0, "cost_micro_usd": 0}
ONE_ANSWER = {"calls": 1, "cost_micro_usd": COST_MICRO_USD}


class Client:
    """Asks the frontier the one question it has an answer to."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def ask(self, provider: Provider, timeout_s: float = 10.0) -> httpx.Response:
        body = {"model": MODELS[provider], "max_tokens": 100, "messages": [{"role": "user", "content": BODY}]}
        return await self.http.post(PATHS[provider], json=body, headers=KEYS[provider], timeout=timeout_s)

    async def limit(self, **limits: int | None) -> httpx.Response:
        return await self.http.put("/limits", json=limits)

    async def books(self) -> dict[str, Any]:
        return await ledger(str(self.http.base_url))


@asynccontextmanager
async def asking(**settings: Any) -> AsyncIterator[tuple[Client, Script]]:
    """A frontier that goes by a script, and its client."""
    script = Script()
    async with (
        frontier(recordings({BODY: ANSWER}), script, **settings) as base_url,
        httpx.AsyncClient(base_url=base_url, trust_env=False) as http,
    ):
        yield Client(http), script


@BOTH
async def test_requests_past_the_limit_are_turned_away(provider: Provider) -> None:
    """They cost nothing, say when to come again, and the ledger counts them."""
    async with asking(requests_per_minute=12, burst_s=10.0) as (client, _):
        responses = [await client.ask(provider) for _ in range(3)]
        books = await client.books()
    assert [r.status_code for r in responses] == [200, 200, 429]
    assert responses[2].headers["retry-after"] == "5"
    assert "12 requests per minute" in responses[2].json()["error"]["message"]
    assert (books["calls"], books["answered"], books["rate_limited"]) == (3, 2, 1)
    assert books["cost_micro_usd"] == 2 * COST_MICRO_USD


async def test_openai_turns_away_for_the_longest_answer_that_is_asked_for() -> None:
    """105 tokens are asked for and 22 used: a second call fits into 126, and not into 125."""
    for tokens, status in ((127, 200), (125, 429)):
        async with asking(tokens_per_minute=tokens, burst_s=60.0) as (client, _):
            responses = [await client.ask("openai") for _ in range(2)]
        assert [r.status_code for r in responses] == [200, status]
    assert "125 tokens per minute" in responses[1].json()["error"]["message"]
    assert responses[1].headers["x-ratelimit-remaining-tokens"] == "103"


async def test_anthropic_turns_away_when_the_output_is_used_up() -> None:
    """Whatever max_tokens is: the first answer took the 17 tokens of the minute."""
    async with asking(output_tokens_per_minute=17, burst_s=60.0) as (client, _):
        responses = [await client.ask("anthropic") for _ in range(2)]
    assert [r.status_code for r in responses] == [200, 429]
    assert "17 output-tokens per minute" in responses[1].json()["error"]["message"]


async def test_each_provider_has_limits_of_its_own() -> None:
    """One that is used up leaves the other alone."""
    async with asking(requests_per_minute=1) as (client, _):
        statuses = [(await client.ask(p)).status_code for p in ("openai", "anthropic", "openai")]
    assert statuses == [200, 200, 429]


async def test_limits_change_while_it_runs() -> None:
    """What makes no sense changes nothing."""
    async with asking(requests_per_minute=1) as (client, _):
        assert (await client.ask("openai")).status_code == 200
        assert (await client.ask("openai")).status_code == 429
        assert (await client.limit(requests_per_minute=0)).status_code == 400
        changed = await client.limit(requests_per_minute=60_000, tokens_per_minute=1_000_000)
        assert changed.json()["requests_per_minute"] == 60_000
        responses: list[httpx.Response] = []

        async def answered() -> bool:
            responses.append(await client.ask("openai"))
            return responses[-1].status_code == 200

        await until(answered, limit_s=5.0)
    response = responses[-1]
    assert response.headers["x-ratelimit-limit-requests"] == "60000"
    assert response.headers["x-ratelimit-limit-tokens"] == "1000000"


def test_openais_headers_tell_every_window() -> None:
    """Limit, what remains, and how long until all of it is there again."""
    windows: dict[Any, WindowState] = {
        "requests": WindowState(60, 59, 1.0),
        "tokens": WindowState(1_000, 0, 66.5),
    }
    assert headers("openai", "req_1", windows, datetime(2026, 11, 25, tzinfo=UTC)) == {
        "x-request-id": "req_1",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m6.5s",
    }


def test_anthropics_headers_tell_every_window() -> None:
    """Resets are moments, rounded up to a second; the fourth window is input and output together."""
    windows: dict[Any, WindowState] = {
        "requests": WindowState(60, 59, 1.0),
        "input-tokens": WindowState(1_000, 900, 6.2),
        "output-tokens": WindowState(200, 0, 60.0),
    }
    told = headers("anthropic", "req_1", windows, datetime(2026, 11, 25, 12, 0, 0, 300_000, tzinfo=UTC))
    assert told == {
        "request-id": "req_1",
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-11-25T12:00:02Z",
        "anthropic-ratelimit-input-tokens-limit": "1000",
        "anthropic-ratelimit-input-tokens-remaining": "900",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-25T12:00:07Z",
        "anthropic-ratelimit-output-tokens-limit": "200",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-25T12:01:01Z",
        "anthropic-ratelimit-tokens-limit": "1200",
        "anthropic-ratelimit-tokens-remaining": "900",
        "anthropic-ratelimit-tokens-reset": "2026-11-25T12:01:01Z",
    }


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (360.0, "6m0s"),
        (252.172, "4m12.172s"),
        (84_509.144, "23h28m29.144s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    """Hours, minutes and seconds, or milliseconds below one."""
    assert duration(seconds) == written


@EVERY_FAULT
async def test_the_ledger_says_what_a_fault_has_cost(provider: Provider, name: str) -> None:
    """Nothing where the call is turned away; else the whole answer, broken unless all of the response arrived."""
    async with asking() as (client, script):
        fault = FAULTS[name](provider)
        script.steps[provider] += [FAULTS[name], None]
        if name in ("hang", "slow_drip"):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.ask(provider), 0.3)
        elif name == "half_body":
            with pytest.raises(httpx.RemoteProtocolError):
                await client.ask(provider)
        else:
            assert ((await client.ask(provider)).status_code == 200) == isinstance(fault.outcome, Spoiled)
        if isinstance(fault.outcome, Spoiled):
            # A caller who hung up may be noticed a moment later.
            await until(lambda: _charged(client, 1))
        spoilt = await client.books()
        assert (await client.ask(provider)).status_code == 200
        answered = await client.books()
    assert script.left == 0
    assert spoilt["faults"] == {name: 1}
    assert answered["used"]["requests"] == answered["charged"]
    if not isinstance(fault.outcome, Spoiled):
        delivered, broken = NOTHING, NOTHING
    elif fault.outcome.delivered:
        delivered, broken = ONE_ANSWER, NOTHING
    else:
        delivered, broken = NOTHING, ONE_ANSWER
    assert (spoilt["delivered"], spoilt["broken"]) == (delivered, broken)
    assert answered["delivered"]["calls"] == delivered["calls"] + 1
    assert answered["charged"] == answered["delivered"]["calls"] + answered["broken"]["calls"]
    assert list(answered["by_model"]) == [MODELS[provider]]


async def _charged(client: Client, calls: int) -> bool:
    return int((await client.books())["charged"]) == calls


@BOTH
@pytest.mark.parametrize(
    ("name", "status"),
    [("rate_limited", 429), ("overloaded", 0), ("error_500", 500), ("unknown_model", 404)],
)
async def test_a_call_is_turned_away_in_the_providers_words(provider: Provider, name: str, status: int) -> None:
    """Status and shape are the provider's own."""
    async with asking() as (client, script):
        script.steps[provider].append(FAULTS[name])
        response = await client.ask(provider)
    assert response.status_code == (status or {"anthropic": 529, "openai": 503}[provider])
    assert ("request_id" in response.json()) == (provider == "anthropic")
    assert response.json()["error"]["message"]
    assert response.headers.get("retry-after") == ("1" if name == "rate_limited" else None)


async def test_a_caller_who_hangs_up_is_charged() -> None:
    """The work is done by then; nobody has read the answer, so it counts as broken."""
    async with asking(latency_scale=0.1) as (client, _):
        with pytest.raises(httpx.ReadTimeout):
            await client.ask("openai", timeout_s=0.01)
        await until(lambda: _charged(client, 1))
        books = await client.books()
    assert (books["delivered"], books["broken"]) == (NOTHING, ONE_ANSWER)


@BOTH
async def test_a_refusal_is_in_the_providers_words(provider: Provider) -> None:
    """Anthropic ends the answer so, OpenAI puts the refusal into a field of its own."""
    async with asking() as (client, script):
        script.steps[provider].append(refusal)
        answer = (await client.ask(provider)).json()
    if provider == "anthropic":
        assert (answer["stop_reason"], answer["content"]) == ("refusal", [])
    else:
        assert answer["choices"][0]["message"]["refusal"]


def test_faults_are_drawn_at_their_share() -> None:
    """Bursts included; the same seed draws the same faults."""

    def draw() -> list[str]:
        drawn = Drawn(0.1, {rate_limited: 1.0, wrong_json: 3.0}, random.Random(7))
        return [fault.name if (fault := drawn("openai")) else "" for _ in range(20_000)]

    names = draw()
    assert names == draw()
    assert 0.09 < sum(map(bool, names)) / len(names) < 0.11
    assert 0.8 < names.count("rate_limited") / names.count("wrong_json") < 1.2


async def test_the_untrusted_server_is_not_trusted() -> None:
    """It does speak TLS: only its certificate is wrong."""
    async with self_signed_server() as base_url:
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.ConnectError, match="self-signed certificate"):
                await http.get(base_url)
        async with httpx.AsyncClient(trust_env=False, verify=_anyone()) as http:
            assert (await http.get(base_url)).status_code == 200


def _anyone() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_the_name_of_nobody_does_not_resolve() -> None:
    """So a call to it never leaves."""
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(NO_SUCH_HOST)
