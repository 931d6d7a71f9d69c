"""A server that speaks both providers' wire formats and replays recorded answers.

    python -m workers.tier2.recorded_frontier --port 8082 --company examples/fernway

For the demo and the tests: tier-2's client can't tell it from a provider, people
can: every response carries `x-headgate-recording: true` and the start says so.
It enforces rate limits and keeps books as a provider does. Asked as a judge, it
grades by the ticket's rubric. POST /v1/messages, POST /v1/chat/completions and
both batch interfaces (recorded_batches.py), GET /v1/models/NAME, GET /health,
GET /ledger; PUT /limits for tests.
"""

import argparse
import asyncio
import math
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from aiohttp import web

from workers.learning.company import load_company
from workers.tier2 import provider_side
from workers.tier2.enforced_limits import USUAL_BURST_S, EnforcedLimits, LimitsPerMinute, Window, asked_of, used_by
from workers.tier2.frontier_ledger import FrontierLedger
from workers.tier2.prices import Price
from workers.tier2.provider_side import Asked, RefusedError, Reply
from workers.tier2.recorded_answers import RecordedAnswers, no_recording
from workers.tier2.recorded_batches import BatchFaults, RecordedBatches, no_batch_faults
from workers.tier2.recording import Recordings, pace_of
from workers.tier2.wire import Provider


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A response other than the answer that was made, and is charged."""

    delivered: bool
    """Whether the caller learns what the answer used."""
    send: Callable[[web.Request, Provider, Reply, Mapping[str, str]], Awaitable[web.StreamResponse]]
    """Writes the whole response; the last argument is its headers."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one call: it is turned away before any work, or its response is spoiled."""

    name: str
    outcome: RefusedError | Spoiled


MAX_BODY_BYTES = 256 * 1024 * 1024
"""Anthropic's limit for a batch."""
Faults = Callable[[Provider], Fault | None]
"""Asked at every call; None lets it be answered."""


def no_faults(_: Provider) -> Fault | None:
    """Every call is answered."""
    return None


class RecordedFrontier:
    """The server's state and its routes. Latency is real time times `latency_scale`."""

    def __init__(
        self, recordings: Recordings, limits: LimitsPerMinute, burst_s: float, latency_scale: float, faults: Faults
    ) -> None:
        now_s = time.monotonic()
        self.answers = RecordedAnswers(recordings)
        self.books = FrontierLedger()
        self._latency_scale = latency_scale
        self._limits: dict[Provider, EnforcedLimits] = {
            "anthropic": EnforcedLimits("anthropic", limits, burst_s, now_s),
            "openai": EnforcedLimits("openai", limits, burst_s, now_s),
        }
        self._faults = faults

    def route(self, provider: Provider) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of one provider's route."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.books.calls += 1
            self.books.open += 1
            try:
                return await self._respond(request, provider, f"req_{uuid.uuid4().hex}")
            finally:
                self.books.open -= 1

        return handle

    async def _respond(self, request: web.Request, provider: Provider, request_id: str) -> web.StreamResponse:
        try:
            provider_side.authenticate(provider, request.headers)
            asked = provider_side.read(provider, await request.read())
            price = self.answers.price(provider, asked.model)
            spoiled = self._fault(provider)
            begun = self._begin(provider, asked, price)
        except RefusedError as exc:
            return self._refusal(provider, exc, request_id)
        return await self._finish(request, provider, begun, spoiled, request_id)

    async def model(self, request: web.Request) -> web.Response:
        """Whether a model is sold here; free, and in no book."""
        provider: Provider = "anthropic" if "x-api-key" in request.headers else "openai"
        name = request.match_info["name"]
        try:
            provider_side.authenticate(provider, request.headers)
            self.answers.price(provider, name)
        except RefusedError as exc:
            return self._refusal(provider, exc, f"req_{uuid.uuid4().hex}")
        return web.json_response({"id": name})

    async def health(self, _: web.Request) -> web.Response:
        """What is served."""
        return web.json_response({"status": "ok", "recording": True, "recorded_answers": len(self.answers)})

    async def ledger(self, _: web.Request) -> web.Response:
        """The books."""
        return web.json_response(self.books.plain())

    async def change_limits(self, request: web.Request) -> web.Response:
        """Other limits for both providers from now on; one that is left out is lifted."""
        try:
            limits = msgspec.json.decode(await request.read(), type=LimitsPerMinute)
        except msgspec.DecodeError as exc:
            return web.json_response({"error": str(exc)}, status=400)
        for enforced in self._limits.values():
            enforced.change(limits, time.monotonic())
        return web.json_response(msgspec.to_builtins(limits))

    def _fault(self, provider: Provider) -> Spoiled | None:
        fault = self._faults(provider)
        if fault is None:
            return None
        self.books.faults[fault.name] += 1
        if isinstance(fault.outcome, RefusedError):
            raise fault.outcome
        return fault.outcome

    def _headers(self, provider: Provider, request_id: str) -> dict[str, str]:
        states = self._limits[provider].states(time.monotonic())
        return provider_side.headers(provider, request_id, states, datetime.now(UTC))

    def _refusal(self, provider: Provider, refused: RefusedError, request_id: str) -> web.Response:
        self.books.rate_limited += refused.status == 429
        headers = self._headers(provider, request_id)
        if refused.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(refused.retry_after_s))
        body = provider_side.error_body(provider, refused, request_id)
        return web.json_response(body, status=refused.status, headers=headers)

    def _begin(self, provider: Provider, asked: Asked, price: Price) -> "_Begun":
        """Find the answer and take the call's share of the limits. Raises: RefusedError."""
        answer = self.answers.answer(provider, asked)
        reply, usage = answer.reply, answer.reply.usage
        taken = asked_of(provider, usage, asked.max_tokens)
        limits = self._limits[provider]
        if exceeded := limits.admit(taken, time.monotonic()):
            raise RefusedError(
                "rate_limit_error",
                f"The recording's limit of {exceeded.per_minute} {exceeded.window} per minute is reached.",
                code="rate_limit_exceeded",
                retry_after_s=exceeded.wait_s,
            )
        if answer.ticket_id is None:
            limits.correct(taken, {"requests": 1}, time.monotonic())
            raise no_recording()
        duration_s = pace_of(answer.ticket_id).seconds(usage.completion_tokens) * self._latency_scale
        return _Begun(reply, price.cost_micro_usd(usage), taken, duration_s)

    async def _finish(
        self, request: web.Request, provider: Provider, begun: "_Begun", spoiled: Spoiled | None, request_id: str
    ) -> web.StreamResponse:
        """Take the time it takes, write the whole response, book it: a caller can know only what was written."""
        reply, used, delivered = begun.reply, used_by(provider, begun.reply.usage), False
        try:
            await asyncio.sleep(begun.duration_s)
            self._limits[provider].correct(begun.taken, used, time.monotonic())
            headers = self._headers(provider, request_id)
            if spoiled:
                response = await spoiled.send(request, provider, reply, headers)
            else:
                response = await send_json(request, provider_side.reply_body(provider, reply), headers)
            # Bytes for a caller who has hung up are dropped without an error.
            hung_up = request.transport is None or request.transport.is_closing()
            delivered = not hung_up and (spoiled is None or spoiled.delivered)
        finally:
            # A caller who hangs up, which ends the handler with an exception, is charged: the work has begun.
            self.books.charge(reply.model, "delivered" if delivered else "broken", begun.cost_micro_usd, used)
        return response


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call that was let in."""

    reply: Reply
    cost_micro_usd: int
    taken: Mapping[Window, int]
    """From the limits, until what it uses is known."""
    duration_s: float


async def send_json(request: web.Request, body: object, headers: Mapping[str, str]) -> web.StreamResponse:
    """Write a whole 200 response. Raises: ConnectionError if the caller has hung up."""
    response = web.json_response(body, headers=headers)
    await response.prepare(request)
    await response.write_eof()
    return response


def application(
    recordings: Recordings,
    *,
    latency_scale: float,
    requests_per_minute: int | None,
    tokens_per_minute: int | None = None,
    output_tokens_per_minute: int | None = None,
    burst_s: float = USUAL_BURST_S,
    faults: Faults = no_faults,
    batch_s: float = 10.0,
    batch_faults: BatchFaults = no_batch_faults,
) -> web.Application:
    """The server as an aiohttp application; a batch ends after `batch_s`."""
    limits = LimitsPerMinute(requests_per_minute, tokens_per_minute, output_tokens_per_minute)
    frontier = RecordedFrontier(recordings, limits, burst_s, latency_scale, faults)
    batches = RecordedBatches(frontier.answers, frontier.books, batch_s, batch_faults)
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            *batches.routes(),
            web.post("/v1/messages", frontier.route("anthropic")),
            web.post("/v1/chat/completions", frontier.route("openai")),
            web.get("/v1/models/{name}", frontier.model),
            web.put("/limits", frontier.change_limits),
            web.get("/ledger", frontier.ledger),
            web.get("/health", frontier.health),
        ]
    )
    app.on_response_prepare.append(_mark)
    return app


async def _mark(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-headgate-recording"] = "true"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Replays recorded frontier answers in both providers' wire formats")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--company", type=Path, required=True, help="the folder whose reference answers are replayed")
    parser.add_argument("--latency-scale", type=float, default=1.0, help="times the usual latency; 0 answers at once")
    parser.add_argument("--batch-s", type=float, default=10.0, help="seconds until a batch has ended")
    parser.add_argument("--requests-per-minute", type=int, help="answer 429 past this rate; no limit by default")
    parser.add_argument("--tokens-per-minute", type=int, help="answer 429 past this rate; no limit by default")
    args = parser.parse_args(arguments)
    try:
        recordings = Recordings(load_company(args.company).examples)
        app = application(
            recordings,
            latency_scale=args.latency_scale,
            requests_per_minute=args.requests_per_minute,
            tokens_per_minute=args.tokens_per_minute,
            batch_s=args.batch_s,
        )
        notice = (
            f"RECORDING on {args.host}:{args.port}: replays {len(recordings)} answers "
            "written by the project's authors; they come from no provider, and no provider is called."
        )
        # aiohttp calls `print` once it listens: whoever waits for the line can connect.
        web.run_app(
            app,
            host=args.host,
            port=args.port,
            print=lambda _: print(notice, flush=True),
            shutdown_timeout=1.0,
        )
    except (OSError, ValueError) as exc:
        sys.exit(f"recorded frontier: {exc}")


if __name__ == "__main__":
    main()
