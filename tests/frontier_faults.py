"""What can go wrong with a provider, as values for the recorded frontier: in both wire formats, by script or by chance.

What each fault costs is on the frontier's ledger. Calls that are turned away
(429, 404, 500, 503, 529) cost nothing. A call whose answer never arrives whole
is charged, `broken`: the caller can't know it. What arrives whole is charged,
`delivered`, even if it's no use. Two faults are addresses: a name that doesn't
resolve (NO_SUCH_HOST), and a server with a certificate that nobody trusts.
"""

import asyncio
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web
from aiohttp.test_utils import TestServer

from workers.learning.company import Example
from workers.learning.rubric import Rubric
from workers.tier2 import provider_side
from workers.tier2.provider_side import RefusedError, Reply
from workers.tier2.recorded_frontier import Fault, Faults, Spoiled, application, send_json
from workers.tier2.recording import Recordings
from workers.tier2.wire import Provider

MakeFault = Callable[[Provider], Fault]

NO_SUCH_HOST = "http://frontier.invalid"
"""RFC 6761: no name under .invalid ever resolves."""

DRIP_S = 0.05
"""Between two bytes of a slow drip, and between two looks at whether the caller has hung up."""

DATA = Path(__file__).parent / "data"


def rate_limited(_: Provider, retry_after_s: float = 1.0) -> Fault:
    """429, though the limits aren't reached. Real ones come in bursts: put several in a row."""
    error = RefusedError("rate_limit_error", "Slow down.", code="rate_limit_exceeded", retry_after_s=retry_after_s)
    return Fault("rate_limited", error)


def overloaded(provider: Provider) -> Fault:
    """529 at Anthropic, 503 at OpenAI."""
    kind = "overloaded_error" if provider == "anthropic" else "service_unavailable"
    return Fault("overloaded", RefusedError(kind, "Overloaded."))


def error_500(_: Provider) -> Fault:
    """It broke before any work; the caller can't know that."""
    return Fault("error_500", RefusedError("api_error", "Internal server error."))


def unknown_model(_: Provider) -> Fault:
    """404."""
    return Fault("unknown_model", RefusedError("not_found_error", "model: unknown", code="model_not_found"))


def hang(_: Provider) -> Fault:
    """Not a byte, until the caller hangs up."""
    return Fault("hang", Spoiled(False, _hang))


def slow_drip(_: Provider) -> Fault:
    """A byte every 50 ms, for an hour and a half: no limit on the time between two bytes ever ends it."""
    return Fault("slow_drip", Spoiled(False, _drip))


def half_body(_: Provider) -> Fault:
    """Promises 1,000 bytes, sends a few and hangs up."""
    return Fault("half_body", Spoiled(False, _half_body))


def wrong_json(_: Provider) -> Fault:
    """A 200 that is no answer."""
    return Fault("wrong_json", Spoiled(False, _wrong_json))


def refusal(_: Provider) -> Fault:
    """The model declines."""
    return Fault("refusal", Spoiled(True, _refusal))


def content_filter(_: Provider) -> Fault:
    """OpenAI's filter has cut the answer; Anthropic has no such end."""
    return Fault("content_filter", Spoiled(True, _content_filter))


def empty_content(_: Provider) -> Fault:
    """An answer without a word."""
    return Fault("empty_content", Spoiled(True, _empty))


def wrong_model(_: Provider) -> Fault:
    """Another model answers, at the asked one's price."""
    return Fault("wrong_model", Spoiled(True, _wrong_model))


FAULTS: Mapping[str, MakeFault] = {
    make.__name__: make
    for make in (
        rate_limited,
        overloaded,
        error_500,
        unknown_model,
        hang,
        slow_drip,
        half_body,
        wrong_json,
        refusal,
        content_filter,
        empty_content,
        wrong_model,
    )
}


def names_of(provider: Provider) -> list[str]:
    """The names of the faults that the provider has."""
    return [name for name in FAULTS if provider == "openai" or name != "content_filter"]


async def _hang(request: web.Request, _: Provider, __: Reply, ___: Mapping[str, str]) -> web.StreamResponse:
    # aiohttp sets no event when a caller hangs up: its handler can only look.
    while not _hung_up(request):  # noqa: ASYNC110
        await asyncio.sleep(DRIP_S)
    return web.Response()


async def _drip(request: web.Request, _: Provider, __: Reply, headers: Mapping[str, str]) -> web.StreamResponse:
    response = await _begun(request, headers, content_length=100_000)
    while not _hung_up(request):
        # A space, so that what has come so far could still become JSON.
        await response.write(b" ")
        await asyncio.sleep(DRIP_S)
    return response


async def _half_body(request: web.Request, _: Provider, __: Reply, headers: Mapping[str, str]) -> web.StreamResponse:
    response = await _begun(request, headers, content_length=1_000)
    await response.write(b'{"model": "clau')
    if request.transport:
        request.transport.close()
    return response


async def _begun(request: web.Request, headers: Mapping[str, str], content_length: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "content-length": str(content_length)})
    response.content_type = "application/json"
    await response.prepare(request)
    return response


def _hung_up(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _wrong_json(request: web.Request, _: Provider, __: Reply, headers: Mapping[str, str]) -> web.StreamResponse:
    return await send_json(request, {"hello": "world"}, headers)


async def _refusal(
    request: web.Request, provider: Provider, reply: Reply, headers: Mapping[str, str]
) -> web.StreamResponse:
    body = _body(provider, reply)
    if provider == "anthropic":
        body |= {"content": [], "stop_reason": "refusal"}
    else:
        body["choices"][0]["message"] |= {"content": None, "refusal": "I can't help with that."}
    return await send_json(request, body, headers)


async def _content_filter(
    request: web.Request, provider: Provider, reply: Reply, headers: Mapping[str, str]
) -> web.StreamResponse:
    body = _body(provider, replace(reply, text=""))
    body["choices"][0]["finish_reason"] = "content_filter"
    return await send_json(request, body, headers)


async def _empty(
    request: web.Request, provider: Provider, reply: Reply, headers: Mapping[str, str]
) -> web.StreamResponse:
    body = _body(provider, replace(reply, text=""))
    if provider == "anthropic":
        body["content"] = []
    return await send_json(request, body, headers)


async def _wrong_model(
    request: web.Request, provider: Provider, reply: Reply, headers: Mapping[str, str]
) -> web.StreamResponse:
    other = "claude-opus-5-5" if provider == "anthropic" else "gpt-6.1-terra"
    return await send_json(request, _body(provider, replace(reply, model=other)), headers)


def _body(provider: Provider, reply: Reply) -> dict[str, Any]:
    return provider_side.reply_body(provider, reply)


@dataclass
class Script:
    """Faults by script: one step a call of the provider, where None is an answer. Past the end all are answered."""

    steps: dict[Provider, deque[MakeFault | None]] = field(
        default_factory=lambda: {"anthropic": deque(), "openai": deque()}
    )

    def __call__(self, provider: Provider) -> Fault | None:
        steps = self.steps[provider]
        make = steps.popleft() if steps else None
        return make(provider) if make else None

    @property
    def left(self) -> int:
        """Steps that no call has come for."""
        return sum(map(len, self.steps.values()))


class Drawn:
    """Faults by chance: `share` of all calls go wrong, the kinds in proportion to their weights."""

    def __init__(self, share: float, weights: Mapping[MakeFault, float], rng: random.Random, in_a_row: int = 3) -> None:
        """A rate limit turns away so many calls `in_a_row`, since real ones never stop at one."""
        self._makes, self._weights = list(weights), list(weights.values())
        self._in_a_row = in_a_row
        self._rng = rng
        self._bursts: dict[Provider, list[MakeFault]] = {"anthropic": [], "openai": []}
        mean = sum(w * self._length(m) for m, w in weights.items()) / sum(self._weights)
        self._chance = share / (share + mean * (1 - share))
        """That a burst begins where none goes on: a burst of one or several calls."""

    def __call__(self, provider: Provider) -> Fault | None:
        burst = self._bursts[provider]
        if not burst and self._rng.random() < self._chance:
            [make] = self._rng.choices(self._makes, self._weights)
            burst += [make] * self._length(make)
        return burst.pop()(provider) if burst else None

    def _length(self, make: MakeFault) -> int:
        return self._in_a_row if make is rate_limited else 1


def recordings(answers: Mapping[str, str]) -> Recordings:
    """Recorded answers by ticket body, for tests that bring their own tickets."""
    return Recordings(_example(number, body, answer) for number, (body, answer) in enumerate(answers.items(), 1))


def _example(number: int, body: str, answer: str) -> Example:
    return Example(
        ticket_id=f"e{number}",
        split="test",
        kind="complex",
        category="billing",
        intent="",
        number=0,
        channel="email",
        language="en",
        subject="",
        body=body,
        context=(),
        reference=answer,
        rubric=Rubric(states=(), forbids=(), numbers=frozenset()),
        wrong=(),
    )


@asynccontextmanager
async def frontier(recorded: Recordings, faults: Faults, **settings: Any) -> AsyncIterator[str]:
    """The recorded frontier, answering at once unless told otherwise; yields its address."""
    app = application(recorded, **{"latency_scale": 0.0, "requests_per_minute": None, "faults": faults, **settings})
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def ledger(base_url: str) -> dict[str, Any]:
    """The frontier's books."""
    async with httpx.AsyncClient(base_url=base_url, trust_env=False) as http:
        books: dict[str, Any] = (await http.get("ledger")).json()
        return books


@asynccontextmanager
async def self_signed_server() -> AsyncIterator[str]:
    """A TLS server that would answer everything with 200, if anybody trusted its certificate; yields its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Made for this by openssl; it is good for a hundred years and for nothing else.
    context.load_cert_chain(DATA / "untrusted.crt", DATA / "untrusted.key")

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    try:
        yield str(server.make_url("/"))
    finally:
        await server.close()
