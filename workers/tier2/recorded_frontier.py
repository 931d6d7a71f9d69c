"""A server that speaks both providers' wire formats and replays recorded answers.

    python -m workers.tier2.recorded_frontier --port 8082 --company examples/fernway

For the demo and the tests: tier-2's client can't tell it from a provider, people
can: every response carries `x-headgate-recording: true` and the start says so.
POST /v1/messages, POST /v1/chat/completions, GET /health, GET /ledger.
"""

import argparse
import asyncio
import math
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from schemas.drafts import Usage
from workers.learning.company import load_company
from workers.tier2 import provider_side
from workers.tier2.prices import cost_micro_usd, price_of
from workers.tier2.provider_side import Asked, RefusedError, Reply
from workers.tier2.recording import CHARS_PER_TOKEN, PromptCache, RateLimit, Recordings, pace_of, tokens_in
from workers.tier2.wire import Provider

UNLIMITED_PER_MINUTE = 100_000
"""What the rate-limit headers say where no limit was asked for."""


@dataclass(slots=True)
class Calls:
    """What GET /ledger tells."""

    calls: int = 0
    answered: int = 0
    cost_micro_usd: int = 0


class RecordedFrontier:
    """The server's state and its two routes. Latency is real time times `latency_scale`."""

    def __init__(self, recordings: Recordings, latency_scale: float, requests_per_minute: int | None) -> None:
        self._recordings = recordings
        self._latency_scale = latency_scale
        self._limit = RateLimit(requests_per_minute or UNLIMITED_PER_MINUTE, time.monotonic())
        self._cache = PromptCache()
        self.calls = Calls()

    def route(self, provider: Provider) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler of one provider's route."""

        async def handle(request: web.Request) -> web.Response:
            self.calls.calls += 1
            request_id = f"req_{uuid.uuid4().hex}"
            try:
                provider_side.authenticate(provider, request.headers)
                self._admit()
                reply = await self._reply(provider, provider_side.read(provider, await request.read()))
                status, body, extra = 200, provider_side.reply_body(provider, reply), {}
            except RefusedError as exc:
                status, body = exc.status, provider_side.error_body(provider, exc, request_id)
                extra = {} if exc.retry_after_s is None else {"retry-after": str(math.ceil(exc.retry_after_s))}
            headers = provider_side.headers(provider, request_id, self._limit, datetime.now(UTC))
            return web.json_response(body, status=status, headers=headers | extra)

        return handle

    def _admit(self) -> None:
        wait_s = self._limit.take(time.monotonic())
        if wait_s > 0:
            message = f"The recording's limit of {self._limit.per_minute} requests per minute is reached."
            raise RefusedError("rate_limit_error", message, code="rate_limit_exceeded", retry_after_s=wait_s)

    async def _reply(self, provider: Provider, asked: Asked) -> Reply:
        _check_model(provider, asked.model)
        example = self._recordings.find(asked.user)
        if example is None:
            raise RefusedError("not_found_error", "no recording for this ticket", code="no_recording")
        text = example.reference[: asked.max_tokens * CHARS_PER_TOKEN]
        usage = self._usage(provider, asked, text)
        await asyncio.sleep(pace_of(example.ticket_id).seconds(usage.completion_tokens) * self._latency_scale)
        self.calls.answered += 1
        self.calls.cost_micro_usd += cost_micro_usd(asked.model, usage)
        complete = len(text) == len(example.reference)
        return Reply(uuid.uuid4().hex, asked.model, text, complete, usage, created_s=int(time.time()))

    def _usage(self, provider: Provider, asked: Asked, text: str) -> Usage:
        system_tokens = tokens_in(asked.system)
        in_cache = self._cache.read(asked.model, asked.system, time.monotonic())
        # OpenAI caches in steps of 128 tokens and doesn't report what it writes.
        cached_tokens = system_tokens if provider == "anthropic" else system_tokens // 128 * 128
        return Usage(
            prompt_tokens=system_tokens + tokens_in(asked.user),
            completion_tokens=tokens_in(text),
            cached_tokens=cached_tokens if in_cache else 0,
            cache_write_tokens=system_tokens if in_cache is False and provider == "anthropic" else 0,
        )


def _check_model(provider: Provider, model: str) -> None:
    try:
        known = price_of(model).provider == provider
    except ValueError:
        known = False
    if not known:
        raise RefusedError("not_found_error", f"model: {model}", code="model_not_found")


def application(recordings: Recordings, *, latency_scale: float, requests_per_minute: int | None) -> web.Application:
    """The server as an aiohttp application."""
    frontier = RecordedFrontier(recordings, latency_scale, requests_per_minute)

    async def ledger(_: web.Request) -> web.Response:
        calls = frontier.calls
        return web.json_response(
            {"calls": calls.calls, "answered": calls.answered, "cost_micro_usd": calls.cost_micro_usd}
        )

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "recording": True, "recorded_answers": len(recordings)})

    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/messages", frontier.route("anthropic")),
            web.post("/v1/chat/completions", frontier.route("openai")),
            web.get("/ledger", ledger),
            web.get("/health", health),
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
    parser.add_argument("--requests-per-minute", type=int, help="answer 429 past this rate; no limit by default")
    args = parser.parse_args(arguments)
    try:
        recordings = Recordings(load_company(args.company).examples)
        app = application(recordings, latency_scale=args.latency_scale, requests_per_minute=args.requests_per_minute)
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
