"""The console and its JSON over HTTP, from the process that counts.

What is not in the tables (policy, spending, backlog) is read from Kafka when somebody asks, at most every few seconds
however many ask. Every answer is JSON, errors too.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from aiohttp import web
from aiokafka.errors import KafkaError
from msgspec import Struct

from schemas.codec import encode
from schemas.topics import EVENTS
from streams.scoreboard.application import Scoreboard
from streams.scoreboard.backlog import read_backlog
from streams.scoreboard.spend_view import read_spend
from streams.scoreboard.summary import SPANS_S, Summary, summary
from streams.scoreboard.views import AuditsView, Failure, JourneyView, PoliciesView
from streams.settings import Settings, SettingsError
from streams.topics import TopicsError

CONSOLE = Path(__file__).parent / "console.html"

POLICY_AGE_S = 10.0
"""As `headgate certify` looks at the labels; each look reads all of them."""
AGE_S = 3.0
"""Of what else is read when somebody asks."""
SUMMARY_AGE_S, DAY_AGE_S = 1.0, 10.0
"""A day of twelve categories on eight partitions takes more than a second to add up (measured)."""

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""The page is one file and loads nothing."""

LOADING = Failure(error="the tables are being read back from Kafka", state="loading")

T = TypeVar("T", bound=Struct)

log = structlog.get_logger()


class Kept(Generic[T]):
    """An answer that serves all who ask within `age_s`."""

    def __init__(self, read: Callable[[], Awaitable[T]], age_s: float) -> None:
        self._read, self._age_s = read, age_s
        self._lock = asyncio.Lock()
        self._answer: T | None = None
        self._read_s = 0.0

    async def get(self) -> T:
        """The answer, read anew if it is too old."""
        async with self._lock:
            if self._answer is None or time.monotonic() - self._read_s > self._age_s:
                self._answer = await self._read()
                self._read_s = time.monotonic()
            return self._answer


class Pages:
    """The paths and what they answer."""

    def __init__(self, scoreboard: Scoreboard, settings: Settings) -> None:
        self._scoreboard, self._settings = scoreboard, settings
        kafka = settings.kafka
        self._summaries = {
            span: Kept(partial(self._add_up, span), SUMMARY_AGE_S if length_s <= 3600 else DAY_AGE_S)
            for span, length_s in SPANS_S.items()
        }
        self._policies = Kept(self._read_policies, POLICY_AGE_S)
        self._spend = Kept(lambda: read_spend(settings), AGE_S)
        self._backlog = Kept(lambda: read_backlog(kafka), AGE_S)

    def application(self) -> web.Application:
        """The routes, for a server."""
        made = web.Application(middlewares=[_answering])
        made.router.add_get("/", self._console)
        made.router.add_get("/healthz", self._healthz)
        made.router.add_get("/api/summary", self._summary)
        made.router.add_get("/api/journey/{ticket_id}", self._journey)
        made.router.add_get("/api/audits", self._audits)
        made.router.add_get("/api/policy", self._of(self._policies))
        made.router.add_get("/api/spend", self._of(self._spend))
        made.router.add_get("/api/backlog", self._of(self._backlog))
        return made

    async def _read_policies(self) -> PoliciesView:
        # It brings scipy's distributions, seconds of a start for which nothing else has to wait.
        policy_view = await asyncio.to_thread(import_module, "streams.scoreboard.policy_view")
        found: PoliciesView = await policy_view.read_policies(self._settings)
        return found

    @staticmethod
    def _of(kept: Kept[T]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_: web.Request) -> web.Response:
            return _json(await kept.get())

        return answer

    async def _console(self, _: web.Request) -> web.Response:
        return web.Response(text=CONSOLE.read_text("utf-8"), content_type="text/html")

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self._scoreboard.is_loaded else _json(LOADING, 503)

    async def _summary(self, request: web.Request) -> web.Response:
        span = request.query.get("span", "1h")
        if span not in self._summaries:
            return _json(Failure(error=f"span must be one of {', '.join(self._summaries)}"), 400)
        if not self._scoreboard.is_loaded:
            return _json(LOADING, 503)
        return _json(await self._summaries[span].get())

    async def _add_up(self, span: str) -> Summary:
        board = self._scoreboard.board
        unreadable, repeated = board.left_out()
        # Taken now; added up beside the loop that counts.
        cells, labels, now_s = board.cells(), board.labels(), time.time()
        return await asyncio.to_thread(summary, cells, labels, span, now_s, unreadable, repeated)

    async def _journey(self, request: web.Request) -> web.Response:
        if not self._scoreboard.is_loaded:
            return _json(LOADING, 503)
        ticket_id = request.match_info["ticket_id"]
        events = self._scoreboard.board.journey(ticket_id, range(self._scoreboard.partitions_of(EVENTS)))
        if tenant := request.query.get("tenant"):
            events = tuple(event for event in events if event.tenant == tenant)
        if not events:
            return _json(Failure(error="no such ticket among those that are remembered"), 404)
        return _json(JourneyView(ticket_id=ticket_id, events=events))

    async def _audits(self, _: web.Request) -> web.Response:
        if not self._scoreboard.is_loaded:
            return _json(LOADING, 503)
        board = self._scoreboard.board
        waiting = board.audits_waiting()
        labels = dict.fromkeys(("judge", "rubric", "person"), 0)
        for label in board.labels():
            labels[label.source] = labels.get(label.source, 0) + 1
        oldest_s = max(0.0, time.time() - waiting[0].timestamp()) if waiting else None
        return _json(AuditsView(waiting=len(waiting), oldest_s=oldest_s, labels=labels))


def _json(answer: Struct, status: int = 200) -> web.Response:
    return web.Response(body=encode(answer), status=status, content_type="application/json")


@web.middleware
async def _answering(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Headers for all answers, and errors as JSON."""
    try:
        response = await handler(request)
    except web.HTTPException as exc:
        response = _json(Failure(error=exc.reason.lower()), exc.status)
    except (TopicsError, KafkaError, TimeoutError, OSError) as exc:
        response = _json(Failure(error=str(exc) or "Kafka did not answer in time"), 503)
    except ValueError as exc:
        # What is configured can't be: the same that stops `headgate certify` at its start.
        log.error("request_failed", path=request.path, error=str(exc))
        response = _json(Failure(error=str(exc)), 500)
    except Exception as exc:
        log.exception("request_failed", path=request.path)
        response = _json(Failure(error=f"a bug: {type(exc).__name__}; the scoreboard's log has more"), 500)
    response.headers.update(HEADERS)
    return response


@asynccontextmanager
async def serving(scoreboard: Scoreboard, settings: Settings) -> AsyncIterator[str]:
    """Serve while the block lasts; yields the address.

    Raises: SettingsError if host and port can't be used.
    """
    host, port = settings.scoreboard.host, settings.scoreboard.port
    runner = web.AppRunner(Pages(scoreboard, settings).application(), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as exc:
            raise SettingsError(
                f"scoreboard.host {host}, scoreboard.port {port} can't be used: {exc.strerror}"
            ) from exc
        yield f"http://{host}:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
